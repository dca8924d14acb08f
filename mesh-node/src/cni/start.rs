//! Brings up what the plugin needs, in an order in which no pod is answered wrongly.

use std::path::Path;

use tokio::sync::watch;
use tracing::{error, warn};

use super::keeper::{self, Installed};
use super::server::Server;
use super::{Config, meshed};

/// Serves the CNI plugin, and installs it once the pods' manager knows enough to answer it.
pub fn start(config: Config, server: Server, run_dir: &Path) -> Installed {
    let (report, installed) = watch::channel(Err("the control stream has not been read once".to_owned()));
    let (plugin, mut snapshot, pods) = (config.plugin(run_dir), server.snapshot.clone(), server.views.clone());
    let socket = server.socket.clone();
    if let Err(error) = server.start() {
        error!(%error, socket = %socket.display(), "the CNI plugin's socket; new pods of the mesh cannot start");
        let _ = report.send_replace(Err(format!("{}: {error}", socket.display())));
        return installed;
    }
    let run_dir = run_dir.to_owned();
    tokio::spawn(async move {
        // The file of namespaces is there before the plugin is: without, it takes the mesh for gone.
        let first = snapshot.wait_for(Option::is_some).await.map(|first| first.clone());
        let Ok(Some(first)) = first else { return };
        let written = meshed::write(&plugin.meshed, &first).map_err(|error| format!("{error:#}"));
        let started = written.and_then(|()| {
            let started = keeper::start(config, &run_dir, pods.clone(), report.clone());
            started.map_err(|error| error.to_string())
        });
        if let Err(why) = started {
            warn!(why, "the CNI plugin cannot be installed");
            let _ = report.send_replace(Err(why));
        }
        meshed::keep(plugin.meshed, snapshot, pods).await;
    });
    installed
}

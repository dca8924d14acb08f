//! Keeps the plugin installed: looks whenever something changes in the runtime's folders, and every few seconds.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inotify::{Inotify, WatchMask};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Config, PROGRAM, install};
use crate::pods::PodsView;

/// How often it is looked at when nothing is heard of a change, in milliseconds.
const LOOK: u16 = 3000;
/// Who changes a file may change it again.
const SETTLE: Duration = Duration::from_millis(50);

/// Whether the plugin is in place, and if not, why.
pub type Installed = watch::Receiver<Result<(), String>>;

/// Starts the keeper on a thread of its own. It ends when another agent has the pods, which has a keeper too.
///
/// # Errors
/// The process may have no more threads, or its own program cannot be found.
pub fn start(
    config: Config,
    run_dir: &Path,
    pods: watch::Receiver<PodsView>,
    installed: watch::Sender<Result<(), String>>,
) -> io::Result<()> {
    let program = std::env::current_exe()?.with_file_name(PROGRAM);
    let plugin = serde_json::to_string(&config.plugin(run_dir))?;
    std::thread::Builder::new().name("cni".to_owned()).spawn(move || {
        let mut inotify =
            Inotify::init().inspect_err(|error| warn!(%error, "changes of the CNI configuration are seen late"));
        while !installed.is_closed() && !pods.borrow().superseded {
            if let Ok(inotify) = &mut inotify {
                watch_folders(inotify, [&config.conf_dir, &config.bin_dir]);
            }
            let done = install(&config, &program, &plugin).map_err(|error| error.to_string());
            if let Err(why) = &done
                && installed.borrow().as_ref().err() != Some(why)
            {
                warn!(why, "the CNI plugin is not in place; new pods may start before they are in the mesh");
            }
            let _ = installed.send_replace(done);
            wait(inotify.as_mut().ok());
        }
    })?;
    Ok(())
}

fn install(config: &Config, program: &Path, plugin: &str) -> Result<(), install::InstallError> {
    if install::place(program, &config.bin_dir)? {
        info!(folder = %config.bin_dir.display(), "CNI plugin copied");
    }
    let (file, is_changed) = install::configure(&config.conf_dir, plugin)?;
    if is_changed {
        info!(file = %file.display(), "CNI plugin inserted");
    }
    Ok(())
}

/// Again each time, because a folder may have come to be, or be another one.
fn watch_folders(inotify: &mut Inotify, folders: [&PathBuf; 2]) {
    let changes =
        WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::MOVED_FROM | WatchMask::DELETE | WatchMask::ONLYDIR;
    for folder in folders {
        let _ = inotify.watches().add(folder, changes);
    }
}

fn wait(inotify: Option<&mut Inotify>) {
    let Some(inotify) = inotify else { return std::thread::sleep(Duration::from_millis(LOOK.into())) };
    let mut ready = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
    match poll(&mut ready, PollTimeout::from(LOOK)) {
        Ok(0) => {}
        Ok(_) => {
            std::thread::sleep(SETTLE);
            // What they say does not matter: everything is looked at.
            let mut buffer = [0; 4096];
            while inotify.read_events(&mut buffer).is_ok_and(|mut events| events.next().is_some()) {}
        }
        Err(_) => std::thread::sleep(SETTLE),
    }
}

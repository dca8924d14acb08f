//! The folder source: a directory of Kubernetes YAML and JSON, watched by inotify.
//!
//! ```text
//! inotify -> Burst (which paths, or everything) -> scan (stat, read) -> Folder::update -> batch of events
//! ```
//! A file that somebody is writing is left alone until it is closed, so that half of it is not taken for the whole. Names
//! that begin with a dot are not read: editors' own files, and the `..data` directories behind a mounted ConfigMap, whose
//! files appear as links under their plain names.

mod scan;
mod remembered;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

use super::folder::is_manifest;
use super::{Event, Severity};
pub use crate::yaml::Limits;
use scan::{Scanner, Wanted};

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
    /// A folder of the controller's own, in which each file's last good content outlives a restart.
    pub remember: Option<PathBuf>,
}

impl Config {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            settle: Duration::from_millis(5),
            writing: Duration::from_millis(500),
            rescan: Duration::from_secs(30),
            limits: Limits::default(),
            remember: None,
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
    let path = config.path.clone();
    let no_inotify = |source| WatchError::Inotify { path: path.clone(), source };
    // Room for a few hundred events a read; the kernel queues 16,384 (fs.inotify.max_queued_events) and says when it
    // dropped any.
    let stream = Inotify::init().and_then(|i| i.into_event_stream(vec![0; 64 << 10])).map_err(no_inotify)?;
    if let Err(source) = std::fs::metadata(&config.path) {
        return Err(WatchError::Read { path: config.path, source });
    }
    let scanner = Scanner::new(&config, stream.watches());
    let watcher = Watcher { config, stream, writing: BTreeMap::new(), scanner: Some(scanner) };
    watcher.run(events).await
}

struct Watcher {
    config: Config,
    stream: EventStream<Vec<u8>>,
    /// Files that somebody writes to, with when to read them if nobody closes them.
    writing: BTreeMap<PathBuf, Instant>,
    /// Lent to a blocking thread during a scan.
    scanner: Option<Scanner>,
}

impl Watcher {
    async fn run(mut self, events: mpsc::Sender<Vec<Event>>) -> Result<(), WatchError> {
        let mut batch = self.scan(Wanted::everything()).await;
        batch.push(Event::InitialSynced);
        info!(path = %self.config.path.display(), events = batch.len(), "folder read");
        loop {
            log(&batch);
            if !batch.is_empty() && events.send(batch).await.is_err() {
                return Ok(());
            }
            self.lend(Scanner::remember).await;
            let wanted = tokio::select! {
                wanted = self.wanted() => wanted?,
                () = events.closed() => return Ok(()),
            };
            batch = self.scan(wanted).await;
        }
    }

    /// Waits for something to look at, and for the end of the burst that it came in.
    async fn wanted(&mut self) -> Result<Wanted, WatchError> {
        // What could not be read, or watched, is tried again soon.
        let troubled = self.scanner.as_ref().is_some_and(Scanner::is_troubled);
        let rescan = Instant::now() + if troubled { self.config.rescan.min(RETRY) } else { self.config.rescan };
        let mut wanted = Wanted::default();
        let mut settled = None;
        loop {
            let until = settled.unwrap_or_else(|| self.writing.values().min().map_or(rescan, |w| rescan.min(*w)));
            match timeout_at(until, self.stream.next()).await {
                Ok(Some(Ok(event))) => {
                    self.note(&event, &mut wanted);
                    // From the first event on: a steady stream of them does not put the reading off.
                    if settled.is_none() && !wanted.is_empty() {
                        settled = Some(Instant::now() + self.config.settle);
                    }
                }
                Ok(Some(Err(error))) => {
                    warn!(%error, "inotify failed; everything is looked at again");
                    sleep_until(Instant::now() + Duration::from_millis(100)).await;
                    wanted.all = true;
                    return Ok(wanted);
                }
                Ok(None) => {
                    let source = io::Error::other("the event stream ended");
                    return Err(WatchError::Inotify { path: self.config.path.clone(), source });
                }
                Err(_) => {
                    let now = Instant::now();
                    let overdue: BTreeSet<PathBuf> =
                        self.writing.iter().filter(|(_, due)| **due <= now).map(|(path, _)| path.clone()).collect();
                    self.writing.retain(|path, _| !overdue.contains(path));
                    wanted.paths.extend(overdue);
                    wanted.all |= now >= rescan;
                    wanted.paths.retain(|path| !self.writing.contains_key(path));
                    if !wanted.is_empty() {
                        wanted.except = self.writing.keys().cloned().collect();
                        return Ok(wanted);
                    }
                    settled = None;
                }
            }
        }
    }

    fn note(&mut self, event: &EventOwned, wanted: &mut Wanted) {
        let directory = self.scanner.as_ref().and_then(|scanner| scanner.watched(&event.wd));
        let (Some(directory), Some(name)) = (directory, &event.name) else {
            // The queue overflowed, a watched directory went, or a place is watched only because links lead there.
            wanted.all |= !event.mask.intersects(EventMask::IGNORED | EventMask::MODIFY);
            return;
        };
        let path = directory.join(name);
        if event.mask.contains(EventMask::ISDIR) || !is_manifest(&path) {
            // A link swap (`..data`) is no directory to inotify, and a renamed directory may hold anything.
            let quiet = EventMask::MODIFY | EventMask::CLOSE_WRITE | EventMask::ATTRIB;
            let hidden_file = !event.mask.contains(EventMask::ISDIR) && !is_link_swap(&path);
            wanted.all |= !event.mask.intersects(quiet) && !hidden_file;
            return;
        }
        let is_begun = event.mask.contains(EventMask::CREATE) && is_fresh(&path);
        if is_begun || event.mask.contains(EventMask::MODIFY) {
            self.writing.insert(path, Instant::now() + self.config.writing);
        } else {
            self.writing.remove(&path);
            wanted.paths.insert(path);
        }
    }

    async fn scan(&mut self, wanted: Wanted) -> Vec<Event> {
        self.lend(move |scanner| scanner.scan(&wanted)).await
    }

    /// Has the scanner do something on a thread that may wait for the disk.
    async fn lend<T: Default + Send + 'static>(&mut self, work: impl FnOnce(&mut Scanner) -> T + Send + 'static) -> T {
        let Some(mut scanner) = self.scanner.take() else { return T::default() };
        let work = tokio::task::spawn_blocking(move || {
            let done = work(&mut scanner);
            (scanner, done)
        });
        // One that panics would be a defect of ours; the files are read anew from nothing then.
        match work.await {
            Ok((scanner, done)) => {
                self.scanner = Some(scanner);
                done
            }
            Err(error) => {
                warn!(%error, "reading the folder failed");
                self.scanner = Some(Scanner::new(&self.config, self.stream.watches()));
                T::default()
            }
        }
    }
}

/// Created by opening it for writing: its closing will be told. Links, hard or symbolic, come complete.
fn is_fresh(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.nlink() == 1)
}

/// Kubernetes swaps a mounted ConfigMap's content by renaming a link over `..data`.
fn is_link_swap(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".."))
        || std::fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink())
}

fn log(batch: &[Event]) {
    for event in batch {
        let Event::Findings(findings) = event else { continue };
        for finding in findings.iter().filter(|f| f.severity != Severity::Info) {
            warn!(%finding, "source finding");
        }
    }
}

const RETRY: Duration = Duration::from_secs(1);

/// Directories under watch, by inotify's descriptor.
type Watched = std::collections::HashMap<WatchDescriptor, Option<PathBuf>>;

#[cfg(test)]
mod tests;

//! Looking at the folder: which files there are, which of them differ, and what they hold.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use inotify::{WatchDescriptor, WatchMask, Watches};

use super::super::folder::{Content, Folder, is_manifest};
use super::super::{Code, Event, Finding, Severity};
use super::remembered::Remembered;
use super::{Config, Watched};
use crate::yaml::Limits;

/// What a scan is to look at.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) all: bool,
    /// To be read whatever their size and time say.
    pub(super) paths: BTreeSet<PathBuf>,
    /// Being written: not to be looked at yet.
    pub(super) except: BTreeSet<PathBuf>,
}

impl Wanted {
    pub(super) fn everything() -> Self {
        Self { all: true, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.all && self.paths.is_empty()
    }
}

/// What tells a changed file from an unchanged one without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(m: &Metadata) -> Self {
        Self { device: m.dev(), inode: m.ino(), size: m.size(), modified: (m.mtime(), m.mtime_nsec()) }
    }
}

pub(super) struct Scanner {
    root: PathBuf,
    limits: Limits,
    watches: Watches,
    watched: Watched,
    stamps: BTreeMap<PathBuf, Stamp>,
    folder: Folder,
    remembered: Remembered,
    /// What the last scans found, until it is remembered.
    found: Vec<(PathBuf, Content)>,
    /// Files may hold less than when the controller last ran.
    first: bool,
}

impl Scanner {
    pub(super) fn new(config: &Config, watches: Watches) -> Self {
        Self {
            root: config.path.clone(),
            limits: config.limits,
            watches,
            watched: Watched::new(),
            stamps: BTreeMap::new(),
            folder: Folder::new(config.limits),
            remembered: Remembered::at(config.remember.clone()),
            found: Vec::new(),
            first: true,
        }
    }

    /// The directory that an event is about; `None` when it is not told apart (links lead there).
    pub(super) fn watched(&self, descriptor: &WatchDescriptor) -> Option<&PathBuf> {
        self.watched.get(descriptor)?.as_ref()
    }

    pub(super) fn is_troubled(&self) -> bool {
        !self.folder.trouble.is_empty()
    }

    pub(super) fn scan(&mut self, wanted: &Wanted) -> Vec<Event> {
        let mut found = Vec::new();
        let mut look_at = wanted.paths.clone();
        if wanted.all {
            let mut walk = Walk::default();
            self.walk(&self.root.clone(), &mut walk);
            // Where a directory could not be read, nothing is known to be gone.
            let lost = |path: &Path| !walk.files.contains(path) && !walk.unread.iter().any(|d| path.starts_with(d));
            let gone: Vec<PathBuf> = self.folder.paths().filter(|path| lost(path)).cloned().collect();
            look_at.extend(gone);
            look_at.extend(walk.files);
            self.folder.trouble = walk.trouble;
        }
        for path in look_at {
            if wanted.except.contains(&path) {
                continue;
            }
            let forced = wanted.paths.contains(&path);
            if let Some(content) = self.look(&path, forced) {
                found.push((path, content));
            }
        }
        let mut events = self.folder.update(&found);
        if std::mem::take(&mut self.first) {
            events.extend(self.recall(&found));
        }
        self.found.extend(found);
        events
    }

    /// What is not good as a whole is read once more, after what it said when the controller last ran.
    fn recall(&mut self, found: &[(PathBuf, Content)]) -> Vec<Event> {
        if !self.is_troubled() {
            self.remembered.forget_all_but(self.folder.paths());
        }
        let (mut before, mut again) = (Vec::new(), Vec::new());
        for (path, content) in found {
            if !self.folder.is_whole(path)
                && let Some(bytes) = self.remembered.recall(path)
            {
                before.push((path.clone(), Content::Bytes(bytes)));
                again.push((path.clone(), content.clone()));
            }
        }
        let mut events = self.folder.update(&before);
        events.extend(self.folder.update(&again));
        events
    }

    /// Keeps what was found for the next start. It waits for the disk: to be called when the events are on their way.
    pub(super) fn remember(&mut self) {
        for (path, content) in self.found.drain(..) {
            match content {
                Content::Bytes(bytes) if self.folder.is_whole(&path) => self.remembered.keep(&path, &bytes),
                Content::Gone => self.remembered.forget(&path),
                Content::Bytes(_) | Content::Unreadable(_) => {}
            }
        }
    }

    /// What is at `path`, unless it is what was there before.
    fn look(&mut self, path: &Path, forced: bool) -> Option<Content> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata,
            // A link to nowhere is a file that is gone, and so is a directory in its place.
            Ok(_) => return self.gone(path),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return self.gone(path);
            }
            Err(error) => return Some(Content::Unreadable(error.to_string())),
        };
        let stamp = Stamp::from(&metadata);
        if !forced && self.stamps.get(path) == Some(&stamp) {
            return None;
        }
        if metadata.len() > self.limits.file_bytes {
            self.stamps.insert(path.to_owned(), stamp);
            let message = format!("{} bytes; at most {} are read", metadata.len(), self.limits.file_bytes);
            return Some(Content::Unreadable(message));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
        let read = fs::File::open(path).and_then(|f| f.take(self.limits.file_bytes).read_to_end(&mut bytes));
        match read {
            Ok(_) => {
                self.stamps.insert(path.to_owned(), stamp);
                Some(Content::Bytes(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.gone(path),
            // Without a stamp, so that the next scan tries again.
            Err(error) => Some(Content::Unreadable(error.to_string())),
        }
    }

    fn gone(&mut self, path: &Path) -> Option<Content> {
        self.stamps.remove(path);
        Some(Content::Gone)
    }

    fn walk(&mut self, path: &Path, walk: &mut Walk) {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if path == self.root => return walk.unreadable(path, &error),
            Err(_) => return,
        };
        if let Ok(link) = fs::symlink_metadata(path)
            && link.is_symlink()
        {
            self.watch_target(path, walk);
        }
        if metadata.is_file() {
            if path == self.root {
                self.watch_parent(path, walk);
            }
            if path == self.root || is_manifest(path) {
                walk.files.insert(path.to_owned());
            }
            return;
        }
        // A directory seen twice is a loop of links, or reached by two paths; its files count once.
        if !metadata.is_dir() || !walk.directories.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        // Watched first, read second: what appears in between is told by an event.
        self.watch(path, Some(path), walk);
        let entries = match fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(error) => return walk.unreadable(path, &error),
        };
        let mut names: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
        names.sort();
        for entry in names {
            let hidden = entry.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if !hidden {
                self.walk(&entry, walk);
            }
        }
    }

    /// Edits behind a link are told where the file is, not where the link is.
    fn watch_target(&mut self, link: &Path, walk: &mut Walk) {
        if let Ok(target) = fs::canonicalize(link)
            && let Some(parent) = target.parent()
        {
            self.watch(parent, None, walk);
        }
    }

    fn watch_parent(&mut self, file: &Path, walk: &mut Walk) {
        let parent = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        self.watch(&parent, None, walk);
    }

    fn watch(&mut self, directory: &Path, known_as: Option<&Path>, walk: &mut Walk) {
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::MODIFY
            | WatchMask::ATTRIB
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        match self.watches.add(directory, mask) {
            Ok(descriptor) => {
                // The same directory under a second name is not told apart, or under the one it moved to.
                let name = self.watched.entry(descriptor).or_insert_with(|| known_as.map(Path::to_owned));
                if let (Some(known_as), Some(old)) = (known_as, name.as_ref())
                    && old != known_as
                {
                    *name = if old.exists() { None } else { Some(known_as.to_owned()) };
                } else if known_as.is_none() {
                    *name = None;
                }
            }
            Err(error) => walk.trouble.push(trouble(directory, format!("no watch, only rescans: {error}"))),
        }
    }
}

#[derive(Default)]
struct Walk {
    files: BTreeSet<PathBuf>,
    directories: HashSet<(u64, u64)>,
    unread: Vec<PathBuf>,
    trouble: Vec<Finding>,
}

impl Walk {
    fn unreadable(&mut self, path: &Path, error: &io::Error) {
        if error.kind() == io::ErrorKind::NotFound && !self.files.is_empty() {
            return;
        }
        self.unread.push(path.to_owned());
        self.trouble.push(trouble(path, format!("{error}; what it said before stays in force")));
    }
}

fn trouble(path: &Path, message: String) -> Finding {
    Finding {
        severity: Severity::Error,
        code: Code::Unreadable,
        object: None,
        file: Some(path.to_owned()),
        line: None,
        field: None,
        message,
    }
}

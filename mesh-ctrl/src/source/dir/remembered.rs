//! What each file said when it was last good as a whole, kept across restarts: a controller that starts while somebody's edit
//! is broken would otherwise take away what the file held, a DENY among it.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use tracing::warn;

use crate::durable;

/// A folder of copies, each under the hash of its file's path; none if the state has no place.
#[derive(Debug, Default)]
pub(super) struct Remembered(Option<PathBuf>);

impl Remembered {
    /// Makes the folder, readable for its owner alone. Without it files are read all the same.
    pub(super) fn at(folder: Option<PathBuf>) -> Self {
        let Some(folder) = folder else { return Self(None) };
        match fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder) {
            Ok(()) => Self(Some(folder)),
            Err(error) => {
                warn!(folder = %folder.display(), %error, "good content is not kept for the next start");
                Self(None)
            }
        }
    }

    pub(super) fn recall(&self, path: &Path) -> Option<Vec<u8>> {
        fs::read(self.copy_of(path)?).ok()
    }

    /// Keeps `content`, which is good as a whole.
    pub(super) fn keep(&self, path: &Path, content: &[u8]) {
        let Some(copy) = self.copy_of(path) else { return };
        if fs::read(&copy).is_ok_and(|kept| kept == content) {
            return;
        }
        if let Err(error) = durable::replace(&copy, content, 0o600) {
            warn!(file = %path.display(), %error, "good content is not kept for the next start");
        }
    }

    /// The file is gone, and what it said with it.
    pub(super) fn forget(&self, path: &Path) {
        if let Some(copy) = self.copy_of(path) {
            // Not there, as a rule.
            let _ = fs::remove_file(copy);
        }
    }

    /// Forgets files that went while nobody watched: one that comes back under the same name is another.
    pub(super) fn forget_all_but<'a>(&self, paths: impl Iterator<Item = &'a PathBuf>) {
        let Some(folder) = &self.0 else { return };
        let known: Vec<PathBuf> = paths.filter_map(|path| self.copy_of(path)).collect();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if !known.contains(&entry.path()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn copy_of(&self, path: &Path) -> Option<PathBuf> {
        let hash = digest::digest(&digest::SHA256, path.as_os_str().as_encoded_bytes());
        let name: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Some(self.0.as_ref()?.join(name))
    }
}

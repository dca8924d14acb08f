//! A cgroup of the run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A cgroup v2 directory. It is removed with the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    pub(crate) fn at(dir: PathBuf) -> Cgroup {
        Cgroup { dir }
    }

    pub(crate) fn make(&self) -> Result<()> {
        match fs::create_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.with_context(|| format!("make the cgroup {}", self.dir.display())),
        }
    }

    /// The cgroup `name` inside this one, made if need be; `name` may be a path.
    ///
    /// # Errors
    /// When the kernel refuses to make it.
    pub fn child(&self, name: &str) -> Result<Cgroup> {
        let mut cgroup = self.clone();
        for part in name.split('/') {
            cgroup.dir.push(part);
            cgroup.make()?;
        }
        Ok(cgroup)
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Processes in it, without those in cgroups below.
    ///
    /// # Errors
    /// When it is gone.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let listed = fs::read_to_string(self.dir.join("cgroup.procs"))
            .with_context(|| format!("list the processes in {}", self.dir.display()))?;
        Ok(listed.lines().filter_map(|pid| pid.parse().ok()).collect())
    }
}

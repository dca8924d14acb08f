//! cgroup v2 folders: where this process is, and what the kernel calls it.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::sys;

/// Why a cgroup cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Not a folder of the cgroup v2 hierarchy.
    #[error("{path} is not a cgroup v2 folder")]
    NotV2 { path: PathBuf, source: Option<io::Error> },
    /// This process's own cgroup could not be found.
    #[error("find this process's cgroup: {0}")]
    Unknown(String),
    /// The agent would be told from the pods by a cgroup that everybody is in.
    #[error("the agent runs in {0}, which is the root cgroup or holds the pods: start it in a cgroup of its own")]
    Shared(PathBuf),
}

/// A cgroup v2 folder.
#[derive(Debug)]
pub(super) struct Cgroup {
    pub(super) path: PathBuf,
    /// As `bpf_get_current_cgroup_id` returns it: the folder's inode.
    pub(super) id: u64,
    pub(super) folder: File,
}

impl Cgroup {
    pub(super) fn open(path: &Path) -> Result<Self, CgroupError> {
        let failed = |source| CgroupError::NotV2 { path: path.to_owned(), source };
        let path = path.canonicalize().map_err(|error| failed(Some(error)))?;
        if statfs(&path).map_err(|error| failed(Some(error.into())))?.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Err(failed(None));
        }
        let folder = File::open(&path).map_err(|error| failed(Some(error)))?;
        let id = folder.metadata().map_err(|error| failed(Some(error)))?.ino();
        Ok(Self { path, id, folder })
    }

    /// The cgroup of this agent: not the root, nor above the pods'.
    pub(super) fn of_agent(path: Option<&Path>, pods: &Self) -> Result<Self, CgroupError> {
        let agent = match path {
            Some(path) => Self::open(path)?,
            None => Self::open(&own()?)?,
        };
        if agent.id == ROOT || pods.path.starts_with(&agent.path) {
            return Err(CgroupError::Shared(agent.path));
        }
        Ok(agent)
    }

    /// Whether the cgroup with that id was removed, which the kernel allows only once no process is in it.
    pub(super) fn is_gone(&self, id: u64) -> bool {
        sys::cgroup_by_id(self.folder.as_fd(), id).is_err_and(|error| error.raw_os_error() == Some(libc::ESTALE))
    }

    /// Whether a cgroup with that id is there, and can be found by it.
    pub(super) fn is_found(&self, id: u64) -> bool {
        sys::cgroup_by_id(self.folder.as_fd(), id).is_ok()
    }

    /// Whether this one lies below `other`, or is it.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        self.path.starts_with(&other.path)
    }
}

/// Folder of this process in the cgroup v2 hierarchy, by the `0::` line of /proc/self/cgroup and the mount table.
fn own() -> Result<PathBuf, CgroupError> {
    let text = |path: &str| fs::read_to_string(path).map_err(|error| CgroupError::Unknown(format!("{path}: {error}")));
    let cgroups = text("/proc/self/cgroup")?;
    let inside = cgroups.lines().find_map(|line| line.strip_prefix("0::/"));
    let inside = inside.ok_or_else(|| CgroupError::Unknown("it is in no cgroup v2".to_owned()))?;
    let mount = mount().ok_or_else(|| CgroupError::Unknown("cgroup v2 is not mounted".to_owned()))?;
    Ok(mount.join(inside))
}

/// The folder that the setting CGROUP_ROOT means: `auto` is where cgroup v2 is mounted, and `None` if it is not.
pub fn root(setting: &Path) -> Option<PathBuf> {
    if setting == Path::new("auto") { mount() } else { Some(setting.to_owned()) }
}

/// Where cgroup v2 is mounted.
fn mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    // The last one: what a container's own mount point was covered with is what is seen.
    mounts.lines().filter_map(mounted_cgroup2).next_back().map(PathBuf::from)
}

/// The mount point, if a line of mountinfo (proc_pid_mountinfo(5)) is of a cgroup v2 hierarchy.
fn mounted_cgroup2(line: &str) -> Option<&str> {
    let (mount, filesystem) = line.split_once(" - ")?;
    if filesystem.split(' ').next()? != "cgroup2" {
        return None;
    }
    mount.split(' ').nth(4)
}

/// Inode of the root of the hierarchy, whatever part of it a container sees.
const ROOT: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_point_is_the_fifth_field() {
        let line = "32 24 0:27 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(mounted_cgroup2(line), Some("/sys/fs/cgroup/unified"));
        assert_eq!(mounted_cgroup2("33 24 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"), None);
    }
}

//! The file system of pins.

use std::{fs, io, path::Path};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// Whether `path`, or the nearest folder above it that exists, is on a bpffs.
pub fn is_bpffs(path: &Path) -> bool {
    let existing = path.ancestors().find(|above| above.exists());
    existing.is_some_and(|existing| statfs(existing).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC))
}

/// Mounts a bpffs at `path`, unless there is one. Makes the folder. Processes in other mount namespaces do not see it.
///
/// # Errors  `EPERM` without CAP_SYS_ADMIN.
pub fn mount_bpffs(path: &Path) -> io::Result<()> {
    if path.exists() && is_bpffs(path) {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some("bpffs"), path, Some("bpf"), flags, Some("mode=0700"))?)
}

//! `mesh-node uninstall` and `remove`: takes what an agent leaves behind off its node, once it has ended.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::cni;
use crate::ebpf::{self, Kernel};
use crate::pods::local;

/// What an agent leaves on its node, in files and in the kernel.
#[derive(Debug)]
pub struct Traces {
    pub pin_dir: PathBuf,
    pub cgroup_root: PathBuf,
    pub run_dir: PathBuf,
    pub cni_conf_dir: PathBuf,
    pub cni_bin_dir: PathBuf,
}

/// Takes Weft off a node: the CNI plugin, then everything in the kernel, then the files of the run directory. Nothing that is
/// not there is missed.
///
/// # Errors
/// An agent still runs, or the first thing that could not be done; what does not depend on it was.
pub fn from_node(traces: &Traces) -> anyhow::Result<()> {
    let socket = traces.run_dir.join(local::SOCKET);
    if UnixStream::connect(&socket).is_ok() {
        anyhow::bail!("an agent answers at {}: it would put back what is removed; stop it first", socket.display());
    }
    let unchained = cni::install::remove(&traces.cni_conf_dir, &traces.cni_bin_dir).context("remove the CNI plugin");
    let cleared = match traces.pin_dir.exists() {
        true => from_kernel(&traces.pin_dir, &traces.cgroup_root).context("remove what is in the kernel"),
        false => Ok(()),
    };
    unchained.and(cleared)?;
    let entries = match fs::read_dir(&traces.run_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("read {}", traces.run_dir.display())),
    };
    for entry in entries {
        let path = entry?.path();
        let done = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        done.with_context(|| format!("remove {}", path.display()))?;
    }
    // As a mount in a container the folder stays, empty.
    let _ = fs::remove_dir(&traces.run_dir);
    Ok(())
}

/// Removes every trace of the agent from the kernel.
///
/// # Errors
/// The pins cannot be read or removed.
pub fn from_kernel(pin_dir: &Path, cgroup_root: &Path) -> anyhow::Result<()> {
    let config = ebpf::Config {
        pin_dir: pin_dir.to_owned(),
        cgroup_root: cgroup_root.to_owned(),
        agent_cgroup: None,
        object: None,
        debug: false,
    };
    Kernel::load(config)?.remove_all()?;
    Ok(())
}

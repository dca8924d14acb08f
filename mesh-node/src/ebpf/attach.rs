//! Programs into the kernel, and their links: made and pinned, or found pinned and given the new program.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{Ebpf, EbpfLoader, programs::Program};
use mesh_ebpf::{maps, pins, programs};

use super::{
    KernelError, LoadError,
    cgroup::Cgroup,
    sys::{self, Hook},
};

/// The hooks on a cgroup, by the names of their programs.
const ON_CGROUP: [(&str, Hook); 5] = [
    (programs::CONNECT4, Hook::Connect4),
    (programs::CONNECT6, Hook::Connect6),
    (programs::GETPEERNAME4, Hook::GetPeerName4),
    (programs::GETPEERNAME6, Hook::GetPeerName6),
    (programs::SOCK_OPS, Hook::SockOps),
];

/// The pins' folder and the object, from which programs are loaded that share the pinned maps.
pub(super) struct Loader {
    pub(super) dir: PathBuf,
    pub(super) object: std::borrow::Cow<'static, [u8]>,
    pub(super) debug: bool,
    /// Whether the kernel has bpf_set_retval.
    pub(super) set_retval: bool,
    /// Whether the kernel has bpf_skc_to_mptcp_sock.
    pub(super) tells_mptcp: bool,
}

impl Loader {
    /// Creates or opens the maps and readies the programs.
    pub(super) fn load(&self) -> Result<Ebpf, LoadError> {
        let folder = self.dir.join(pins::MAPS);
        let set_retval = u8::from(self.set_retval);
        let tells_mptcp = u8::from(self.tells_mptcp);
        let level: u8 = if self.debug { LEVEL_DEBUG } else { 0 };
        let mut loader = EbpfLoader::new();
        for name in maps::ALL {
            loader.map_pin_path(name, folder.join(name));
        }
        loader.override_global(aya_log::LEVEL, &level, true);
        loader.override_global(programs::SET_RETVAL, &set_retval, true);
        loader.override_global(programs::TELLS_MPTCP, &tells_mptcp, true);
        // Nothing in our programs is relocated by the running kernel's BTF. aya 0.14 has read it in `new` all the same,
        // 200 ms where aya-obj is not optimised (by perf), so a process should have one loader and not one for each pod.
        loader.btf(None);
        loader.load(&self.object).map_err(|error| LoadError::Maps(Box::new(error)))
    }

    /// Attaches the cgroup hooks, or puts the new programs into the links that are there.
    pub(super) fn attach_cgroup(&self, ebpf: &mut Ebpf, cgroup: &Cgroup, suffix: &str) -> Result<(), LoadError> {
        for (name, hook) in ON_CGROUP {
            let program = verified(ebpf, name)?;
            let path = self.link(&format!("{name}{suffix}"));
            let old = sys::pinned(&path).ok();
            let same = old.as_ref().is_some_and(|old| sys::link_cgroup(old.as_fd()).is_ok_and(|id| id == cgroup.id));
            match old {
                Some(old) if same => sys::replace(old.as_fd(), program).map_err(pin("update the link", &path))?,
                // The root has moved, or the cgroup was removed: the new link first, then the old one goes.
                _ => self.make(program, cgroup.folder.as_fd(), hook, &path)?,
            }
        }
        Ok(())
    }

    /// Attaches a pod's instance of sk_lookup. Without the pod's namespace only a link that exists can be updated.
    pub(super) fn attach_pod(
        &self,
        program: BorrowedFd<'_>,
        cookie: u64,
        netns: Option<BorrowedFd<'_>>,
    ) -> Result<(), KernelError> {
        let path = self.pod_link(cookie);
        match (sys::pinned(&path), netns) {
            (Ok(old), netns) => match (sys::replace(old.as_fd(), program), netns) {
                // The link outlived its namespace's attachment; the kernel says ENOLINK then.
                (Err(error), Some(netns)) if error.raw_os_error() == Some(libc::ENOLINK) => {
                    self.make(program, netns, Hook::SkLookup, &path)?;
                }
                (Err(error), None) if error.raw_os_error() == Some(libc::ENOLINK) => {}
                (result, _) => result.map_err(pin("update the link", &path))?,
            },
            (Err(_), Some(netns)) => self.make(program, netns, Hook::SkLookup, &path)?,
            (Err(_), None) => {}
        }
        Ok(())
    }

    /// Makes a link and pins it in the place of one that may be there.
    fn make(&self, program: BorrowedFd<'_>, on: BorrowedFd<'_>, hook: Hook, path: &Path) -> Result<(), KernelError> {
        let link: OwnedFd = sys::attach(program, on, hook).map_err(pin("make the link", path))?;
        remove(path)?;
        sys::pin(link.as_fd(), path).map_err(pin("pin the link", path))
    }

    /// Ends the steering of what arrives at a pod.
    pub(super) fn detach_pod(&self, cookie: u64) -> Result<(), KernelError> {
        let path = self.pod_link(cookie);
        if let Ok(link) = sys::pinned(&path) {
            // A link whose namespace is gone cannot be detached, nor need it be.
            let _ = sys::detach(link.as_fd());
        }
        remove(&path)
    }

    /// Removes the pins of the links on the cgroup of an agent that is gone, and the cgroup with it.
    pub(super) fn forget_agent(&self, id: u64) -> Result<(), KernelError> {
        ON_CGROUP.iter().try_for_each(|(name, _)| remove(&self.link(&format!("{name}{}", agent_suffix(id)))))
    }

    /// Where a link is pinned.
    pub(super) fn link(&self, name: &str) -> PathBuf {
        self.dir.join(pins::LINKS).join(name)
    }

    /// Where a pod's link is pinned.
    pub(super) fn pod_link(&self, cookie: u64) -> PathBuf {
        self.link(&format!("sk_lookup-{cookie}"))
    }
}

/// What follows the program's name in the name of a link on an agent's own cgroup.
pub(super) fn agent_suffix(id: u64) -> String {
    format!("-agent-{id}")
}

/// Removes a pin; one that is not there is no error. A link without pin or descriptor detaches.
pub(super) fn remove(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(pin("remove the pin", path)(error)),
        _ => Ok(()),
    }
}

/// Turns an error about a pin into ours.
pub(super) fn pin(what: &'static str, path: &Path) -> impl Fn(io::Error) -> KernelError {
    let path = path.to_owned();
    move |source| KernelError::Pin { what, path: path.clone(), source }
}

/// Has the kernel verify a program, unless it has.
fn verified<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<BorrowedFd<'a>, LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing(name))?;
    if program.fd().is_err() {
        let loaded = match program {
            Program::CgroupSockAddr(program) => program.load(),
            Program::SockOps(program) => program.load(),
            _ => return Err(LoadError::Missing(name)),
        };
        loaded.map_err(|error| LoadError::Program { name, source: Box::new(error) })?;
    }
    let fd = program.fd().map_err(|error| LoadError::Program { name, source: Box::new(error) })?;
    Ok(fd.as_fd())
}

/// `aya_log_ebpf::Level::Debug`.
const LEVEL_DEBUG: u8 = 4;

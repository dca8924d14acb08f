//! Network namespaces: which one a pod is, and how to do something inside of it.
//!
//! A namespace is named by its cookie, a number that the kernel never uses twice before a reboot and that eBPF hooks
//! can read too. Sockets stay in the namespace they were made in, so entering one is only needed for the moment of
//! making the socket.
#![allow(unsafe_code)] // one getsockopt, for which no crate has a wrapper

mod established;

use std::{
    cell::RefCell,
    fmt,
    fs::{self, File},
    io,
    net::{IpAddr, UdpSocket},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
    sync::Arc,
};

use nix::sched::{CloneFlags, setns};

pub(crate) use established::can_destroy;
pub use established::{Established, Sockets};

/// Number of a network namespace, unique until the machine reboots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsCookie(pub u64);

impl fmt::Display for NetnsCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// An open network namespace. Keeps the namespace alive; clones share one descriptor.
#[derive(Clone, Debug)]
pub struct Netns {
    fd: Arc<OwnedFd>,
    cookie: NetnsCookie,
    inode: u64,
}

impl Netns {
    /// Opens a namespace by a path such as `/proc/<pid>/ns/net` or `/run/netns/<name>`.
    ///
    /// # Errors  As for [`Netns::from_fd`], and of opening the path.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_fd(File::open(path)?.into())
    }

    /// Takes a descriptor that someone else opened, as a CNI plugin passes them.
    ///
    /// # Errors  `EINVAL` if it is not a network namespace, `EPERM` without CAP_SYS_ADMIN, `ENOPROTOOPT` on kernels
    /// before 5.14, which have no namespace cookies.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let inode = fs::File::from(fd.try_clone()?).metadata()?.ino();
        let fd = Arc::new(fd);
        let cookie = enter(&fd, own_cookie)??;
        Ok(Self { fd, cookie, inode })
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors  As for [`Netns::from_fd`].
    pub fn current() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// Makes one, which is gone with the last clone of this value and the last socket in it.
    ///
    /// # Errors  `EPERM` without CAP_SYS_ADMIN.
    pub fn fresh() -> io::Result<Self> {
        let made = std::thread::Builder::new().spawn(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            Self::current()
        })?;
        made.join().unwrap_or_else(|_| Err(io::Error::other("a thread failed")))
    }

    /// Finds a namespace by its inode, among those that some process is in or that are mounted under `/run/netns`.
    /// For an agent that restarted and is asked to clean up after a pod that nobody told it of again.
    pub fn find(inode: u64, cookie: NetnsCookie) -> Option<Self> {
        let named = ["/run/netns", "/var/run/netns"].into_iter().flat_map(children);
        let processes = children("/proc").map(|process| process.join("ns/net"));
        named
            .chain(processes)
            .filter(|path| fs::metadata(path).is_ok_and(|found| found.ino() == inode))
            .filter_map(|path| Self::open(path).ok())
            .find(|found| found.cookie == cookie)
    }

    /// Its number.
    pub fn cookie(&self) -> NetnsCookie {
        self.cookie
    }

    /// Inode of the namespace, as `ls -L /proc/<pid>/ns/net` shows it. Used again once the namespace is gone.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Runs `f` with the calling thread inside of the namespace. The thread is back before this returns, also when `f`
    /// panics. Never await inside.
    ///
    /// # Errors  `EPERM` without CAP_SYS_ADMIN over the namespace's owner.
    ///
    /// If the way back fails the process aborts: a thread astray in a pod's namespace would serve other pods from it.
    pub fn enter<T>(&self, f: impl FnOnce() -> T) -> io::Result<T> {
        enter(&self.fd, f)
    }

    /// Addresses of its interfaces that other hosts can reach: neither loopback nor link-local.
    ///
    /// # Errors  Of entering, and of asking the kernel.
    pub fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        let all = self.enter(nix::ifaddrs::getifaddrs)??;
        let mut addresses: Vec<IpAddr> = all
            .filter_map(|interface| {
                let address = interface.address?;
                let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            })
            .filter(|address| match address {
                IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
                IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
            })
            .collect();
        let mut seen = std::collections::BTreeSet::new();
        addresses.retain(|address| seen.insert(*address));
        Ok(addresses)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

thread_local! {
    /// Where this thread is: the namespace it entered last, or none if it never left its own.
    static WHERE: RefCell<Option<Arc<OwnedFd>>> = const { RefCell::new(None) };
    /// Where this thread was before it ever entered another. Opened once: opening it costs more than setns itself.
    static HOME: RefCell<Option<Arc<OwnedFd>>> = const { RefCell::new(None) };
}

fn enter<T>(to: &Arc<OwnedFd>, f: impl FnOnce() -> T) -> io::Result<T> {
    let outer = WHERE.take();
    let back = match &outer {
        Some(outer) => outer.clone(),
        None => home()?,
    };
    let result = setns(to.as_fd(), CloneFlags::CLONE_NEWNET);
    if let Err(error) = result {
        WHERE.set(outer);
        return Err(error.into());
    }
    WHERE.set(Some(to.clone()));
    let _guard = Return { back, outer };
    Ok(f())
}

/// Brings the thread back when dropped.
struct Return {
    back: Arc<OwnedFd>,
    outer: Option<Arc<OwnedFd>>,
}

impl Drop for Return {
    fn drop(&mut self) {
        if let Err(error) = setns(self.back.as_fd(), CloneFlags::CLONE_NEWNET) {
            tracing::error!(%error, "cannot leave a pod's network namespace");
            std::process::abort();
        }
        WHERE.set(self.outer.take());
    }
}

/// Opens the calling thread's own namespace, to which it returns from others. What entering a namespace would do the first time;
/// a thread that carries connections does it before, so that none of them is the one for which descriptors ran out.
///
/// # Errors  Of opening it: `EMFILE` or `ENFILE`.
pub(crate) fn settle() -> io::Result<()> {
    home().map(drop)
}

fn home() -> io::Result<Arc<OwnedFd>> {
    HOME.with_borrow_mut(|home| match home {
        Some(home) => Ok(home.clone()),
        None => {
            let opened: Arc<OwnedFd> = Arc::new(File::open("/proc/thread-self/ns/net")?.into());
            Ok(home.insert(opened).clone())
        }
    })
}

/// Cookie of the namespace that the calling thread is in.
fn own_cookie() -> io::Result<NetnsCookie> {
    // Any socket knows it; an unbound UDP socket is the cheapest. IPv4 is always there.
    let socket: OwnedFd = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?.into();
    let mut cookie = 0_u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` is eight writable bytes, as `size` says, and the descriptor is open.
    let ret = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut size)
    };
    if ret == 0 { Ok(NetnsCookie(cookie)) } else { Err(io::Error::last_os_error()) }
}

fn children(folder: &str) -> impl Iterator<Item = std::path::PathBuf> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

/// <asm-generic/socket.h>; kernel 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_back_after_entering_even_when_it_panics() {
        let Some(other) = fresh() else { return };
        let home = Netns::current().unwrap();
        assert_ne!(home.cookie(), other.cookie());
        assert_eq!(other.enter(own_cookie).unwrap().unwrap(), other.cookie());
        let nested = other.enter(|| (home.enter(own_cookie).unwrap().unwrap(), own_cookie().unwrap())).unwrap();
        assert_eq!(nested, (home.cookie(), other.cookie()));
        let panicked = std::panic::catch_unwind(|| other.enter(|| panic!("inside")));
        assert!(panicked.is_err());
        assert_eq!(own_cookie().unwrap(), home.cookie());
    }

    #[test]
    fn a_file_that_is_no_namespace_is_an_error() {
        assert!(Netns::open("/proc/self/ns/mnt").is_err());
        assert!(Netns::open("/proc/self/status").is_err());
    }

    #[test]
    fn a_fresh_namespace_has_no_address() {
        let Some(other) = fresh() else { return };
        assert_eq!(other.addresses().unwrap(), Vec::<IpAddr>::new());
    }

    /// A namespace of its own, made by a thread that ends.
    fn fresh() -> Option<Netns> {
        match Netns::fresh() {
            Ok(netns) => Some(netns),
            Err(error) => {
                println!("skipped: a new network namespace: {error}");
                None
            }
        }
    }
}

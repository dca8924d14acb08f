//! The bpf(2) commands that aya has no call for, or none without its own bookkeeping; and cgroups by their number.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya_obj::generated::bpf_insn;
use mesh_ebpf::Event;

/// Has the kernel verify a program for sk_lookup; the error comes with the verifier's log. `BPF_PROG_LOAD`.
pub(super) fn load_sk_lookup(instructions: &[bpf_insn], license: &CStr) -> Result<OwnedFd, (io::Error, String)> {
    #[repr(C)]
    struct Attr {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        hook: u32,
    }
    let load = |log: &mut [u8]| {
        descriptor(bpf(
            5,
            &Attr {
                kind: PROGRAM_SK_LOOKUP,
                count: instructions.len() as u32,
                instructions: instructions.as_ptr() as u64,
                license: license.as_ptr() as u64,
                log_level: u32::from(!log.is_empty()),
                log_size: log.len() as u32,
                log: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
                kernel_version: 0,
                flags: 0,
                name: *b"weft_sk_lookup\0\0",
                interface: 0,
                hook: Hook::SkLookup as u32,
            },
        )?)
    };
    load(&mut []).or_else(|_| {
        // Once more for the reason, which costs time to write down.
        let mut log = vec![0; 256 * 1024];
        load(&mut log).map_err(|error| {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            (error, String::from_utf8_lossy(&log[..end]).into_owned())
        })
    })
}

/// What a program is attached to: a number of `enum bpf_attach_type` in <linux/bpf.h>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Hook {
    SockOps = 3,
    Connect4 = 10,
    Connect6 = 11,
    GetPeerName4 = 29,
    GetPeerName6 = 30,
    SkLookup = 36,
}

/// Attaches a program to a cgroup or network namespace, for as long as the descriptor or a pin of it lives.
/// `BPF_LINK_CREATE`, kernel 5.7 (sk_lookup 5.9).
pub(super) fn attach(program: BorrowedFd<'_>, target: BorrowedFd<'_>, hook: Hook) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        program: RawFd,
        target: RawFd,
        hook: u32,
        flags: u32,
    }
    let attr = Attr { program: program.as_raw_fd(), target: target.as_raw_fd(), hook: hook as u32, flags: 0 };
    descriptor(bpf(28, &attr)?)
}

/// Puts another program into a link, without a moment in which there is none. `BPF_LINK_UPDATE`, kernel 5.7.
pub(super) fn replace(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link: RawFd,
        program: RawFd,
        flags: u32,
        old: RawFd,
    }
    bpf(29, &Attr { link: link.as_raw_fd(), program: program.as_raw_fd(), flags: 0, old: 0 }).map(drop)
}

/// Ends a link's effect before this returns; when its last descriptor or pin goes, that happens some time later.
/// `BPF_LINK_DETACH`, kernel 5.9.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(34, &link.as_raw_fd()).map(drop)
}

/// Gives a link a name in bpffs. `BPF_OBJ_PIN`.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf(6, &ObjectAttr { path: path.as_ptr() as u64, fd: object.as_raw_fd(), flags: 0 }).map(drop)
}

/// Opens what was pinned. `BPF_OBJ_GET`.
pub(super) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    descriptor(bpf(7, &ObjectAttr { path: path.as_ptr() as u64, fd: 0, flags: 0 })?)
}

/// The cgroup id of a link to a cgroup. `BPF_OBJ_GET_INFO_BY_FD`, kernel 5.8 for links.
pub(super) fn link_cgroup(link: BorrowedFd<'_>) -> io::Result<u64> {
    /// The head of `struct bpf_link_info`, as for links to cgroups.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        pad: u32,
        cgroup: u64,
        hook: u32,
        tail: u32,
    }
    #[repr(C)]
    struct Attr {
        fd: RawFd,
        size: u32,
        info: u64,
    }
    let mut info = Info::default();
    bpf(15, &Attr { fd: link.as_raw_fd(), size: size_of::<Info>() as u32, info: &raw mut info as u64 })?;
    Ok(info.cgroup)
}

/// Opens a cgroup by its id, on the file system that `any` is on. `ESTALE` if there is none. Kernel 5.5;
/// needs CAP_DAC_READ_SEARCH.
pub(super) fn cgroup_by_id(any: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    /// `struct file_handle` with the payload of a kernfs node (<linux/exportfs.h>).
    #[repr(C)]
    struct Handle {
        size: u32,
        kind: i32,
        id: [u8; 8],
    }
    let mut handle = Handle { size: 8, kind: 0xfe, id: id.to_ne_bytes() };
    // SAFETY: the handle is as long as it says, and outlives the call.
    let ret = unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, any.as_raw_fd(), &raw mut handle, libc::O_PATH | libc::O_CLOEXEC)
    };
    if ret < 0 { Err(io::Error::last_os_error()) } else { descriptor(ret) }
}

/// Returns once every hook that was running when this was called has ended: what it wrote to a map can be seen.
/// `MEMBARRIER_CMD_GLOBAL`, kernel 4.3; where a core is set apart by nohz_full the kernel refuses it.
pub(super) fn wait_for_hooks() {
    // SAFETY: a system call without pointers.
    let ret = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if ret != 0 {
        // A hook takes microseconds, and is not preempted.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The clock of `bpf_ktime_get_ns`, in nanoseconds.
pub(super) fn monotonic() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure outlives the call. The clock exists everywhere, so there is no error to look at.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// An event as it lies in the ring.
pub(super) fn event(bytes: &[u8]) -> Option<Event> {
    // SAFETY: as many bytes as an event has, which is integers without padding; unaligned reads are allowed.
    (bytes.len() == size_of::<Event>()).then(|| unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}

#[repr(C)]
struct ObjectAttr {
    path: u64,
    fd: RawFd,
    flags: u32,
}

/// bpf(2) with a prefix of `union bpf_attr`; the kernel takes what is missing as zero.
fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a descriptor or one of this file's structures, laid out as the kernel's for that command; the pointers in it
    // (a path, an info structure, instructions, a licence, a log) outlive the call, which borrows their owners' frame,
    // and lengths are those of what they point to.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

fn descriptor(ret: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(ret).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor for us, and nobody else has seen its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// <linux/membarrier.h>
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
/// `BPF_PROG_TYPE_SK_LOOKUP` of <linux/bpf.h>.
const PROGRAM_SK_LOOKUP: u32 = 30;

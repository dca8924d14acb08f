//! Socket options for which no crate has a wrapper.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// Lets an IPv6 socket have an address that is not the host's (`IPV6_TRANSPARENT`; CAP_NET_ADMIN).
pub(super) fn transparent_v6(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1)
}

/// Leaves the choice of port to `connect`, which need not keep it free for other destinations
/// (`IP_BIND_ADDRESS_NO_PORT`, kernel 4.2; serves both families).
pub(super) fn bind_without_port(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

fn set(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value is one int, readable for the call, and the descriptor is open while it is borrowed.
    let ret = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

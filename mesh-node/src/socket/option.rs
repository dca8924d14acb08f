//! Socket options for which no crate has a wrapper.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
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

/// Smoothed round trip of a TCP connection: once it is open, that of its handshake (`TCP_INFO`; kernel 2.4).
///
/// # Errors  Of the kernel, for what is no TCP socket.
pub(super) fn round_trip(socket: BorrowedFd<'_>) -> io::Result<Duration> {
    // SAFETY: a struct of integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` has as many writable bytes as `size` says, and the descriptor is open while it is borrowed.
    let ret = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut size)
    };
    if ret == 0 { Ok(Duration::from_micros(info.tcpi_rtt.into())) } else { Err(io::Error::last_os_error()) }
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

//! Connections whose two ends are in this kernel are not paced.
//!
//! BBR, the default on many nodes, sends by a clock at the rate that it takes the path for. A path that does not leave the
//! host has no rate to find out: timers and small bursts are all that comes of it. Such an end gets Reno, which every
//! kernel has and which without loss never holds back. Ends that another host's end is to keep in step with are left as
//! the node has them, and so is any other algorithm.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_getsockopt, bpf_setsockopt},
    programs::SockOpsContext,
};

/// Has this end, whose other end is on this host, send when it may.
#[inline(always)]
pub(crate) fn end(ctx: &SockOpsContext) {
    let mut name = RENO;
    // SAFETY: as many bytes as are told, readable and writable, which outlive both calls.
    unsafe {
        let length = size_of_val(&name) as i32;
        if is_paced(ctx) {
            bpf_setsockopt(ctx.as_ptr(), IPPROTO_TCP, TCP_CONGESTION, (&raw mut name).cast(), length);
        }
    }
}

/// Whether this end sends by a clock.
#[inline(always)]
pub(crate) fn is_paced(ctx: &SockOpsContext) -> bool {
    let mut name = [0_u8; 16];
    // SAFETY: as in `end`.
    let told = unsafe {
        let length = size_of_val(&name) as i32;
        bpf_getsockopt(ctx.as_ptr(), IPPROTO_TCP, TCP_CONGESTION, (&raw mut name).cast(), length)
    };
    told == 0 && name[0] == b'b' && name[1] == b'b' && name[2] == b'r'
}

const RENO: [u8; 8] = *b"reno\0\0\0\0";
/// <linux/in.h>, <linux/tcp.h>
const IPPROTO_TCP: i32 = 6;
const TCP_CONGESTION: i32 = 13;

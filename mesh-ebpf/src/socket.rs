//! What a `sock_ops` context says of its socket, and what is done to it.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_SOCK_OPS_STATE_CB_FLAG, SO_MARK, SOL_SOCKET},
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_setsockopt, bpf_skc_to_mptcp_sock},
    programs::SockOpsContext,
};
use mesh_ebpf::{Address, FlowKey};

use crate::state::{WEFT_TELLS_MPTCP, address6, either, field};

#[inline(always)]
pub(crate) fn netns(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the context is the hook's own.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// Local and remote address. An IPv6 socket connected to an IPv4-mapped address has family AF_INET6 and the mapped
/// form, which is our canonical one.
#[inline(always)]
pub(crate) fn ends(ctx: &SockOpsContext) -> (Address, Address) {
    either(
        field!(ctx.ops, family),
        (Address::v4(field!(ctx.ops, local_ip4)), Address::v4(field!(ctx.ops, remote_ip4))),
        (address6!(ctx.ops, local_ip6), address6!(ctx.ops, remote_ip6)),
    )
}

#[inline(always)]
pub(crate) fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the context is the hook's own.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

#[inline(always)]
pub(crate) fn key(ctx: &SockOpsContext, cookie: u64, local: Address, remote: Address) -> FlowKey {
    FlowKey {
        cookie,
        local,
        remote,
        local_port: field!(ctx.ops, local_port) as u16,
        // Network order, in the upper half of the word on little-endian machines.
        remote_port: u16::from_be((field!(ctx.ops, remote_port) >> 16) as u16),
        pad: 0,
    }
}

/// The connection that this socket opened.
#[inline(always)]
pub(crate) fn outwards(ctx: &SockOpsContext) -> FlowKey {
    let (local, remote) = ends(ctx);
    key(ctx, 0, local, remote)
}

/// The connection that this socket accepted.
#[inline(always)]
pub(crate) fn inwards(ctx: &SockOpsContext) -> FlowKey {
    let here = outwards(ctx);
    FlowKey {
        local: here.remote,
        remote: here.local,
        local_port: here.remote_port,
        remote_port: here.local_port,
        ..here
    }
}

/// Has the hook called when the socket closes.
#[inline(always)]
pub(crate) fn tell_of_close(ctx: &SockOpsContext) {
    let _ = ctx.set_cb_flags(ctx.cb_flags() as i32 | BPF_SOCK_OPS_STATE_CB_FLAG as i32);
}

/// The socket's mark.
#[inline(always)]
pub(crate) fn mark(ctx: &SockOpsContext) -> Option<u32> {
    // SAFETY: the context is the hook's own; `sk` is a pointer that the verifier knows as a socket or null.
    unsafe {
        let sk = (*ctx.ops).__bindgen_anon_2.sk;
        if sk.is_null() { None } else { Some((*sk).mark) }
    }
}

#[inline(always)]
pub(crate) fn set_mark(ctx: &SockOpsContext, mut mark: u32) {
    // SAFETY: four readable bytes that outlive the call.
    let _ = unsafe {
        bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET as i32, SO_MARK as i32, (&raw mut mark).cast(), size_of::<u32>() as i32)
    };
}

/// Whether the socket is part of a multipath connection, as far as this kernel tells.
#[inline(always)]
pub(crate) fn is_multipath(ctx: &SockOpsContext) -> bool {
    if WEFT_TELLS_MPTCP.load() == 0 {
        return false;
    }
    // SAFETY: the context is the hook's own; `sk` is a pointer that the verifier knows as a socket or null. On a kernel
    // without the helper the verifier never comes here.
    unsafe {
        let sk = (*ctx.ops).__bindgen_anon_2.sk;
        !sk.is_null() && !bpf_skc_to_mptcp_sock(sk.cast()).is_null()
    }
}

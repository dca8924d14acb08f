//! `sock_ops` on TCP_CONNECT: whose connection is this. The source port is known, the SYN not yet sent.
//!
//! Here alone can be told from what a SYN's addresses do not show: that it is the pod's own (take it), the agent's (let
//! it through to the application) or a node process's (a probe). `sk_lookup` finds the word left in `FLOWS`. The entry
//! goes when the initiator's socket closes, so that nobody can reuse the ports of a connection that was let through.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, SO_MARK,
        SOL_SOCKET,
    },
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_setsockopt},
    macros::sock_ops,
    programs::SockOpsContext,
};
use aya_log_ebpf::debug;
use mesh_ebpf::{Address, FlowKey, FlowKind, MARK_CAPTURE};

use crate::state::{AGENT_SOCKETS, FLOWS, LOCAL, PODS, SETTINGS, address6, either, field};

#[sock_ops]
fn weft_sock_ops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(&ctx),
        // Only sockets that asked for it, below, come here.
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => closed(&ctx),
        _ => {}
    }
    1
}

#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let netns = netns(ctx);
    // SAFETY: no reference into the map is kept.
    if let Some(pod) = unsafe { PODS.get(&netns) } {
        let (local, remote) = ends(ctx);
        let key = key(ctx, netns, local, remote);
        // SAFETY: the context is the hook's own.
        let socket = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
        let kind = if AGENT_SOCKETS.remove(&socket).is_ok() {
            remember(ctx, &key, FlowKind::EXEMPT);
            return;
        } else if pod.is_passing() {
            // Captured a moment before it began: without an entry nobody would know it for the pod's own.
            if mark(ctx) == Some(MARK_CAPTURE) {
                remember(ctx, &key, FlowKind::OUTBOUND);
            }
            return;
        } else if remote.is_loopback() {
            if local.is_loopback() {
                return;
            }
            FlowKind::EXEMPT
        } else if remote.is_link_local_v6() {
            return;
        } else if same(&remote, &local) || at(&remote) == Some(netns) {
            FlowKind::EXEMPT
        } else {
            // The socket is marked already, unless the pod changed it after a deferred TCP_FASTOPEN_CONNECT. The
            // kernel routes anew after this hook when the mark changes (`rebuild_header` in `tcp_connect`).
            FlowKind::OUTBOUND
        };
        // Marked if and only if it is captured, which is how the agent tells who came to a listener by its port.
        set_mark(ctx, if kind.0 == FlowKind::OUTBOUND.0 { MARK_CAPTURE } else { 0 });
        remember(ctx, &key, kind);
    } else if SETTINGS.get(0).is_some_and(|settings| settings.node_cookie == netns) {
        let (local, remote) = ends(ctx);
        if let Some(pod) = at(&remote) {
            let key = key(ctx, pod, local, remote);
            remember(ctx, &key, FlowKind::NODE);
        }
    }
}

#[inline(always)]
fn remember(ctx: &SockOpsContext, key: &FlowKey, kind: FlowKind) {
    let _ = FLOWS.insert(key, kind, 0);
    let _ = ctx.set_cb_flags(ctx.cb_flags() as i32 | BPF_SOCK_OPS_STATE_CB_FLAG as i32);
    debug!(ctx, "sock_ops: port {} to port {} is of kind {}", key.local_port, key.remote_port, kind.0);
}

#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let (local, remote) = ends(ctx);
    let netns = netns(ctx);
    let owner = match at(&remote) {
        Some(pod) if SETTINGS.get(0).is_some_and(|settings| settings.node_cookie == netns) => pod,
        _ => netns,
    };
    let key = key(ctx, owner, local, remote);
    let _ = FLOWS.remove(&key);
}

#[inline(always)]
fn netns(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the context is the hook's own.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// The enrolled pod on this node that has `address`.
#[inline(always)]
fn at(address: &Address) -> Option<u64> {
    // SAFETY: copied out at once.
    unsafe { LOCAL.get(address) }.copied()
}

/// Local and remote address. An IPv6 socket connected to an IPv4-mapped address has family AF_INET6 and the mapped
/// form, which is our canonical one.
#[inline(always)]
fn ends(ctx: &SockOpsContext) -> (Address, Address) {
    either(
        field!(ctx.ops, family),
        (Address::v4(field!(ctx.ops, local_ip4)), Address::v4(field!(ctx.ops, remote_ip4))),
        (address6!(ctx.ops, local_ip6), address6!(ctx.ops, remote_ip6)),
    )
}

#[inline(always)]
fn key(ctx: &SockOpsContext, cookie: u64, local: Address, remote: Address) -> FlowKey {
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

#[inline(always)]
fn same(a: &Address, b: &Address) -> bool {
    a.0[0] == b.0[0] && a.0[1] == b.0[1] && a.0[2] == b.0[2] && a.0[3] == b.0[3]
}

/// The socket's mark.
#[inline(always)]
fn mark(ctx: &SockOpsContext) -> Option<u32> {
    // SAFETY: the context is the hook's own; `sk` is a pointer that the verifier knows as a socket or null.
    unsafe {
        let sk = (*ctx.ops).__bindgen_anon_2.sk;
        if sk.is_null() { None } else { Some((*sk).mark) }
    }
}

#[inline(always)]
fn set_mark(ctx: &SockOpsContext, mut mark: u32) {
    // SAFETY: four readable bytes that outlive the call.
    let _ = unsafe {
        bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET as i32, SO_MARK as i32, (&raw mut mark).cast(), size_of::<u32>() as i32)
    };
}

//! `cgroup/connect4` and `cgroup/connect6`: mark an enrolled pod's TCP socket, so that the pod's own routes hand its
//! connection to the agent.
//!
//! The hook runs under the socket's lock, for every way to start a connection: `connect`, blocking or not, on a socket
//! of any age; `sendto` with `MSG_FASTOPEN`; and each MPTCP subflow (measured on 6.18: the hook sees the subflow, whose
//! protocol is TCP). Whatever mark the pod set before is overwritten. What the pod sets between a deferred
//! `TCP_FASTOPEN_CONNECT` and its first send, `sock_ops` overwrites again.
//!
//! An agent's own socket is told by the cgroup of the process that connects it, which a pod's process cannot choose.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{SO_MARK, SOL_SOCKET, bpf_sock_addr},
    helpers::{bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_setsockopt},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use aya_log_ebpf::debug;
use mesh_ebpf::{Address, MARK_AGENT, MARK_CAPTURE, MARK_DELIVER, MARK_MASK};

use crate::state::{AGENT_SOCKETS, AGENTS, PODS};

#[cgroup_sock_addr(connect4)]
fn weft_connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx, |addr| Address::v4(addr.user_ip4))
}

#[cgroup_sock_addr(connect6)]
fn weft_connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx, |addr| Address(addr.user_ip6))
}

/// Both families. `destination` reads the address from the context, whose fields the verifier checks one by one.
#[inline(always)]
fn connect(ctx: &SockAddrContext, destination: impl Fn(&bpf_sock_addr) -> Address) -> i32 {
    // SAFETY: the context is the hook's own, valid while it runs.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: no reference into the map is kept.
    let Some(pod) = (unsafe { PODS.get(&cookie) }) else { return ALLOW };
    // SAFETY: as above.
    let addr = unsafe { &*ctx.sock_addr };
    if addr.type_ != SOCK_STREAM || !(addr.protocol == IPPROTO_TCP || addr.protocol == IPPROTO_MPTCP) {
        return ALLOW;
    }
    // SAFETY: a helper without arguments.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: no reference into the map is kept.
    if unsafe { AGENTS.get(&cgroup) }.is_some() {
        return agent(ctx);
    }
    let to = destination(addr);
    if to.is_loopback() || to.is_unspecified() || to.is_link_local_v6() {
        // An earlier connect on this socket may have marked it.
        if mark(ctx).is_some_and(|mark| mark & MARK_MASK != 0) {
            let _ = set_mark(ctx, 0);
        }
        return ALLOW;
    }
    if set_mark(ctx, MARK_CAPTURE).is_err() {
        // Unmarked, the connection would leave in the clear.
        return DENY;
    }
    debug!(ctx, "connect: captured a connection of pod {}", pod.id);
    ALLOW
}

/// Keeps the agent's choice of mark, and leaves word for `sock_ops` that the socket is an agent's.
#[inline(always)]
fn agent(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the context is the hook's own.
    let socket = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let _ = AGENT_SOCKETS.insert(socket, 1, 0);
    if !matches!(mark(ctx), Some(MARK_AGENT | MARK_DELIVER)) {
        let _ = set_mark(ctx, MARK_AGENT);
    }
    ALLOW
}

/// The socket's mark.
#[inline(always)]
fn mark(ctx: &SockAddrContext) -> Option<u32> {
    // SAFETY: the context is the hook's own; `sk` is a pointer that the verifier knows as a socket or null.
    unsafe {
        let sk = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if sk.is_null() { None } else { Some((*sk).mark) }
    }
}

#[inline(always)]
fn set_mark(ctx: &SockAddrContext, mut mark: u32) -> Result<(), i64> {
    // SAFETY: four readable bytes that outlive the call.
    let ret = unsafe {
        bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET as i32, SO_MARK as i32, (&raw mut mark).cast(), size_of::<u32>() as i32)
    };
    if ret == 0 { Ok(()) } else { Err(ret as i64) }
}

const ALLOW: i32 = 1;
const DENY: i32 = 0;
/// <linux/net.h>
const SOCK_STREAM: u32 = 1;
/// <linux/in.h>
const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;

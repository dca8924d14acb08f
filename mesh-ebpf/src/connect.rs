//! `cgroup/connect4` and `cgroup/connect6`: mark an enrolled pod's TCP socket, so that the pod's own routes hand its
//! connection to the agent.
//!
//! The hook runs under the socket's lock, for every way to start a connection: `connect`, blocking or not, on a socket
//! of any age; `sendto` with `MSG_FASTOPEN`; and MPTCP, whose first subflow the hook sees before its SYN (tried on 6.18,
//! both families; there is no second, because the agent's listener answers in plain TCP). Whatever mark the pod set
//! before is overwritten. What the pod sets between a deferred `TCP_FASTOPEN_CONNECT` and its first send, `sock_ops`
//! overwrites again.
//!
//! A connection to another pod of this node that needs no agent is left unmarked and takes the pod's own routes. Nothing
//! is decided by that: `sock_ops` asks again when the source's address is known. So does one to a service whose endpoint
//! the hook may choose itself, and chooses on this node (`service.rs`): it gets the pod's address for the service's.
//!
//! An agent's own socket is told by the cgroup of the process that connects it, which a pod's process cannot choose.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{SO_MARK, SOL_SOCKET},
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_map_lookup_elem, bpf_set_retval, bpf_setsockopt,
        bpf_sk_release,
    },
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use aya_log_ebpf::debug;
use mesh_ebpf::{Address, Asked, ListenerKey, MARK_AGENT, MARK_CAPTURE, MARK_DELIVER, MARK_DRAWN, MARK_MASK};

use crate::{
    service::{self, Drawn, socket},
    state::{
        AGENT_SOCKETS, AGENTS, ASKED, LISTENERS, PODS, WEFT_SET_RETVAL, address6, at, field, is_direct, store, store6,
    },
};

#[cgroup_sock_addr(connect4)]
fn weft_connect4(ctx: SockAddrContext) -> i32 {
    connect(
        &ctx,
        || Address::v4(field!(ctx.sock_addr, user_ip4)),
        |address| store!(ctx.sock_addr, user_ip4, address.0[3]),
    )
}

#[cgroup_sock_addr(connect6)]
fn weft_connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx, || address6!(ctx.sock_addr, user_ip6), |address| store6!(ctx.sock_addr, address))
}

/// Both families. `destination` reads the address from the context, `redirect` writes another one into it.
#[inline(always)]
fn connect(ctx: &SockAddrContext, destination: impl Fn() -> Address, redirect: impl Fn(&Address)) -> i32 {
    // SAFETY: the context is the hook's own, valid while it runs.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: no reference into the map is kept.
    let Some(pod) = (unsafe { PODS.get(&cookie) }) else { return ALLOW };
    let protocol = field!(ctx.sock_addr, protocol);
    if field!(ctx.sock_addr, type_) != SOCK_STREAM || !(protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP) {
        return ALLOW;
    }
    // SAFETY: a helper without arguments.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: no reference into the map is kept.
    if unsafe { AGENTS.get(&cgroup) }.is_some() {
        return agent(ctx);
    }
    let to = destination();
    if pod.is_passing() || to.is_loopback() || to.is_unspecified() || to.is_link_local_v6() {
        unmark(ctx);
        return ALLOW;
    }
    let port = u16::from_be(field!(ctx.sock_addr, user_port) as u16);
    let there = at(&to);
    if there.is_some_and(|there| is_direct(cookie, there, &to, port)) {
        // An earlier connect on this socket may have failed before its SYN.
        let _ = ASKED.remove(&socket(ctx));
        unmark(ctx);
        return ALLOW;
    }
    let listens = listens(cookie);
    let mut capture = MARK_CAPTURE;
    if there.is_none() {
        match service::draw(ctx, cookie, &to, port, listens) {
            Drawn::Endpoint(choice) => {
                let asked = Asked { address: to, port, pad: [0; 3] };
                if ASKED.insert(&socket(ctx), &asked, 0).is_ok() {
                    redirect(&choice.address);
                    store!(ctx.sock_addr, user_port, u32::from(choice.port.to_be()));
                    unmark(ctx);
                    return ALLOW;
                }
            }
            Drawn::Another => capture |= MARK_DRAWN,
            Drawn::Nothing => {}
        }
    }
    // Nobody would answer: IPv4 sends no reset from an address that is not the host's, and `connect` would wait for
    // minutes. Unmarked, the connection would leave in the clear.
    if !listens || set_mark(ctx, capture).is_err() {
        debug!(ctx, "connect: refused a connection of pod {}", pod.id);
        return refuse();
    }
    debug!(ctx, "connect: captured a connection of pod {}", pod.id);
    ALLOW
}

/// Keeps the agent's choice of mark, and leaves word for `sock_ops` that the socket is an agent's.
#[inline(always)]
fn agent(ctx: &SockAddrContext) -> i32 {
    let _ = AGENT_SOCKETS.insert(socket(ctx), 1, 0);
    if !matches!(mark(ctx), Some(MARK_AGENT | MARK_DELIVER)) {
        let _ = set_mark(ctx, MARK_AGENT);
    }
    ALLOW
}

/// Whether an agent takes the pod's connections.
#[inline(always)]
fn listens(cookie: u64) -> bool {
    let key = ListenerKey { cookie, kind: ListenerKey::OUTBOUND, slot: 0 };
    // SAFETY: the static is the map's definition, which the loader replaces by the map; the key is as large as the
    // map's keys. The helper returns a socket that is ours to release, or null.
    unsafe {
        let listener = bpf_map_lookup_elem((&raw const LISTENERS).cast_mut().cast(), (&raw const key).cast());
        if listener.is_null() {
            return false;
        }
        bpf_sk_release(listener);
        true
    }
}

/// Lets `connect` fail with ECONNREFUSED where the kernel has a say in that, else with EPERM.
#[inline(always)]
fn refuse() -> i32 {
    if WEFT_SET_RETVAL.load() != 0 {
        // SAFETY: a helper without pointers; on a kernel without it the verifier never reaches this branch.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    DENY
}

/// Takes our bits out of the mark: an earlier connect on this socket, or the pod, may have set them.
#[inline(always)]
fn unmark(ctx: &SockAddrContext) {
    if mark(ctx).is_some_and(|mark| mark & MARK_MASK != 0) {
        let _ = set_mark(ctx, 0);
    }
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
/// <asm-generic/errno.h>
const ECONNREFUSED: i32 = 111;
/// <linux/net.h>
const SOCK_STREAM: u32 = 1;
/// <linux/in.h>
const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;

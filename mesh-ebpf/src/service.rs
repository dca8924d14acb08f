//! A service's address: an endpoint on this node in its place, where the agent would do nothing but choose one; and
//! `cgroup/getpeername4` and `cgroup/getpeername6`, by which the application sees the address that it asked for.
//!
//! A number is drawn. The first choices of it, in the agent's proportions, are endpoints on this node that need no agent. The
//! rest belongs to all others: the agent chooses among these, and the mark says so.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_prandom_u32, bpf_get_socket_cookie, bpf_skc_to_mptcp_sock},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use mesh_ebpf::{Address, Choice, Choices, FlowKey, ServiceKey};

use crate::state::{DIRECT, SERVICES, WEFT_TELLS_MPTCP, address6, at, field, is_direct, store, store6};

/// What was drawn.
pub(crate) enum Drawn {
    Endpoint(Choice),
    /// One of those that the agent chooses of.
    Another,
    /// The agent chooses of all.
    Nothing,
}

/// Draws an endpoint of the service at `to`. Without an agent that `listens`, one of those that need none.
#[inline(always)]
pub(crate) fn draw(ctx: &SockAddrContext, source: u64, to: &Address, port: u16, listens: bool) -> Drawn {
    let key = ServiceKey { source, address: *to, port, pad: [0; 3] };
    // SAFETY: read at once. The agent writes an entry whole, and who reads half of two draws a wrong share once.
    let Some(choices) = (unsafe { SERVICES.get(&key) }) else { return Drawn::Nothing };
    if is_multipath(ctx) {
        return Drawn::Nothing;
    }
    // SAFETY: a helper without arguments.
    let mut drawn = unsafe { bpf_get_prandom_u32() };
    if !listens {
        let all = choices.0.iter().fold(0, |most, choice| if choice.below > most { choice.below } else { most });
        drawn = ((u64::from(drawn) * u64::from(all)) >> 32) as u32;
    }
    for number in 0..Choices::MOST {
        let choice = choices.0[number];
        if drawn < choice.below {
            let direct =
                at(&choice.address).is_some_and(|there| is_direct(source, there, &choice.address, choice.port));
            return if direct { Drawn::Endpoint(choice) } else { Drawn::Nothing };
        }
    }
    Drawn::Another
}

/// Whether the socket is part of a multipath connection, as far as this kernel tells: `sock_ops` would capture it.
#[inline(always)]
fn is_multipath(ctx: &SockAddrContext) -> bool {
    if WEFT_TELLS_MPTCP.load() == 0 {
        return false;
    }
    // SAFETY: the context is the hook's own; `sk` is a pointer that the verifier knows as a socket or null. On a kernel
    // without the helper the verifier never comes here.
    unsafe {
        let sk = (*ctx.sock_addr).__bindgen_anon_1.sk;
        !sk.is_null() && !bpf_skc_to_mptcp_sock(sk.cast()).is_null()
    }
}

#[cgroup_sock_addr(getpeername4)]
fn weft_getpeername4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is the hook's own; `sk` is a pointer that the verifier knows as a socket or null.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if !sk.is_null() {
        let local = Address::v4(field!(sk, src_ip4));
        let remote = Address::v4(field!(ctx.sock_addr, user_ip4));
        if let Some((address, port)) = asked(&ctx, local, remote, field!(sk, src_port) as u16) {
            store!(ctx.sock_addr, user_ip4, address.0[3]);
            store!(ctx.sock_addr, user_port, u32::from(port.to_be()));
        }
    }
    1
}

#[cgroup_sock_addr(getpeername6)]
fn weft_getpeername6(ctx: SockAddrContext) -> i32 {
    // SAFETY: as above.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if !sk.is_null() {
        let (local, remote) = (address6!(sk, src_ip6), address6!(ctx.sock_addr, user_ip6));
        if let Some((address, port)) = asked(&ctx, local, remote, field!(sk, src_port) as u16) {
            store6!(ctx.sock_addr, address);
            store!(ctx.sock_addr, user_port, u32::from(port.to_be()));
        }
    }
    1
}

/// What the socket has asked for, if that is not where it is connected to.
#[inline(always)]
fn asked(ctx: &SockAddrContext, local: Address, remote: Address, local_port: u16) -> Option<(Address, u16)> {
    let remote_port = u16::from_be(field!(ctx.sock_addr, user_port) as u16);
    let flow = FlowKey { cookie: 0, local, remote, local_port, remote_port, pad: 0 };
    // SAFETY: copied out at once.
    let direct = unsafe { DIRECT.get(&flow) }?;
    let asked = direct.asked;
    (direct.client.socket == socket(ctx) && asked.port != 0).then_some((asked.address, asked.port))
}

#[inline(always)]
pub(crate) fn socket(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is the hook's own.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

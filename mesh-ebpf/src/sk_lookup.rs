//! `sk_lookup` in a pod's namespace: which socket takes a connection that arrives there.
//!
//! Runs for connections that no socket has yet: a SYN, and the ACK that answers a SYN cookie. One instance for each pod,
//! because nothing in this hook's context tells the namespace.
//!
//! ```text
//!   both ends loopback          -> the application
//!   FLOWS: outbound             -> the agent's outbound listener
//!   DIRECT, not open yet        -> the application
//!   the pod is passing          -> the application
//!   FLOWS: exempt, not :15008   -> the application
//!   else                        -> the agent's tunnel listener for :15008, its plaintext listener for the rest
//!   that listener is missing    -> refused
//! ```

use aya_ebpf::{bindings::sk_action, macros::sk_lookup, programs::SkLookupContext};
use aya_log_ebpf::debug;
use mesh_ebpf::{Address, FlowKey, FlowKind, HBONE_PORT, ListenerKey, programs};

use crate::state::{DIRECT, FLOWS, LISTENERS, PODS, address6, either, field, patched};

#[sk_lookup]
fn weft_sk_lookup(ctx: SkLookupContext) -> u32 {
    let packet = ctx.lookup;
    if field!(packet, protocol) != IPPROTO_TCP {
        return sk_action::SK_PASS;
    }
    let (here, there) = either(
        field!(packet, family),
        (Address::v4(field!(packet, local_ip4)), Address::v4(field!(packet, remote_ip4))),
        (address6!(packet, local_ip6), address6!(packet, remote_ip6)),
    );
    if here.is_loopback() && there.is_loopback() {
        return sk_action::SK_PASS;
    }
    let cookie = patched!(programs::POD_COOKIE);
    // The packet's sender is the flow's local end.
    let port = field!(packet, local_port) as u16;
    let flow = FlowKey {
        cookie,
        local: there,
        remote: here,
        local_port: u16::from_be(field!(packet, remote_port)),
        remote_port: port,
        pad: 0,
    };
    // SAFETY: copied out at once.
    let kind = unsafe { FLOWS.get(&flow) }.map_or(0, |kind| kind.0);
    let kind = if kind == FlowKind::OUTBOUND.0 {
        ListenerKey::OUTBOUND
    } else if arrives(cookie, &flow) || is_passing(cookie) {
        return sk_action::SK_PASS;
    } else if port == HBONE_PORT {
        ListenerKey::HBONE
    } else if kind == FlowKind::EXEMPT.0 {
        return sk_action::SK_PASS;
    } else {
        ListenerKey::PLAINTEXT
    };
    let key = ListenerKey { cookie, kind, slot: slot(&flow, kind) };
    match LISTENERS.redirect_sk_lookup(&ctx, key, BPF_SK_LOOKUP_F_NO_REUSEPORT) {
        Ok(()) => {
            debug!(&ctx, "sk_lookup: port {} from port {} to listener {}", port, flow.local_port, kind);
            sk_action::SK_PASS
        }
        Err(_) => {
            debug!(&ctx, "sk_lookup: port {} from port {} refused: no listener {}", port, flow.local_port, kind);
            sk_action::SK_DROP
        }
    }
}

/// Whether the pod is on its way in or out of the mesh, or is in none.
#[inline(always)]
fn is_passing(cookie: u64) -> bool {
    // SAFETY: no reference into the map is kept.
    unsafe { PODS.get(&cookie) }.is_none_or(|pod| pod.is_passing())
}

/// Whether another pod of this node has begun this connection, and may. It is told that its SYN has come to the pod that
/// it is meant for, without which it does not go on (`sock_ops`). Once the connection is open, nobody needs a lookup for
/// it, and what comes with its four numbers is somebody else's.
#[inline(always)]
fn arrives(cookie: u64, flow: &FlowKey) -> bool {
    let Some(direct) = DIRECT.get_ptr_mut(&FlowKey { cookie: 0, ..*flow }) else { return false };
    // SAFETY: an entry of the map, which lives for as long as the program runs; fields are read and written one by one.
    unsafe {
        let expected = (*direct).destination == cookie && (*direct).server.socket == 0;
        if expected {
            (&raw mut (*direct).arrived).write_volatile(1);
        }
        expected
    }
}

/// Which worker's listener: always the same one for the same client, because the ACK of a SYN cookie must come to the
/// listener that sent it. Multiplicative hashing, golden ratio of 2^32.
#[inline(always)]
fn slot(flow: &FlowKey, kind: u32) -> u32 {
    let client = flow.local.0[2] ^ flow.local.0[3] ^ u32::from(flow.local_port);
    let spread = client.wrapping_mul(0x9e37_79b9) ^ u32::from(flow.remote_port);
    let hash = u64::from(spread.wrapping_mul(0x9e37_79b9));
    let slots = patched!(programs::POD_SLOTS) >> (programs::POD_SLOTS_BITS * kind) & 0xffff;
    ((hash * slots) >> 32) as u32
}

/// Of a group that shares a port (SO_REUSEPORT) the kernel would choose any socket, and a process of the pod's that has
/// the agent's user id can join one.
const BPF_SK_LOOKUP_F_NO_REUSEPORT: u64 = 2;
/// <linux/in.h>
const IPPROTO_TCP: u32 = 6;

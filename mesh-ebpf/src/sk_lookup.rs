//! `sk_lookup` in a pod's namespace: which socket takes a connection that arrives there.
//!
//! Runs for connections that no socket has yet: a SYN, and the ACK that answers a SYN cookie. One instance for each pod,
//! because nothing in this hook's context tells the namespace.
//!
//! ```text
//!   both ends loopback          -> the application
//!   FLOWS: outbound             -> the agent's outbound listener
//!   FLOWS: exempt, not :15008   -> the application
//!   else                        -> the agent's tunnel listener for :15008, its plaintext listener for the rest
//!   that listener is missing    -> refused
//! ```

use aya_ebpf::{bindings::sk_action, macros::sk_lookup, programs::SkLookupContext};
use aya_log_ebpf::debug;
use mesh_ebpf::{Address, FlowKey, FlowKind, HBONE_PORT, ListenerKey};

use crate::state::{FLOWS, LISTENERS, WEFT_POD_COOKIE, address6, either, field};

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
    let cookie = WEFT_POD_COOKIE.load();
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
    } else if port == HBONE_PORT {
        ListenerKey::HBONE
    } else if kind == FlowKind::EXEMPT.0 {
        return sk_action::SK_PASS;
    } else {
        ListenerKey::PLAINTEXT
    };
    match LISTENERS.redirect_sk_lookup(&ctx, ListenerKey { cookie, kind, pad: 0 }, 0) {
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

/// <linux/in.h>
const IPPROTO_TCP: u32 = 6;

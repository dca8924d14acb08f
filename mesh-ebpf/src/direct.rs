//! Connections between two pods of this node that no agent carries: ordinary TCP, of which the kernel keeps the books.
//!
//! ```text
//!   client: TCP_CONNECT          an entry in DIRECT, before the SYN
//!   server: sk_lookup            `arrived`: the SYN has come to the namespace that it is meant for
//!   client: ACTIVE_ESTABLISHED   not arrived? then something else answered at that address: no further
//!                                `opened`, and the agent is told
//!   server: PASSIVE_ESTABLISHED  `server.socket`; from here on sk_lookup lets nothing else in by the entry
//!   either: TCP_CLOSE            what arrived at that end, and from which state it closed; after the last one the entry
//!                                goes and the agent is told
//! ```
//!
//! An end that is not who it should be is cut by the mark of captured sockets: what it sends goes to `lo`, where nobody
//! has such a connection, and the reset comes back to it. No other hook could end it at this point.

use aya_ebpf::{helpers::bpf_ktime_get_ns, maps::ring_buf::RingBufEntry, programs::SockOpsContext};
use aya_log_ebpf::debug;
use mesh_ebpf::{Address, Asked, Direct, Event, FlowKey, MARK_CAPTURE, SameNode, Side};

use crate::{
    pacing,
    socket::{cookie, inwards, netns, outwards, set_mark, tell_of_close},
    state::{ASKED, DIRECT, EVENTS, SAME_NODE, field},
};

/// Puts a connection on record; false if there is no room.
#[inline(always)]
pub(crate) fn begin(ctx: &SockOpsContext, key: &FlowKey, source: u64, destination: u64) -> bool {
    let flow = FlowKey { cookie: 0, ..*key };
    if let Some(stale) = DIRECT.get_ptr_mut(&flow) {
        // The client's end is gone and its port used again, while the server's end lingers.
        tell(Event::CLOSED, &flow, stale);
    }
    let none = Side { socket: 0, received: 0, closed: 0, snd_nxt: 0, rcv_nxt: 0, last: 0, pad: 0 };
    let client = Side { socket: cookie(ctx), ..none };
    // SAFETY: copied out at once.
    let asked = unsafe { ASKED.get(&client.socket) }.copied().unwrap_or(Asked {
        address: Address([0; 4]),
        port: 0,
        pad: [0; 3],
    });
    let direct =
        Direct { source, destination, begun: now(), opened: 0, arrived: 0, ended: 0, asked, client, server: none };
    if DIRECT.insert(&flow, &direct, 0).is_err() {
        if let Some(same_node) = SAME_NODE.get_ptr_mut(SameNode::HOOKS) {
            // SAFETY: an entry of an array.
            count(unsafe { &raw mut (*same_node).full });
        }
        return false;
    }
    if asked.port != 0 {
        let _ = ASKED.remove(&client.socket);
    }
    tell_of_close(ctx);
    pacing::end(ctx);
    debug!(ctx, "sock_ops: port {} to port {} goes without the agent", flow.local_port, flow.remote_port);
    true
}

/// The client's end is open.
#[inline(always)]
pub(crate) fn connected(ctx: &SockOpsContext) {
    let flow = outwards(ctx);
    let Some(direct) = DIRECT.get_ptr_mut(&flow) else { return };
    // Not what it has sent: data in a SYN (TCP Fast Open) that the server did not take is sent again.
    let sends = field!(ctx.ops, snd_una);
    // SAFETY: an entry of the map, which lives for as long as the program runs.
    unsafe {
        if (*direct).client.socket != cookie(ctx) {
            return;
        }
        if (&raw const (*direct).arrived).read_volatile() == 0 {
            debug!(ctx, "sock_ops: somebody else answered port {}", flow.local_port);
            return set_mark(ctx, MARK_CAPTURE);
        }
        (*direct).client.snd_nxt = sends;
        (&raw mut (*direct).opened).write_volatile(now());
    }
    tell(Event::OPENED, &flow, direct);
}

/// The server's end is open; false if it is no end of such a connection.
#[inline(always)]
pub(crate) fn accepted(ctx: &SockOpsContext) -> bool {
    let flow = inwards(ctx);
    let Some(direct) = DIRECT.get_ptr_mut(&flow) else { return false };
    let expects = field!(ctx.ops, rcv_nxt);
    // SAFETY: as in `connected`.
    unsafe {
        if (*direct).destination != netns(ctx) || (*direct).server.socket != 0 {
            return true;
        }
        // With data in the SYN (TCP Fast Open) the server's end is first.
        let opened = (&raw const (*direct).opened).read_volatile() != 0;
        if opened && (*direct).client.snd_nxt != expects {
            debug!(ctx, "sock_ops: somebody else came from port {}", flow.local_port);
            set_mark(ctx, MARK_CAPTURE);
            return true;
        }
        (&raw mut (*direct).server.socket).write_volatile(cookie(ctx));
    }
    tell_of_close(ctx);
    pacing::end(ctx);
    true
}

/// One end has closed; false if it is no end of such a connection.
#[inline(always)]
pub(crate) fn closed(ctx: &SockOpsContext) -> bool {
    let own = cookie(ctx);
    let flow = outwards(ctx);
    if let Some(direct) = DIRECT.get_ptr_mut(&flow) {
        // SAFETY: as in `connected`.
        unsafe {
            if (*direct).client.socket == own {
                note(ctx, &raw mut (*direct).client);
                last(&flow, direct);
                return true;
            }
        }
    }
    let flow = inwards(ctx);
    if let Some(direct) = DIRECT.get_ptr_mut(&flow) {
        // SAFETY: as in `connected`.
        unsafe {
            if (*direct).server.socket == own {
                note(ctx, &raw mut (*direct).server);
                last(&flow, direct);
                return true;
            }
        }
    }
    false
}

/// # Safety
/// `side` is in an entry of the map.
#[inline(always)]
unsafe fn note(ctx: &SockOpsContext, side: *mut Side) {
    let (received, snd_nxt) = (field!(ctx.ops, bytes_received), field!(ctx.ops, snd_nxt));
    let (rcv_nxt, last) = (field!(ctx.ops, rcv_nxt), ctx.arg(0));
    // SAFETY: the caller's word.
    unsafe {
        (*side).received = received;
        (*side).snd_nxt = snd_nxt;
        (*side).rcv_nxt = rcv_nxt;
        (*side).last = last;
        (&raw mut (*side).closed).write_volatile(now());
    }
}

/// Counts an end that has closed, and tells of the connection after its last one. Both ends may be here at once: who
/// counts second sees both, and of two who see both one removes the entry.
///
/// # Safety
/// `direct` is an entry of the map.
#[inline(always)]
unsafe fn last(flow: &FlowKey, direct: *mut Direct) {
    // SAFETY: the caller's word.
    let (ended, ends) = unsafe {
        count(&raw mut (*direct).ended);
        let ended = (&raw const (*direct).ended).read_volatile();
        (ended, if (&raw const (*direct).server.socket).read_volatile() == 0 { 1 } else { 2 })
    };
    if ended < ends {
        return;
    }
    // Copied before it is removed, because its memory may be another's then.
    let event = written(Event::CLOSED, flow, direct);
    let removed = DIRECT.remove(flow).is_ok();
    if let Some(event) = event {
        if removed { event.submit(0) } else { event.discard(0) }
    }
}

#[inline(always)]
fn tell(kind: u64, flow: &FlowKey, direct: *const Direct) {
    if let Some(event) = written(kind, flow, direct) {
        event.submit(0);
    }
}

/// Room in the ring, with the event in it; to be submitted or discarded.
#[inline(always)]
fn written(kind: u64, flow: &FlowKey, direct: *const Direct) -> Option<RingBufEntry<Event>> {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        if let Some(same_node) = SAME_NODE.get_ptr_mut(SameNode::HOOKS) {
            // SAFETY: an entry of an array.
            count(unsafe { &raw mut (*same_node).lost });
        }
        return None;
    };
    // SAFETY: as long as an event, and written whole; `direct` is an entry of the map.
    unsafe {
        let event = entry.as_mut_ptr();
        (*event).kind = kind;
        (*event).flow = *flow;
        (*event).direct = *direct;
    }
    Some(entry)
}

/// Adds one, whoever else does: `BPF_XADD`, which every kernel has and core's atomics lack on this target.
#[inline(always)]
fn count(counter: *mut u64) {
    // SAFETY: the counter is aligned and in a map; the instruction changes nothing else.
    unsafe { core::arch::asm!("lock *(u64 *)({} + 0) += {}", in(reg) counter, in(reg) 1_u64, options(nostack)) }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

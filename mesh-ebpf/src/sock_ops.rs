//! `sock_ops` on TCP_CONNECT: whose connection is this. The source port is known, the SYN not yet sent.
//!
//! Later for a connection between two pods of this node that no agent carries (`direct.rs`): that it is open, that it is
//! closed.
//!
//! Here alone can be told from what a SYN's addresses do not show: that it is the pod's own (take it), the agent's (let
//! it through to the application) or a node process's (a probe). `sk_lookup` finds the word left in `FLOWS`. The entry
//! goes when the initiator's socket closes, so that nobody can reuse the ports of a connection that was let through.

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE,
    },
    macros::sock_ops,
    programs::SockOpsContext,
};
use aya_log_ebpf::debug;
use mesh_ebpf::{Address, FlowKey, FlowKind, MARK_CAPTURE, MARK_DRAWN, MARK_MASK};

use crate::{
    direct, pacing,
    socket::{cookie, ends, inwards, is_multipath, key, mark, netns, set_mark, tell_of_close},
    state::{AGENT_SOCKETS, FLOWS, PODS, SETTINGS, at, is_direct},
};

#[sock_ops]
fn weft_sock_ops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(&ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => direct::connected(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(&ctx),
        // Only sockets that asked for it come here.
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
        let kind = if AGENT_SOCKETS.remove(&cookie(ctx)).is_ok() {
            remember(ctx, &key, FlowKind::EXEMPT);
            // Into an application; else it leaves the pod, as a tunnel or as it was asked for.
            if at(&remote) == Some(netns) {
                pacing::end(ctx);
            }
            return;
        } else if pod.is_passing() {
            // Captured a moment before it began: without an entry nobody would know it for the pod's own.
            if mark(ctx).is_some_and(|mark| mark & !MARK_DRAWN == MARK_CAPTURE) {
                remember(ctx, &key, FlowKind::OUTBOUND);
                pacing::end(ctx);
            }
            return;
        } else if remote.is_loopback() {
            if local.is_loopback() {
                return;
            }
            FlowKind::EXEMPT
        } else if remote.is_link_local_v6() {
            return;
        } else if same(&remote, &local) {
            FlowKind::EXEMPT
        } else if let Some(there) = at(&remote)
            && (there == netns || between(ctx, &key, netns, there))
        {
            if there != netns {
                return;
            }
            FlowKind::EXEMPT
        } else {
            // The socket is marked already, unless the pod changed it after a deferred TCP_FASTOPEN_CONNECT. The
            // kernel routes anew after this hook when the mark changes (`rebuild_header` in `tcp_connect`).
            FlowKind::OUTBOUND
        };
        // Marked if and only if it is captured, which is how the agent tells who came to a listener by its port.
        let drawn = mark(ctx) == Some(MARK_CAPTURE | MARK_DRAWN);
        set_mark(
            ctx,
            match kind.0 == FlowKind::OUTBOUND.0 {
                true if drawn => MARK_CAPTURE | MARK_DRAWN,
                true => MARK_CAPTURE,
                false => 0,
            },
        );
        remember(ctx, &key, kind);
        pacing::end(ctx);
    } else if SETTINGS.get(0).is_some_and(|settings| settings.node_cookie == netns) {
        let (local, remote) = ends(ctx);
        if let Some(pod) = at(&remote) {
            let key = key(ctx, pod, local, remote);
            remember(ctx, &key, FlowKind::NODE);
            pacing::end(ctx);
        }
    }
}

/// Whether the connection goes to another pod of this node without the agent. Nobody has marked the socket since the
/// connect hook; the source is an address of the pod's own that policy was asked about; and it is no multipath
/// connection, which would not end with the socket.
#[inline(always)]
fn between(ctx: &SockOpsContext, key: &FlowKey, source: u64, destination: u64) -> bool {
    is_direct(source, destination, &key.remote, key.remote_port)
        && at(&key.local) == Some(source)
        && mark(ctx).is_some_and(|mark| mark & MARK_MASK == 0)
        && !is_multipath(ctx)
        && direct::begin(ctx, key, source, destination)
}

#[inline(always)]
fn remember(ctx: &SockOpsContext, key: &FlowKey, kind: FlowKind) {
    let _ = FLOWS.insert(key, kind, 0);
    tell_of_close(ctx);
    debug!(ctx, "sock_ops: port {} to port {} is of kind {}", key.local_port, key.remote_port, kind.0);
}

/// A connection has come: from where, the initiator's end has left word of if it is of this node.
#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    if direct::accepted(ctx) || !pacing::is_paced(ctx) {
        return;
    }
    let flow = FlowKey { cookie: netns(ctx), ..inwards(ctx) };
    // SAFETY: no reference into the map is kept.
    if unsafe { FLOWS.get(&flow) }.is_some() {
        pacing::end(ctx);
    }
}

#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    if direct::closed(ctx) {
        return;
    }
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
fn same(a: &Address, b: &Address) -> bool {
    a.0[0] == b.0[0] && a.0[1] == b.0[1] && a.0[2] == b.0[2] && a.0[3] == b.0[3]
}

//! What the kernel's books say of a connection: bytes each way, and how it ended.

use mesh_ebpf::{Direct, Side};

use crate::connection::End;

/// Bytes from the client to the application, and back, of a connection that has closed. What counts is what arrived: as for
/// a connection that the agent carries, bytes that were sent and never received are not among them.
pub fn bytes(direct: &Direct) -> (u64, u64) {
    (arrived(&direct.server, &direct.client), arrived(&direct.client, &direct.server))
}

/// How a connection ended of which nobody in the agent has asked that.
pub fn end(direct: &Direct) -> End {
    if direct.opened == 0 {
        return not_opened(direct);
    }
    let ends = [(&direct.client, "client"), (&direct.server, "destination")];
    if !ends.iter().any(|(side, _)| is_cut(side)) {
        return End::complete();
    }
    // Who resets a connection closes it first, and the other when it hears of it.
    let first = if direct.server.closed == 0 || direct.client.closed <= direct.server.closed { 0 } else { 1 };
    let reason = ["client_reset", "destination_reset"][first];
    End::because(reason, format!("the {} reset the connection", ends[first].1))
}

fn not_opened(direct: &Direct) -> End {
    if direct.client.last == ESTABLISHED {
        return End::because("wrong_destination", "somebody else than the pod answered at its address");
    }
    // The kernel does not say why a connection was given up; an answer within a node takes less than a first repetition
    // of the SYN (RFC 6298, section 2).
    let waited = direct.client.closed.saturating_sub(direct.begun);
    if direct.arrived != 0 && waited < FIRST_REPETITION {
        End::because("connect_refused", "the destination refused the connection")
    } else {
        End::because("connect_timeout", "the destination did not answer")
    }
}

/// What `to` received of what `from` sent. The kernel counts a FIN as a byte.
fn arrived(to: &Side, from: &Side) -> u64 {
    let fin = match to.last {
        CLOSE_WAIT | LAST_ACK | CLOSING => true,
        // It closed first: with the other's FIN, or without, if it gave up waiting for it.
        FIN_WAIT2 => matches!(from.last, FIN_WAIT1 | FIN_WAIT2 | CLOSING | LAST_ACK) && to.rcv_nxt == from.snd_nxt,
        _ => false,
    };
    to.received.saturating_sub(fin.into())
}

/// Whether it closed without having sent its FIN and had it acknowledged.
fn is_cut(side: &Side) -> bool {
    side.closed != 0 && matches!(side.last, ESTABLISHED | SYN_RECV | FIN_WAIT1 | CLOSE_WAIT)
}

const FIRST_REPETITION: u64 = 1_000_000_000;

/// <net/tcp_states.h>
const ESTABLISHED: u32 = 1;
const SYN_RECV: u32 = 3;
const FIN_WAIT1: u32 = 4;
const FIN_WAIT2: u32 = 5;
const CLOSE_WAIT: u32 = 8;
const LAST_ACK: u32 = 9;
const CLOSING: u32 = 11;

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(client: Side, server: Side) -> Direct {
        Direct {
            source: 1,
            destination: 2,
            begun: 1,
            opened: 2,
            arrived: 1,
            ended: 2,
            asked: Default::default(),
            client,
            server,
        }
    }

    /// States that the two ends closed from, who closed first, and what each received by the kernel's count.
    #[track_caller]
    fn check(client: (u32, u64, u64), server: (u32, u64, u64), reason: &str, bytes_expected: (u64, u64)) {
        let side = |socket, (last, closed, received): (u32, u64, u64)| Side {
            socket,
            received,
            closed,
            last,
            // Both ends have all that the other sent.
            snd_nxt: 7,
            rcv_nxt: 7,
            pad: 0,
        };
        let direct = opened(side(1, client), side(2, server));
        assert_eq!((end(&direct).reason, bytes(&direct)), (reason, bytes_expected));
    }

    #[test]
    fn orderly_ends_are_complete_and_no_fin_is_counted() {
        check((FIN_WAIT2, 11, 101), (LAST_ACK, 10, 51), "complete", (50, 100));
        check((LAST_ACK, 10, 101), (FIN_WAIT2, 11, 51), "complete", (50, 100));
        check((CLOSING, 10, 101), (CLOSING, 11, 51), "complete", (50, 100));
    }

    #[test]
    fn who_cuts_a_connection_is_who_closed_first() {
        check((ESTABLISHED, 10, 100), (ESTABLISHED, 11, 50), "client_reset", (50, 100));
        check((ESTABLISHED, 11, 100), (ESTABLISHED, 10, 50), "destination_reset", (50, 100));
        // The client has sent its FIN, the server resets.
        check((FIN_WAIT2, 11, 100), (CLOSE_WAIT, 10, 51), "destination_reset", (50, 100));
        // The server has, the client resets.
        check((CLOSE_WAIT, 10, 101), (FIN_WAIT2, 11, 50), "client_reset", (50, 100));
    }

    #[test]
    fn an_end_that_gave_up_waiting_got_no_fin() {
        let side = |socket, last, closed, received, snd_nxt, rcv_nxt| Side {
            socket,
            received,
            closed,
            snd_nxt,
            rcv_nxt,
            last,
            pad: 0,
        };
        let direct = opened(side(1, FIN_WAIT2, 10, 100, 51, 100), side(2, LAST_ACK, 11, 51, 102, 51));
        assert_eq!(bytes(&direct), (50, 100));
    }

    #[test]
    fn what_never_opened_was_refused_or_not_answered() {
        let none = Side::default();
        let mut direct = Direct {
            source: 1,
            destination: 2,
            begun: 10,
            opened: 0,
            arrived: 1,
            ended: 1,
            asked: Default::default(),
            client: Side { socket: 1, closed: 1000, last: 2, ..none },
            server: none,
        };
        assert_eq!(end(&direct).reason, "connect_refused");
        direct.client.closed = 3 * FIRST_REPETITION;
        assert_eq!(end(&direct).reason, "connect_timeout");
        direct.client.last = ESTABLISHED;
        assert_eq!(end(&direct).reason, "wrong_destination");
        assert_eq!(bytes(&direct), (0, 0));
    }
}

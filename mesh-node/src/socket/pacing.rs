//! Tunnels over a short path are not paced.
//!
//! BBR, the default of many nodes, sends by a clock. That pays on paths that are long or lose much; between two nodes of one
//! zone its timers are a fifth of what a carried byte costs, and a loss is mended within a millisecond whoever finds it. There
//! a tunnel sends by CUBIC, the kernel's own default. Any other algorithm is left as it is. Ends within one host are seen to by eBPF
//! (`mesh-ebpf/src/pacing.rs`).
//!
//! How long the path is, the handshake tells; but a socket that BBR had for a moment is paced for good, whoever has it next (Linux
//! 6.18). So a tunnel begins with CUBIC and is given back to BBR where the path is long, before it has sent anything.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::net::TcpStream;
use tracing::debug;

use super::option;

/// What the tunnels of a pod send by.
#[derive(Clone, Debug)]
pub struct Pacing {
    /// What its namespace has, if that is paced and not for all tunnels; and the round trip from which on they keep it.
    paced: Option<(Arc<[u8]>, Duration)>,
}

impl Pacing {
    /// For a pod whose tunnels these sockets listen for, or are to. Tunnels whose handshake takes as long as `from` or longer send by
    /// what the pod's namespace has: all, if that is zero.
    pub fn of(listeners: &[TcpListener], from: Duration) -> Self {
        let unpaced = || -> io::Result<Option<(Arc<[u8]>, Duration)>> {
            let Some(one) = listeners.first().filter(|_| !from.is_zero()) else { return Ok(None) };
            let name = SockRef::from(one).tcp_congestion()?;
            let name: Arc<[u8]> = name.split(|byte| *byte == 0).next().unwrap_or_default().into();
            // bbr, and what is built beside it as bbr2 and bbr3.
            if !name.starts_with(b"bbr") {
                return Ok(None);
            }
            for listener in listeners {
                // Accepted sockets have what was set on their listener.
                SockRef::from(listener).set_tcp_congestion(CUBIC)?;
            }
            Ok(Some((name, from)))
        };
        // A kernel without CUBIC: all are paced, then.
        let paced = unpaced().inspect_err(|error| debug!(%error, "congestion control of tunnels stays")).ok().flatten();
        Self { paced }
    }

    /// For a socket that is to be connected to a tunnel's other end.
    pub(super) fn begin(&self, socket: &Socket) {
        if self.paced.is_some() {
            // It did for the listeners. A tunnel is a tunnel by whatever it sends.
            let _ = socket.set_tcp_congestion(CUBIC);
        }
    }

    /// For an end of a tunnel that is open and has sent nothing.
    pub fn settle(&self, tunnel: &TcpStream) {
        let Some((name, from)) = &self.paced else { return };
        // If that cannot be told the connection is gone, which the handshake will tell.
        if option::round_trip(tunnel.as_fd()).is_ok_and(|took| took >= *from) {
            let _ = SockRef::from(tunnel).set_tcp_congestion(name);
        }
    }
}

const CUBIC: &[u8] = b"cubic";

#[cfg(test)]
mod tests {
    use socket2::{Domain, Type};

    use super::*;

    /// A listener that has congestion control `name`, or none where the kernel has no such.
    fn listener(name: &str) -> Option<TcpListener> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        if let Err(error) = SockRef::from(&listener).set_tcp_congestion(name.as_bytes()) {
            println!("skipped: congestion control {name}: {error}");
            return None;
        }
        Some(listener)
    }

    /// What both ends of a tunnel to the listener send by: the one that dials, the one that accepts.
    fn ends(listener: &TcpListener, pacing: &Pacing) -> [String; 2] {
        let dialling = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        dialling.set_tcp_congestion(&SockRef::from(listener).tcp_congestion().unwrap()).unwrap();
        pacing.begin(&dialling);
        dialling.connect(&listener.local_addr().unwrap().into()).unwrap();
        let ends = [dialling.into(), listener.accept().unwrap().0];
        ends.map(|end: std::net::TcpStream| {
            end.set_nonblocking(true).unwrap();
            let end = TcpStream::from_std(end).unwrap();
            pacing.settle(&end);
            let name = SockRef::from(&end).tcp_congestion().unwrap();
            String::from_utf8(name).unwrap().trim_end_matches('\0').to_owned()
        })
    }

    #[tokio::test]
    async fn both_ends_of_a_short_path_send_by_cubic() {
        let Some(listener) = listener("bbr") else { return };
        let pacing = Pacing::of(std::slice::from_ref(&listener), Duration::from_secs(1));
        assert_eq!(ends(&listener, &pacing), ["cubic", "cubic"]);
    }

    #[tokio::test]
    async fn both_ends_of_a_long_path_send_by_what_the_namespace_has() {
        let Some(listener) = listener("bbr") else { return };
        let pacing = Pacing::of(std::slice::from_ref(&listener), Duration::from_nanos(1));
        assert_eq!(ends(&listener, &pacing), ["bbr", "bbr"]);
    }

    #[tokio::test]
    async fn an_agent_that_is_told_so_leaves_all_as_it_is() {
        let Some(listener) = listener("bbr") else { return };
        let pacing = Pacing::of(std::slice::from_ref(&listener), Duration::ZERO);
        assert_eq!(ends(&listener, &pacing), ["bbr", "bbr"]);
    }

    #[tokio::test]
    async fn an_algorithm_that_sends_when_it_may_stays() {
        let listener = listener("reno").expect("every kernel has it");
        let pacing = Pacing::of(std::slice::from_ref(&listener), Duration::from_secs(1));
        assert_eq!(ends(&listener, &pacing), ["reno", "reno"]);
    }
}

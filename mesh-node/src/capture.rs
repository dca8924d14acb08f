//! Connections that the kernel hands to the agent.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tracing::{trace, warn};

use crate::connections::{Connections, Hold};
use crate::pod::Pod;
use crate::socket;

/// A connection as accepted: whose it is, whom it asked for, and who asked.
#[derive(Debug)]
pub struct Captured {
    pub pod: Arc<Pod>,
    pub stream: TcpStream,
    /// What the client dialled.
    pub asked: SocketAddr,
    pub client: SocketAddr,
    pub at: Instant,
    /// To be kept for as long as the connection, or the tunnel, is served.
    pub hold: Hold,
}

/// How long a listener of a withdrawn pod goes on: a client whose SYN came before the withdrawal has been answered, and
/// its ACK, or the SYN-ACK sent again after a second (RFC 6298, section 2), is on its way.
pub const LINGER: Duration = Duration::from_secs(2);

/// Pause after the process ran out of descriptors or memory: connections wait in the kernel's queue meanwhile.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Hands each connection of a listener to `serve` until the pod has been withdrawn for [`LINGER`].
pub async fn accept(listener: TcpListener, pod: Arc<Pod>, connections: Connections, serve: impl Fn(Captured)) {
    let mut over = pin!(async {
        pod.withdrawn().await;
        tokio::time::sleep(LINGER).await;
    });
    let port = listener.local_addr().map_or(0, |own| own.port());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut over => return,
            accepted = listener.accept() => accepted,
        };
        let (at, hold) = (Instant::now(), connections.hold(pod.cookie));
        match accepted.and_then(|(stream, peer)| Ok((socket::asked(&stream)?, socket::canonical(peer), stream))) {
            Ok((asked, _, stream)) if socket::is_direct(&stream, asked, port) => socket::reset(stream),
            Ok((asked, client, stream)) => {
                trace!(pod = %pod.name, %client, %asked, "connection taken");
                serve(Captured { pod: pod.clone(), stream, asked, client, at, hold });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                warn!(%error, pod = %pod.name, "accept");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

/// The client was gone before it was accepted (accept(2) passes on pending network errors).
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}

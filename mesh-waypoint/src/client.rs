//! Who asks: known from the tunnel, for all that comes over it.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_core::identity::SpiffeId;
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::Workload;
use mesh_net::tunnel::server::Request;

#[derive(Clone, Debug)]
pub struct Client {
    /// Proven by mutual TLS.
    pub identity: SpiffeId,
    /// The tunnel's end is on the client pod's own address; the port is what the peer says of the client's connection.
    pub address: SocketAddr,
    /// By its address, believed only if it has the identity that the peer proved.
    pub workload: Option<Arc<Workload>>,
}

impl Client {
    pub fn new(snapshot: &Snapshot, network: &Arc<str>, request: &Request, peer: SocketAddr) -> Self {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        // A peer's word on another address is not taken.
        let address = match &request.head().forwarded {
            Some(forwarded) if forwarded.for_.ip().to_canonical() == peer.ip() => forwarded.for_,
            _ => peer,
        };
        let identity = request.peer().clone();
        let workload = snapshot.workloads_at(network, peer.ip()).find(|w| w.identity == identity).cloned();
        Self { identity, address: SocketAddr::new(peer.ip(), address.port()), workload }
    }
}

//! A pod of this node that is in the mesh.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::SpiffeId;
use mesh_core::workload::Uid;
use mesh_net::certificates::Lease;
use mesh_net::pool::Origin;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::cost::Cost;
use crate::netns::{Netns, NetnsCookie};
use crate::shares::shared;
use crate::socket;
use crate::socket::pacing::Pacing;

/// An enrolled pod: its connections come to the agent, and the agent speaks for its identity.
#[derive(Debug)]
pub struct Pod {
    /// Name under which its manager knows it.
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Its name on the control stream.
    pub workload: Uid,
    pub identity: SpiffeId,
    pub netns: Netns,
    pub cookie: NetnsCookie,
    /// Its own addresses, link-local ones left out.
    pub addresses: Vec<IpAddr>,
    pub certificate: Lease,
    pub cost: Arc<Cost>,
    pub pacing: Pacing,
    withdrawn: watch::Sender<bool>,
}

/// What makes a pod; see [`Pod`] for the fields.
#[derive(Debug)]
pub struct Enrolment {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub workload: Uid,
    pub identity: SpiffeId,
    pub netns: Netns,
    pub addresses: Vec<IpAddr>,
    pub certificate: Lease,
    pub cost: Arc<Cost>,
    pub pacing: Pacing,
}

impl Pod {
    pub fn new(e: Enrolment) -> Self {
        let cookie = e.netns.cookie();
        Self {
            uid: e.uid,
            namespace: e.namespace,
            name: e.name,
            workload: e.workload,
            identity: e.identity,
            netns: e.netns,
            cookie,
            addresses: e.addresses,
            certificate: e.certificate,
            cost: e.cost,
            pacing: e.pacing,
            withdrawn: watch::Sender::new(false),
        }
    }

    pub fn owns(&self, ip: IpAddr) -> bool {
        self.addresses.contains(&ip.to_canonical())
    }

    /// Takes no more connections; those that live go on.
    pub fn withdraw(&self) {
        self.withdrawn.send_replace(true);
    }

    pub fn is_withdrawn(&self) -> bool {
        *self.withdrawn.borrow()
    }

    /// Resolves when the pod was withdrawn.
    pub async fn withdrawn(&self) {
        // The sender lives as long as `self`.
        let _ = self.withdrawn.subscribe().wait_for(|withdrawn| *withdrawn).await;
    }
}

/// Tunnels leave from the pod's own namespace, with its address and identity.
impl Origin for Pod {
    fn key(&self) -> u64 {
        self.cookie.0
    }

    fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    fn certificate(&self) -> &Lease {
        &self.certificate
    }

    async fn connect(&self, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        socket::connect_tunnel(&self.netns, to, &self.pacing, timeout).await
    }

    fn drive(&self, driver: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(shared(self.cost.clone(), driver));
    }
}

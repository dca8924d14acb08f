//! What is at hand for as long as a stream is: what all streams share, who asks, and for what.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::l7::PortRules;
use tokio::sync::watch;

use crate::asked::Asked;
use crate::client::Client;
use crate::engine::authorization::{ConnectionPolicies, Peer};
use crate::engine::experience::Experiences;
use crate::engine::limits::Breakers;
use crate::keys::Keys;
use crate::limits::Limits;
use crate::telemetry::Telemetry;
use crate::upstream::Upstreams;
use crate::world::{Compiled, World};

/// What all streams of a worker share.
#[derive(Clone)]
pub struct Shared {
    pub world: watch::Receiver<Option<Arc<World>>>,
    pub upstreams: Upstreams,
    pub telemetry: Telemetry,
    pub limits: Limits,
    /// Turns true when this instance is to stop: what is open ends in good order.
    pub draining: watch::Receiver<bool>,
    pub experiences: Arc<Experiences>,
    pub breakers: Arc<Breakers>,
    pub keys: Keys,
    pub network: Arc<str>,
}

/// One stream, asked for by one client.
#[derive(Clone)]
pub struct Session {
    pub shared: Shared,
    pub client: Arc<Client>,
    pub asked: Asked,
    /// Of the model that was in force at the last request.
    narrowed: Arc<Mutex<Option<Narrowed>>>,
}

/// Policies that may concern this client, with the model that they are of.
type Narrowed = (Arc<Compiled>, Arc<ConnectionPolicies>);

impl Session {
    pub fn new(shared: Shared, client: Client, asked: Asked) -> Self {
        Self { shared, client: Arc::new(client), asked, narrowed: Arc::default() }
    }

    /// For a request of the waypoint's own, on the way of this one.
    pub fn on_errand(&self, asked: Asked) -> Self {
        Self { shared: self.shared.clone(), client: self.client.clone(), asked, narrowed: Arc::default() }
    }

    /// What is left to ask of each request of this client.
    pub fn policies(&self, compiled: &Arc<Compiled>, peer: Peer<'_>) -> Arc<ConnectionPolicies> {
        let mut narrowed = self.narrowed.lock().unwrap_or_else(PoisonError::into_inner);
        match &*narrowed {
            Some((of, policies)) if Arc::ptr_eq(of, compiled) => policies.clone(),
            _ => {
                let policies = Arc::new(compiled.policies.for_connection(peer));
                *narrowed = Some((compiled.clone(), policies.clone()));
                policies
            }
        }
    }

    pub fn world(&self) -> Arc<World> {
        self.shared.world.borrow().clone().unwrap_or_default()
    }

    pub fn compiled(&self, world: &World) -> Option<Arc<Compiled>> {
        world.compiled(&self.asked.target()).cloned()
    }

    pub fn address(&self) -> SocketAddr {
        self.asked.address
    }

    /// Rules of the port that was asked for. A workload's own ports have none.
    pub fn rules<'a>(&self, compiled: &'a Compiled) -> Option<&'a PortRules> {
        compiled.model.ports.get(&self.asked.address.port())
    }
}

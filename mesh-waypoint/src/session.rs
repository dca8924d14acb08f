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
use crate::engine::ratelimit::ConnectionLimits;
use crate::keys::Keys;
use crate::limits::Limits;
use crate::overload::{Overload, Party};
use crate::spots::Spots;
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
    pub overload: Overload,
    /// Turns true when this instance is to stop: what is open ends in good order.
    pub draining: watch::Receiver<bool>,
    pub experiences: Arc<Experiences>,
    pub breakers: Arc<Breakers>,
    pub spots: Spots,
    pub keys: Keys,
    pub network: Arc<str>,
}

/// One stream, asked for by one client.
#[derive(Clone)]
pub struct Session {
    pub shared: Shared,
    pub client: Arc<Client>,
    /// What is counted for this client.
    pub party: Arc<Party>,
    pub asked: Asked,
    /// Of the model that was in force at the last request.
    narrowed: Arc<Mutex<Option<Arc<Narrowed>>>>,
}

/// What may concern this client, with the model that it is of.
pub struct Narrowed {
    of: Arc<Compiled>,
    pub policies: ConnectionPolicies,
    pub limits: ConnectionLimits,
}

impl Session {
    pub fn new(shared: Shared, client: Client, asked: Asked) -> Self {
        let party = shared.overload.party(&client.identity);
        Self { shared, client: Arc::new(client), party, asked, narrowed: Arc::default() }
    }

    /// For a request of the waypoint's own, on the way of this one.
    pub fn on_errand(&self, asked: Asked) -> Self {
        let Self { shared, client, party, .. } = self.clone();
        Self { shared, client, party, asked, narrowed: Arc::default() }
    }

    /// What is left to ask of each request of this client.
    pub fn narrowed(&self, compiled: &Arc<Compiled>) -> Arc<Narrowed> {
        let mut narrowed = self.narrowed.lock().unwrap_or_else(PoisonError::into_inner);
        match &*narrowed {
            Some(known) if Arc::ptr_eq(&known.of, compiled) => known.clone(),
            _ => {
                let peer = Peer {
                    identity: Some(&self.client.identity),
                    address: self.client.address.ip(),
                    destination: self.asked.address.ip(),
                    port: self.asked.address.port(),
                    sni: None,
                };
                let policies = compiled.policies.for_connection(peer);
                let limits = compiled.rate_limits.for_connection(peer);
                let made = Arc::new(Narrowed { of: compiled.clone(), policies, limits });
                *narrowed = Some(made.clone());
                made
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

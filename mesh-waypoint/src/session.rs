//! What is at hand for as long as a stream is: what all streams share, who asks, and for what.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use mesh_core::l7::PortRules;
use mesh_core::service::Service;
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

impl Shared {
    /// With nothing counted or known yet, limits as they are by default, no network and no telemetry; callers say what differs.
    pub fn new(
        world: watch::Receiver<Option<Arc<World>>>,
        draining: watch::Receiver<bool>,
        upstreams: Upstreams,
        overload: Overload,
    ) -> Self {
        Self {
            world,
            upstreams,
            telemetry: Telemetry::default(),
            limits: Limits::default(),
            overload,
            draining,
            experiences: Arc::default(),
            breakers: Arc::default(),
            spots: Spots::default(),
            keys: Keys::default(),
            network: "".into(),
        }
    }
}

/// One stream, asked for by one client.
#[derive(Clone)]
pub struct Session {
    pub shared: Shared,
    pub client: Arc<Client>,
    /// What is counted for this client.
    pub party: Arc<Party>,
    pub asked: Asked,
    /// At the last request.
    in_force: Arc<Mutex<Option<Arc<InForce>>>>,
}

/// What of a state of the world concerns one client: looked up once for all requests that it holds for. The state itself is not
/// kept by who is idle.
pub struct InForce {
    world: u64,
    /// `None`: what is asked for does not use this waypoint any more.
    pub compiled: Option<Arc<Compiled>>,
    /// `None`: what is asked for is a workload.
    pub service: Option<Arc<Service>>,
    narrowed: OnceLock<Arc<Narrowed>>,
}

/// What may concern this client.
pub struct Narrowed {
    pub policies: ConnectionPolicies,
    pub limits: ConnectionLimits,
}

impl Session {
    pub fn new(shared: Shared, client: Client, asked: Asked) -> Self {
        let party = shared.overload.party(&client.identity);
        Self { shared, client: Arc::new(client), party, asked, in_force: Arc::default() }
    }

    /// For a request of the waypoint's own, on the way of this one.
    pub fn on_errand(&self, asked: Asked) -> Self {
        let Self { shared, client, party, .. } = self.clone();
        Self { shared, client, party, asked, in_force: Arc::default() }
    }

    pub fn world(&self) -> Arc<World> {
        self.shared.world.borrow().clone().unwrap_or_default()
    }

    pub fn in_force(&self, world: &World) -> Arc<InForce> {
        let mut known = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some(known) if known.world == world.id => known.clone(),
            before => {
                let now = Arc::new(self.looked_up(world, before.as_deref()));
                *known = Some(now.clone());
                now
            }
        }
    }

    fn looked_up(&self, world: &World, before: Option<&InForce>) -> InForce {
        let compiled = world.compiled(&self.asked.target()).cloned();
        let service = self.asked.service(&world.snapshot);
        let is_same =
            |before: &&InForce| before.compiled.as_ref().map(Arc::as_ptr) == compiled.as_ref().map(Arc::as_ptr);
        let narrowed = before.filter(is_same).map(|before| before.narrowed.clone()).unwrap_or_default();
        InForce { world: world.id, compiled, service, narrowed }
    }

    /// What is left to ask of each request of this client, by a model that is in force.
    pub fn narrowed<'a>(&self, at: &'a InForce, compiled: &Compiled) -> &'a Narrowed {
        at.narrowed.get_or_init(|| {
            let peer = Peer {
                identity: Some(&self.client.identity),
                address: self.client.address.ip(),
                destination: self.asked.address.ip(),
                port: self.asked.address.port(),
                sni: None,
            };
            let policies = compiled.policies.for_connection(peer);
            let limits = compiled.rate_limits.for_connection(peer);
            Arc::new(Narrowed { policies, limits })
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.asked.address
    }

    /// Rules of the port that was asked for. A workload's own ports have none.
    pub fn rules<'a>(&self, compiled: &'a Compiled) -> Option<&'a PortRules> {
        compiled.model.ports.get(&self.asked.address.port())
    }
}

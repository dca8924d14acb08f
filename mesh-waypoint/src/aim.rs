//! Where a request or a connection goes: a service with what holds there, and one of its endpoints at a time.

use std::sync::Arc;
use std::time::Instant;

use mesh_core::addr::NetworkAddress;
use mesh_core::l7::Protocol;
use mesh_core::l7::destination::{self, Balance};
use mesh_core::l7::route::BackendRef;
use mesh_core::service::Service;
use mesh_core::workload::{ServiceKey, Uid};
use tracing::info;

use crate::asked::Of;
use crate::dial::Endpoint;
use crate::engine::balance::stick::{self, Stuck};
use crate::engine::balance::{self, Asker, Choice};
use crate::engine::experience::{InFlight, Target};
use crate::engine::limits::{Limited, Overflow, Taken};
use crate::engine::outliers::Outcome;
use crate::originate::Secured;
use crate::session::Session;
use crate::spots::Spot;
use crate::upstream::Terms;
use crate::world::{Compiled, World};

#[derive(Clone, Debug)]
pub enum Destination {
    Service {
        service: ServiceKey,
        port: u16,
        subset: Option<Arc<str>>,
    },
    /// The workload that was asked for by its own address.
    Itself,
}

impl Destination {
    /// `None`: what the rule leads to is not there.
    pub fn of(backend: &BackendRef) -> Option<Self> {
        match backend {
            BackendRef::Service { service, port, subset } => {
                Some(Self::Service { service: service.clone(), port: *port, subset: subset.clone() })
            }
            BackendRef::Missing { .. } => None,
        }
    }
}

/// The service, its port or the subset is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;

/// A destination with what holds there, for one request.
pub struct Aim<'a> {
    pub service: Option<Arc<Service>>,
    pub policy: &'a destination::Policy,
    pub protocol: Protocol,
    pub stuck: Stuck,
    at: Option<Arc<Spot>>,
}

/// Held for as long as a request is under way, its response's body included.
pub type UnderWay = (Option<InFlight>, Option<Taken>);

impl<'a> Aim<'a> {
    /// `head`: of the request, for what sticks.
    ///
    /// # Errors
    /// See [`Unknown`].
    pub fn new(
        session: &Session,
        world: &World,
        compiled: &'a Compiled,
        to: &Destination,
        head: &stick::Head<'_>,
    ) -> Result<Self, Unknown> {
        let Destination::Service { service: key, port, subset } = to else {
            return Ok(Self {
                service: None,
                policy: compiled.default_policy(),
                protocol: Protocol::Detect,
                stuck: Stuck::default(),
                at: None,
            });
        };
        let known = compiled.model.destinations.get(key);
        let target = Target { service: key.clone(), port: *port, subset: subset.clone() };
        let spot = session.shared.spots.of(world, compiled, target, |target| {
            let service = world.snapshot.service(key).cloned().ok_or(Unknown)?;
            if service.port(*port).is_none() {
                return Err(Unknown);
            }
            let members = match (subset, known) {
                (None, _) => None,
                (Some(name), Some(known)) => Some(known.subsets.get(name).ok_or(Unknown)?),
                (Some(_), None) => return Err(Unknown),
            };
            let policy = known.map_or(compiled.default_policy(), |known| known.policy(*port, subset.as_deref()));
            let tls = compiled.originations.of(&policy.tls);
            Ok(Spot {
                protocol: known.and_then(|known| known.protocols.get(port)).copied().unwrap_or_default(),
                tls: tls.map(|tls| Secured::new(tls.clone(), key.hostname.clone())),
                endpoints: balance::endpoints(&world.snapshot, &service, *port, members),
                experience: session.shared.experiences.of(&target),
                breaker: session.shared.breakers.of(&target),
                service,
                target,
            })
        })?;
        let policy = known.map_or(compiled.default_policy(), |known| known.policy(*port, subset.as_deref()));
        let stuck = match &policy.balance {
            Balance::Hash(by) => stick::stick(by, head, &mut rand::rng()),
            _ => Stuck::default(),
        };
        Ok(Self { service: Some(spot.service.clone()), policy, protocol: spot.protocol, stuck, at: Some(spot) })
    }

    /// The service that the agent of `endpoint` may take the waypoint's word for: the one that was asked for, where the endpoint
    /// serves it at the port that was asked for. Of others nobody has asked the policies; a rule that leads to a version by a name
    /// of its own leads to endpoints of the service itself.
    pub fn vouched<'s>(&'s self, session: &Session, world: &'s World, endpoint: &Endpoint) -> Option<&'s Service> {
        let Of::Service(key) = &session.asked.of else { return None };
        if let Some(service) = self.service.as_deref().filter(|service| service.key == *key) {
            return Some(service);
        }
        let (asked, at) = (session.asked.address.port(), endpoint.address.port());
        let ports = endpoint.workload.services.get(key)?;
        let serves = ports.iter().any(|port| port.service_port == asked && port.target_port == at);
        world.snapshot.service(key).map(Arc::as_ref).filter(|_| serves)
    }

    /// The endpoint that a client's session is with, if it may be chosen.
    pub fn pinned(&self, session: &Session, uid: &Uid) -> Option<Endpoint> {
        let spot = self.at.as_ref()?;
        let pinned = spot.endpoints.iter().find(|endpoint| endpoint.workload.uid == *uid)?;
        let found = Endpoint::new(&pinned.workload, pinned.port, self.service.as_deref(), session.asked.address.ip())?;
        Some(found.secured(spot.tls.clone()))
    }

    /// An endpoint that is not among those `tried`, as far as there is one. `None`: no endpoint is healthy.
    pub fn endpoint(&self, session: &Session, world: &World, tried: &[Uid], now: Instant) -> Option<Endpoint> {
        let asked = session.asked.address;
        let Some(spot) = &self.at else {
            return match &session.asked.of {
                Of::Workload(uid) => {
                    let workload = world.snapshot.workload(uid)?;
                    let endpoint = Endpoint::new(workload, asked.port(), None, asked.ip())?;
                    Some(Endpoint { address: asked, ..endpoint })
                }
                Of::Service(_) => None,
            };
        };
        let Spot { service, endpoints, experience, tls, .. } = &**spot;
        let asker = Asker { own: world.own.as_deref(), service, policy: self.policy, hash: self.stuck.hash, tried };
        let found = match balance::choose(endpoints, &asker, experience, now, &mut rand::rng())? {
            Choice::Endpoint(chosen) => Endpoint::new(&chosen.workload, chosen.port, Some(service), asked.ip()),
            // Whoever of the mesh has the address: a waypoint is no proxy to everywhere.
            Choice::Original => {
                let address = NetworkAddress::new(session.shared.network.clone(), asked.ip());
                Endpoint::new(world.snapshot.workload_at(&address)?, asked.port(), None, asked.ip())
            }
        };
        Some(found?.secured(tls.clone()))
    }

    /// Counts a request at an endpoint for as long as what is returned lives.
    ///
    /// # Errors
    /// There are as many as there may be.
    pub fn begin(&self, endpoint: &Endpoint) -> Result<UnderWay, Overflow> {
        let Some(spot) = &self.at else { return Ok((None, None)) };
        let Spot { experience, breaker, .. } = &**spot;
        let taken = breaker.take(Limited::Requests, &self.policy.pool)?;
        Ok((Some(experience.begin(endpoint.uid())), Some(taken)))
    }

    /// Room for one more try; `None`: the answer that there is has to do.
    pub fn retry(&self) -> Option<Option<Taken>> {
        let Some(spot) = &self.at else { return Some(None) };
        spot.breaker.take(Limited::Retries, &self.policy.pool).ok().map(Some)
    }

    /// Counts for or against an endpoint.
    pub fn judge(&self, session: &Session, endpoint: &Endpoint, outcome: Outcome) {
        let Some(spot) = self.at.as_ref().filter(|_| self.policy.outliers.is_some()) else { return };
        let Spot { target, experience, endpoints, .. } = &**spot;
        if experience.record(endpoint.uid(), outcome, self.policy, endpoints.len(), Instant::now()) {
            let (service, port) = (&target.service, target.port);
            info!(%service, port, endpoint = %endpoint.uid(), "endpoint ejected: it failed too often in a row");
            session.shared.telemetry.ejected(&service.hostname);
        }
    }

    pub fn terms(&self, session: &Session) -> Terms {
        let pool = &self.policy.pool;
        Terms {
            connect_timeout: pool.connect_timeout,
            idle_timeout: pool.idle_timeout,
            max_age: pool.max_connection_duration,
            max_requests: pool.max_requests_per_connection,
            stream_idle: session.shared.limits.stream_idle,
            bounds: self.at.as_ref().map(|known| (known.breaker.clone(), pool.clone())),
        }
    }
}

//! Where a captured connection goes: a function of the snapshot, the pod and the address that it asked for.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_core::addr::{NetworkAddress, OrigDst, PodAddr, ServiceAddr, TunnelAddr};
use mesh_core::identity::SpiffeId;
use mesh_core::service::{Mode, Service};
use mesh_core::snapshot::Snapshot;
use mesh_core::traffic::{Balance, ConnectionPool, LocalityPolicy, TrafficPolicy};
use mesh_core::workload::{GatewayAddress, Health, Workload};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::balance::{self, Asker};
use super::experience::{Experience, Target};
use super::locality;

/// Port on which every enrolled pod accepts HBONE.
pub const HBONE_PORT: u16 = 15008;

/// What to do with a connection.
#[derive(Clone, Debug)]
pub enum Route {
    /// To a workload of the mesh.
    Endpoint(Endpoint),
    /// Nothing is known of the address: on to it as it stands, in plain TCP.
    Passthrough(OrigDst),
}

/// A workload chosen for a connection.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub workload: Arc<Workload>,
    /// The service and the address of it that was asked for; `None` for a pod's own address.
    pub service: Option<(Arc<Service>, ServiceAddr)>,
    /// The workload's address and the application's port; at a waypoint the address that was asked for.
    pub target: PodAddr,
    pub carriage: Carriage,
    /// The workload is the waypoint of what was asked for.
    pub waypoint: bool,
}

impl Endpoint {
    /// What is to be done with a connection of a pod of `namespace`, and for which port of which service. A waypoint does it
    /// itself, where there is one.
    pub fn policy(&self, namespace: &str) -> Option<(Target, &TrafficPolicy)> {
        let (service, asked) = self.service.as_ref().filter(|_| !self.waypoint)?;
        let policy = service.traffic.policy(namespace, asked.port())?;
        Some((Target { service: service.key.clone(), port: asked.port() }, policy))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carriage {
    /// HBONE to this address; the peer must present one of these identities.
    Tunnel {
        to: TunnelAddr,
        expected: Vec<SpiffeId>,
    },
    Plain,
}

/// Why a connection has nowhere to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    #[error("the service has no such port")]
    NoSuchPort,
    #[error("the service has no endpoint that is ready and reachable")]
    NoEndpoint,
    #[error("the destination asks for a waypoint, of which no instance is ready and reachable")]
    NoWaypoint,
    #[error("the destination is on another network and no gateway to it is known")]
    OtherNetwork,
    #[error("the destination is not in the mesh and the agent is set to refuse such connections")]
    Unknown,
}

impl NoRoute {
    /// Closed set, used as a log and metric label.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoSuchPort => "no_such_port",
            Self::NoEndpoint => "no_endpoint",
            Self::NoWaypoint => "no_waypoint",
            Self::OtherNetwork => "other_network",
            Self::Unknown => "unknown_destination",
        }
    }
}

/// Where the connecting pod is, as far as the choice of an endpoint depends on it.
#[derive(Clone, Debug)]
pub struct Origin<'a> {
    /// The network of this node.
    pub network: &'a Arc<str>,
    /// The pod's own workload, when the control plane has told of it.
    pub workload: Option<&'a Workload>,
    /// The pod's namespace, which says what traffic policy holds for it.
    pub namespace: &'a str,
    /// The address that the pod connects from.
    pub client: IpAddr,
}

/// Destinations that no workload, service or network is known for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownDestinations {
    Allow,
    Refuse,
}

/// Chooses a route; `avoid` lists endpoints that were tried already and failed.
///
/// # Errors
/// The destination is known, and there is no way to reach it that policy and configuration allow.
pub fn route(
    snapshot: &Snapshot,
    origin: &Origin<'_>,
    destination: OrigDst,
    unknown: UnknownDestinations,
    avoid: &[Arc<Workload>],
    experience: &impl Experience,
    rng: &mut impl Rng,
) -> Result<Route, NoRoute> {
    let address = NetworkAddress::new(origin.network.clone(), destination.ip());
    if let Some(service) = snapshot.service_at(&address) {
        if let Some(gateway) = &service.waypoint {
            let guarded = Guarded { gateway, service: Some(service), asked: destination };
            return waypoint(snapshot, origin, guarded, avoid, experience, rng);
        }
        if service.load_balancing.mode == Mode::Passthrough {
            return pass(destination, unknown);
        }
        let asked = ServiceAddr(destination.0);
        return endpoint_of(snapshot, origin, service, asked, avoid, experience, rng).map(Route::Endpoint);
    }
    match snapshot.workload_at(&address) {
        Some(workload) => {
            if let Some(gateway) = &workload.waypoint
                && !is_itself(origin, workload)
            {
                let guarded = Guarded { gateway, service: None, asked: destination };
                return waypoint(snapshot, origin, guarded, avoid, experience, rng);
            }
            let target = PodAddr(destination.0);
            let carriage = carriage(origin, workload, None, target)?;
            let workload = workload.clone();
            Ok(Route::Endpoint(Endpoint { workload, service: None, target, carriage, waypoint: false }))
        }
        None => pass(destination, unknown),
    }
}

fn pass(destination: OrigDst, unknown: UnknownDestinations) -> Result<Route, NoRoute> {
    match unknown {
        UnknownDestinations::Allow => Ok(Route::Passthrough(destination)),
        UnknownDestinations::Refuse => Err(NoRoute::Unknown),
    }
}

fn endpoint_of<'a>(
    snapshot: &'a Snapshot,
    origin: &Origin<'_>,
    service: &Arc<Service>,
    asked: ServiceAddr,
    avoid: &[Arc<Workload>],
    experience: &impl Experience,
    rng: &mut impl Rng,
) -> Result<Endpoint, NoRoute> {
    if service.port(asked.port()).is_none() {
        return Err(NoRoute::NoSuchPort);
    }
    let candidates = candidates(snapshot, service, asked, avoid);
    let policy = service.traffic.policy(origin.namespace, asked.port());
    let target = Target { service: service.key.clone(), port: asked.port() };
    let ejected = match policy.and_then(|policy| policy.outliers) {
        Some(_) => experience.ejected(&target),
        None => BTreeSet::new(),
    };
    let of = |c: &Candidate<'a>| -> &'a Workload { c.workload };
    let near = locality::narrow(&candidates, of, origin.workload, service, policy, &ejected, rng);
    let asker = Asker { client: origin.client, target: &target };
    let balance = policy.map(|policy| policy.balance).unwrap_or_default();
    let chosen = balance::pick(balance, &near, of, asker, experience, rng).ok_or(NoRoute::NoEndpoint)?;
    let target = PodAddr::new(chosen.target);
    let carriage = carriage(origin, chosen.workload, Some(service), target)?;
    let (workload, service) = (chosen.workload.clone(), Some((service.clone(), asked)));
    Ok(Endpoint { workload, service, target, carriage, waypoint: false })
}

/// The endpoints that a service has at the moment for who asks for this address and port.
fn candidates<'a>(
    snapshot: &'a Snapshot,
    service: &Service,
    asked: ServiceAddr,
    avoid: &[Arc<Workload>],
) -> Vec<Candidate<'a>> {
    let ready = snapshot
        .endpoints(&service.key)
        .filter(|w| service.load_balancing.allow_unhealthy || w.health == Health::Healthy)
        .filter(|w| w.capacity > 0 && !avoid.iter().any(|tried| tried.uid == w.uid));
    let at_port = ready.filter_map(|workload| {
        let ports = workload.services.get(&service.key)?;
        let own = ports.iter().find(|p| p.service_port == asked.port()).copied();
        let target_port = own.or_else(|| service.port(asked.port()).copied())?.target_port;
        let ip = address_for(workload, asked.ip())?;
        (target_port != 0).then_some(Candidate { workload, target: SocketAddr::new(ip, target_port) })
    });
    at_port.collect()
}

/// An endpoint of a service, and its share of the connections.
#[derive(Clone, Debug)]
pub struct Share {
    pub workload: Arc<Workload>,
    pub target: SocketAddr,
    /// In proportion to the others'.
    pub weight: u32,
}

/// Among which endpoints of `service` [`route`] would choose, and in which proportions, if to choose one and to carry is all
/// that there is to do for a connection of `origin`'s, and if proportions say all of the choice. Least connections say them: who
/// does not know how busy the endpoints are takes them for equally busy.
pub fn shares(
    snapshot: &Snapshot,
    origin: &Origin<'_>,
    service: &Arc<Service>,
    asked: ServiceAddr,
) -> Option<Vec<Share>> {
    let address = NetworkAddress::new(origin.network.clone(), asked.ip());
    let leads_here = snapshot.service_at(&address).is_some_and(|at| at.key == service.key);
    if !leads_here || service.waypoint.is_some() || service.load_balancing.mode == Mode::Passthrough {
        return None;
    }
    service.port(asked.port())?;
    let policy = service.traffic.policy(origin.namespace, asked.port());
    if let Some(TrafficPolicy { balance, pool, outliers, locality }) = policy
        && (!matches!(balance, Balance::LeastConnections | Balance::Random)
            || *pool != ConnectionPool::default()
            || outliers.is_some()
            || matches!(locality, Some(LocalityPolicy::Distribute(_))))
    {
        return None;
    }
    let candidates = candidates(snapshot, service, asked, &[]);
    // With all endpoints available nothing spills, so nothing is drawn.
    let mut undrawn = SmallRng::seed_from_u64(0);
    let near =
        locality::narrow(&candidates, |c| c.workload, origin.workload, service, policy, &BTreeSet::new(), &mut undrawn);
    let share =
        |c: Candidate<'_>| Share { workload: c.workload.clone(), target: c.target, weight: c.workload.capacity };
    Some(near.into_iter().map(share).collect())
}

/// What is asked for that has a waypoint.
struct Guarded<'a> {
    gateway: &'a GatewayAddress,
    /// `None` for a pod's own address.
    service: Option<&'a Arc<Service>>,
    asked: OrigDst,
}

/// An instance of the waypoint, the nearest first. What was asked for stays as it is: where it leads is the waypoint's choice.
/// Nothing goes around a waypoint that cannot be reached: it may be there to refuse.
fn waypoint<'a>(
    snapshot: &'a Snapshot,
    origin: &Origin<'_>,
    guarded: Guarded<'a>,
    avoid: &[Arc<Workload>],
    experience: &impl Experience,
    rng: &mut impl Rng,
) -> Result<Route, NoRoute> {
    let Guarded { gateway, service, asked } = guarded;
    let candidates: Vec<Candidate<'a>> = snapshot
        .waypoint_instances(gateway)
        .filter(|w| w.health == Health::Healthy && w.capacity > 0 && !avoid.iter().any(|tried| tried.uid == w.uid))
        .filter(|w| w.network.is_empty() || *w.network == **origin.network)
        .filter_map(|workload| {
            let target = SocketAddr::new(address_for(workload, asked.ip())?, gateway.hbone_port);
            Some(Candidate { workload, target })
        })
        .collect();
    let of = |c: &Candidate<'a>| -> &'a Workload { c.workload };
    // Without a service in front, nobody has said what is preferred.
    let near = match snapshot.waypoint_service(gateway) {
        Some(front) => locality::narrow(&candidates, of, origin.workload, front, None, &BTreeSet::new(), rng),
        None => candidates,
    };
    let chosen = balance::least(&near, of, experience, rng).ok_or(NoRoute::NoWaypoint)?;
    let expected = vec![chosen.workload.identity.clone()];
    Ok(Route::Endpoint(Endpoint {
        workload: chosen.workload.clone(),
        service: service.map(|service| (service.clone(), ServiceAddr(asked.0))),
        target: PodAddr(asked.0),
        carriage: Carriage::Tunnel { to: TunnelAddr(chosen.target), expected },
        waypoint: true,
    }))
}

fn is_itself(origin: &Origin<'_>, workload: &Workload) -> bool {
    origin.workload.is_some_and(|own| own.uid == workload.uid)
}

#[derive(Clone, Copy)]
struct Candidate<'a> {
    workload: &'a Arc<Workload>,
    target: SocketAddr,
}

/// The workload's address of the family that was asked for, else any: the relay may change families.
fn address_for(workload: &Workload, asked: IpAddr) -> Option<IpAddr> {
    let same = workload.addresses.iter().find(|ip| ip.is_ipv4() == asked.is_ipv4());
    same.or(workload.addresses.first()).copied()
}

fn carriage(
    origin: &Origin<'_>,
    workload: &Workload,
    service: Option<&Service>,
    target: PodAddr,
) -> Result<Carriage, NoRoute> {
    if *workload.network != **origin.network && !workload.network.is_empty() {
        return Err(NoRoute::OtherNetwork);
    }
    // A pod that reaches itself, by its service's address, say, stays within its own namespace.
    if is_itself(origin, workload) || !workload.tunnels(target.port()) {
        return Ok(Carriage::Plain);
    }
    let mut expected = vec![workload.identity.clone()];
    let further = service.map(|s| s.subject_alt_names.as_slice()).unwrap_or_default();
    expected.extend(further.iter().filter_map(|name| name.parse().ok()));
    Ok(Carriage::Tunnel { to: TunnelAddr(SocketAddr::new(target.ip(), HBONE_PORT)), expected })
}

#[cfg(test)]
pub(crate) mod tests;

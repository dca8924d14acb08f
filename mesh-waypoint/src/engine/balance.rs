//! Choice of an endpoint for a request: which come into question, which of them are near, and one of those.
//!
//! Where the waypoint is counts for the locality, since it is the waypoint that makes the connection.

mod locality;
pub mod stick;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use mesh_core::l7::destination::{Balance, Policy, SlowStart, Subset};
use mesh_core::service::Service;
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::{Health, Uid, Workload};
use rand::{Rng, RngExt};

use super::experience::{Experience, Look};

/// A workload that serves a port of a service.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub workload: Arc<Workload>,
    /// The one that it listens on.
    pub port: u16,
}

/// What an endpoint is chosen for.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The waypoint's own workload, if it is known.
    pub own: Option<&'a Workload>,
    pub service: &'a Service,
    pub policy: &'a Policy,
    /// Of what the request sticks to; `None`: it has none of that.
    pub hash: Option<u64>,
    /// Endpoints that have failed this request. Those of a request that sticks are not looked at.
    pub tried: &'a [Uid],
}

#[derive(Clone, Copy, Debug)]
pub enum Choice<'a> {
    Endpoint(&'a Endpoint),
    /// The address that the client asked for.
    Original,
}

/// The endpoints of a service's port that take requests, all or those of a subset. The same for as long as the snapshot is.
pub fn endpoints(snapshot: &Snapshot, service: &Service, port: u16, subset: Option<&Subset>) -> Vec<Endpoint> {
    let serves = |workload: &Arc<Workload>| {
        let ports = workload.services.get(&service.key)?;
        let port = ports.iter().find(|p| p.service_port == port && p.target_port != 0)?.target_port;
        Some(Endpoint { workload: workload.clone(), port })
    };
    snapshot
        .endpoints(&service.key)
        .filter(|w| subset.is_none_or(|subset| subset.members.contains(&w.uid)))
        .filter(|w| service.load_balancing.allow_unhealthy || w.health == Health::Healthy)
        .filter(|w| w.capacity > 0)
        .filter_map(serves)
        .collect()
}

/// `None`: there is no healthy endpoint. Ejected ones do not come into question, also when all are.
pub fn choose<'a>(
    endpoints: &'a [Endpoint],
    asker: &Asker<'_>,
    experience: &Experience,
    now: Instant,
    rng: &mut impl Rng,
) -> Option<Choice<'a>> {
    if asker.policy.balance == Balance::Passthrough {
        return Some(Choice::Original);
    }
    let uids: Vec<&Uid> = endpoints.iter().map(|endpoint| &endpoint.workload.uid).collect();
    let look = experience.look(&uids, asker.policy, now);
    let hash = asker.hash.filter(|_| matches!(asker.policy.balance, Balance::Hash(_)));
    // What sticks goes to the same place as well.
    let point = hash.map_or_else(|| rng.random_range(0.0..1.0), unit);
    let ejected = if is_enough(endpoints, asker.policy, &look) { &look.ejected } else { &HashSet::new() };
    let narrow = |all: &[&'a Endpoint]| locality::narrow(all, asker, ejected, point);
    let is_fresh = |endpoint: &&'a Endpoint| hash.is_some() || !asker.tried.contains(&endpoint.workload.uid);

    let all: Vec<&Endpoint> = endpoints.iter().collect();
    let near = narrow(&all);
    let fresh: Vec<_> = near.iter().copied().filter(is_fresh).collect();
    let candidates = match fresh.is_empty() {
        false => fresh,
        // Elsewhere, before it is tried again where it failed.
        true => {
            let elsewhere = narrow(&all.into_iter().filter(is_fresh).collect::<Vec<_>>());
            if elsewhere.is_empty() { near } else { elsewhere }
        }
    };
    pick(&candidates, asker.policy, hash, &look, now, rng).map(Choice::Endpoint)
}

/// Whether the endpoints that are left can bear it all: better a bad endpoint than a crowd at the last good ones.
fn is_enough(endpoints: &[Endpoint], policy: &Policy, look: &Look<'_>) -> bool {
    let least = policy.outliers.map_or(0, |rule| usize::from(rule.min_health_percent));
    let healthy = endpoints.iter().filter(|endpoint| !look.ejected.contains(&endpoint.workload.uid)).count();
    healthy * 100 >= least * endpoints.len()
}

fn pick<'a>(
    candidates: &[&'a Endpoint],
    policy: &Policy,
    hash: Option<u64>,
    look: &Look<'_>,
    now: Instant,
    rng: &mut impl Rng,
) -> Option<&'a Endpoint> {
    let capacity = |endpoint: &Endpoint| u64::from(endpoint.workload.capacity);
    let weight = |endpoint: &Endpoint| match &policy.slow_start {
        None => capacity(endpoint),
        Some(start) => capacity(endpoint) * permille(start, look, &endpoint.workload.uid, now),
    };
    match (&policy.balance, hash) {
        (Balance::LeastRequest, _) => {
            let first = draw(candidates, weight, None, rng)?;
            let Some(second) = draw(candidates, weight, Some(first), rng) else { return Some(candidates[first]) };
            // Load is weighed against capacity by cross-multiplication: no division, no rounding.
            let (a, b) = (candidates[first], candidates[second]);
            let busy = |a: &Endpoint, b: &Endpoint| u128::from(look.in_flight(&a.workload.uid)) * u128::from(weight(b));
            Some(if busy(a, b) > busy(b, a) { b } else { a })
        }
        (Balance::RoundRobin, _) => turn(candidates, weight, look.turn),
        (Balance::Hash(_), Some(hash)) => {
            let score = |endpoint: &Endpoint| rendezvous(hash, endpoint);
            candidates.iter().copied().max_by(|a, b| score(a).total_cmp(&score(b)))
        }
        (Balance::Random | Balance::Passthrough, _) | (Balance::Hash(_), None) => {
            draw(candidates, capacity, None, rng).map(|i| candidates[i])
        }
    }
}

/// Goes round in the order of names, so that it does not matter in which order endpoints were heard of.
fn turn<'a>(candidates: &[&'a Endpoint], weight: impl Fn(&Endpoint) -> u64, turn: u64) -> Option<&'a Endpoint> {
    let mut order = candidates.to_vec();
    order.sort_by(|a, b| a.workload.uid.cmp(&b.workload.uid));
    let first = order.first()?;
    if order.iter().all(|endpoint| weight(endpoint) == weight(first)) {
        return usize::try_from(turn % order.len() as u64).ok().map(|i| order[i]);
    }
    // Steps of the golden ratio visit each share as often as it is large, and spread out.
    let total: u64 = order.iter().map(|endpoint| weight(endpoint)).sum();
    let mut point = (turn as f64 * GOLDEN).fract() * total as f64;
    for endpoint in &order {
        point -= weight(endpoint) as f64;
        if point < 0.0 {
            return Some(endpoint);
        }
    }
    order.last().copied()
}

const GOLDEN: f64 = 0.618_033_988_749_895;

/// Share of its capacity that an endpoint has by its age, of a thousand: `(age / window) ^ (1 / aggression)`, as in the reference.
fn permille(start: &SlowStart, look: &Look<'_>, uid: &Uid, now: Instant) -> u64 {
    let Some(age) = look.age(uid, now).filter(|age| *age < start.window) else { return 1000 };
    let grown = age.as_secs_f64() / start.window.as_secs_f64();
    let aggression = f64::from(start.aggression.max(1)) / 1000.0;
    let share = grown.powf(1.0 / aggression).max(f64::from(start.minimum_percent) / 100.0);
    // At least one, or a new endpoint alone would get nothing.
    (share * 1000.0).clamp(1.0, 1000.0) as u64
}

/// Weighted rendezvous hashing (Thaler and Ravishankar 1998): every worker comes to the same choice without a table, and an
/// endpoint that comes or goes moves only its own share of what sticks.
fn rendezvous(hash: u64, endpoint: &Endpoint) -> f64 {
    // The hasher without keys: the same in every process.
    let mut hasher = DefaultHasher::new();
    (hash, &endpoint.workload.uid).hash(&mut hasher);
    f64::from(endpoint.workload.capacity) / -unit(hasher.finish()).ln()
}

/// Between 0 and 1, and neither.
fn unit(hash: u64) -> f64 {
    ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

fn draw(
    candidates: &[&Endpoint],
    weight: impl Fn(&Endpoint) -> u64,
    skip: Option<usize>,
    rng: &mut impl Rng,
) -> Option<usize> {
    let others = || candidates.iter().enumerate().filter(|(i, _)| Some(*i) != skip);
    let total: u64 = others().map(|(_, c)| weight(c)).sum();
    if total == 0 {
        return None;
    }
    let mut point = rng.random_range(0..total);
    for (i, candidate) in others() {
        let weight = weight(candidate);
        if point < weight {
            return Some(i);
        }
        point -= weight;
    }
    None
}

#[cfg(test)]
mod tests;

//! Which endpoints come into question by where they are: as the agents have it for connections.

use std::collections::HashSet;

use mesh_core::service::Mode;
use mesh_core::traffic::{Distribution, LocalityPolicy, spill};
use mesh_core::workload::{Scope, Uid, Workload};

use super::{Asker, Endpoint};

/// Narrows `candidates` to those among which one is to be chosen. `point` is drawn, from 0 to 1.
pub(super) fn narrow<'a>(
    candidates: &[&'a Endpoint],
    asker: &Asker<'_>,
    ejected: &HashSet<Uid>,
    point: f64,
) -> Vec<&'a Endpoint> {
    let is_available = |c: &Endpoint| !ejected.contains(&c.workload.uid);
    let all = || candidates.iter().copied().filter(|c| is_available(c)).collect();

    // A waypoint whose place nobody has told prefers none.
    let placed = asker.own.filter(|own| !own.locality.region.is_empty());
    match (&asker.policy.locality, placed) {
        (Some(LocalityPolicy::Distribute(rules)), Some(own)) => {
            let rule = rules.iter().filter(|rule| rule.from.holds(&own.locality));
            match rule.max_by_key(|rule| rule.from.precision()) {
                Some(rule) => distribute(rule, candidates, is_available, point),
                None => all(),
            }
        }
        (Some(LocalityPolicy::Failover { scopes, regions }), Some(own)) => {
            let tier = |other: &Workload| {
                let held = scopes.iter().take_while(|scope| scope.has_both(own, other)).count();
                let is_next = || regions.get(&own.locality.region).is_some_and(|next| *next == other.locality.region);
                // Twice, to leave room for the region that comes before the other foreign ones.
                let worse = 2 * (scopes.len() - held);
                if held == 0 && is_next() { worse - 1 } else { worse }
            };
            spill(candidates, |c| tier(&c.workload), |c| is_available(c), point)
        }
        // By the service's own routing preference.
        _ => {
            let preference: &[Scope] = &asker.service.load_balancing.routing_preference;
            let missing = |other: &Workload| {
                let Some(own) = asker.own else { return preference.len() };
                preference.len() - preference.iter().take_while(|scope| scope.has_both(own, other)).count()
            };
            match asker.service.load_balancing.mode {
                Mode::Any | Mode::Passthrough => all(),
                Mode::Strict => {
                    let is_near = |c: &&Endpoint| is_available(c) && missing(&c.workload) == 0;
                    candidates.iter().copied().filter(is_near).collect()
                }
                Mode::Failover => spill(candidates, |c| missing(&c.workload), |c| is_available(c), point),
            }
        }
    }
}

/// One of the places that requests go to; a place without endpoints leaves its share to the others.
fn distribute<'a>(
    rule: &Distribution,
    candidates: &[&'a Endpoint],
    is_available: impl Fn(&Endpoint) -> bool,
    point: f64,
) -> Vec<&'a Endpoint> {
    let mut places: Vec<(u32, Vec<&Endpoint>)> = rule.to.iter().map(|(_, share)| (*share, Vec::new())).collect();
    for candidate in candidates.iter().filter(|c| is_available(c)) {
        let locality = &candidate.workload.locality;
        let held = rule.to.iter().enumerate().filter(|(_, (place, _))| place.holds(locality));
        if let Some((i, _)) = held.max_by_key(|(_, (place, _))| place.precision()) {
            places[i].1.push(*candidate);
        }
    }
    places.retain(|(share, members)| *share > 0 && !members.is_empty());
    let total: f64 = places.iter().map(|(share, _)| f64::from(*share)).sum();
    let mut point = point * total;
    let mut last = Vec::new();
    for (share, members) in places {
        last = members;
        if point < f64::from(share) {
            break;
        }
        point -= f64::from(share);
    }
    last
}

//! Which endpoints come into question by where they are, and which of them are there for this connection.

use std::collections::BTreeSet;

use mesh_core::service::{Mode, Service};
use mesh_core::traffic::{Distribution, LocalityPolicy, TrafficPolicy, spill};
use mesh_core::workload::{Scope, Uid, Workload};
use rand::{Rng, RngExt};

/// Narrows `candidates` to those among which one is to be chosen. `own`: the client's workload, if it is known.
pub(super) fn narrow<'a, T: Copy>(
    candidates: &[T],
    workload: impl Fn(&T) -> &'a Workload,
    own: Option<&Workload>,
    service: &Service,
    policy: Option<&TrafficPolicy>,
    ejected: &BTreeSet<Uid>,
    rng: &mut impl Rng,
) -> Vec<T> {
    let nobody = BTreeSet::new();
    let least = policy.and_then(|p| p.outliers).map_or(0, |o| usize::from(o.min_health_percent));
    let healthy = candidates.iter().filter(|c| !ejected.contains(&workload(c).uid)).count();
    // Too few are left to bear it all: better a bad endpoint than a crowd at the last good ones.
    let ejected = if healthy * 100 < least * candidates.len() { &nobody } else { ejected };
    let is_available = |c: &&T| !ejected.contains(&workload(c).uid);

    // A client whose place nobody has told prefers none.
    let placed = own.filter(|own| !own.locality.region.is_empty());
    match (policy.and_then(|p| p.locality.as_ref()), placed) {
        (Some(LocalityPolicy::Distribute(rules)), Some(own)) => {
            let rule = rules.iter().filter(|rule| rule.from.holds(&own.locality));
            match rule.max_by_key(|rule| rule.from.precision()) {
                Some(rule) => distribute(rule, candidates, &workload, is_available, rng),
                None => candidates.iter().filter(is_available).copied().collect(),
            }
        }
        (Some(LocalityPolicy::Failover { scopes, regions }), Some(own)) => {
            let tier = |c: &T| {
                let other = workload(c);
                let held = scopes.iter().take_while(|scope| scope.has_both(own, other)).count();
                let is_next = || regions.get(&own.locality.region).is_some_and(|next| *next == other.locality.region);
                // Twice, to leave room for the region that comes before the other foreign ones.
                let worse = 2 * (scopes.len() - held);
                if held == 0 && is_next() { worse - 1 } else { worse }
            };
            spill(candidates, tier, |c| is_available(&c), rng.random_range(0.0..1.0))
        }
        _ => prefer(candidates, &workload, own, service, is_available, rng),
    }
}

/// By the service's own routing preference.
fn prefer<'a, T: Copy>(
    candidates: &[T],
    workload: impl Fn(&T) -> &'a Workload,
    own: Option<&Workload>,
    service: &Service,
    is_available: impl Fn(&&T) -> bool,
    rng: &mut impl Rng,
) -> Vec<T> {
    let preference: &[Scope] = &service.load_balancing.routing_preference;
    let missing = |c: &T| {
        let Some(own) = own else { return preference.len() };
        preference.len() - preference.iter().take_while(|scope| scope.has_both(own, workload(c))).count()
    };
    match service.load_balancing.mode {
        Mode::Any | Mode::Passthrough => candidates.iter().filter(is_available).copied().collect(),
        Mode::Strict => candidates.iter().filter(is_available).filter(|c| missing(c) == 0).copied().collect(),
        Mode::Failover => spill(candidates, missing, |c| is_available(&c), rng.random_range(0.0..1.0)),
    }
}

/// Draws one of the places that connections go to; a place without endpoints leaves its share to the others.
fn distribute<'a, T: Copy>(
    rule: &Distribution,
    candidates: &[T],
    workload: impl Fn(&T) -> &'a Workload,
    is_available: impl Fn(&&T) -> bool,
    rng: &mut impl Rng,
) -> Vec<T> {
    let mut places: Vec<(u32, Vec<T>)> = rule.to.iter().map(|(_, share)| (*share, Vec::new())).collect();
    for candidate in candidates.iter().filter(is_available) {
        let locality = &workload(candidate).locality;
        let held = rule.to.iter().enumerate().filter(|(_, (place, _))| place.holds(locality));
        if let Some((i, _)) = held.max_by_key(|(_, (place, _))| place.precision()) {
            places[i].1.push(*candidate);
        }
    }
    places.retain(|(share, members)| *share > 0 && !members.is_empty());
    let total: u32 = places.iter().map(|(share, _)| share).sum();
    if total == 0 {
        return Vec::new();
    }
    let mut point = rng.random_range(0..total);
    for (share, members) in places {
        if point < share {
            return members;
        }
        point -= share;
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mesh_core::traffic::{OutlierDetection, Place};
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::outbound::route::tests::{service, workload};

    /// `name@region/zone`.
    fn at(text: &str) -> Workload {
        let (name, place) = text.split_once('@').expect("name@place");
        let mut w = workload(name, "10.0.0.1");
        let (region, zone) = place.split_once('/').unwrap_or((place, ""));
        (w.locality.region, w.locality.zone) = (region.into(), zone.into());
        w
    }

    /// In how many of 100 choices each endpoint comes into question.
    fn shares(own: &str, pods: &[&str], policy: &TrafficPolicy, ejected: &[&str]) -> BTreeMap<String, u32> {
        let (own, pods): (Workload, Vec<Workload>) = (at(own), pods.iter().map(|text| at(text)).collect());
        let pods: Vec<&Workload> = pods.iter().collect();
        let ejected = ejected.iter().map(|name| Uid::pod("c", "shop", name)).collect();
        let service = service("shop", "web", &[], &[]);
        let mut rng = SmallRng::seed_from_u64(3);
        let mut seen = BTreeMap::<String, u32>::new();
        for _ in 0..10_000 {
            for pod in narrow(&pods, |w| w, Some(&own), &service, Some(policy), &ejected, &mut rng) {
                *seen.entry(pod.name.to_string()).or_default() += 1;
            }
        }
        seen.values_mut().for_each(|count| *count = (*count + 50) / 100);
        seen
    }

    fn expect(seen: BTreeMap<String, u32>, expected: &[(&str, u32)]) {
        let close = |(name, share): &(&str, u32)| seen.get(*name).is_some_and(|got| got.abs_diff(*share) <= 2);
        assert!(seen.len() == expected.len() && expected.iter().all(close), "{seen:?}, not {expected:?}");
    }

    fn failover(regions: &[(&str, &str)]) -> TrafficPolicy {
        let locality = LocalityPolicy::Failover {
            scopes: vec![Scope::Region, Scope::Zone],
            regions: regions.iter().map(|(from, to)| ((*from).into(), (*to).into())).collect(),
        };
        TrafficPolicy { locality: Some(locality), ..TrafficPolicy::default() }
    }

    const WORLD: [&str; 6] = ["near1@eu/a", "near2@eu/a", "zone@eu/b", "us@us/a", "ap1@ap/a", "ap2@ap/b"];

    #[test]
    fn the_nearest_tier_serves_and_the_next_takes_what_it_cannot() {
        let policy = failover(&[("eu", "ap")]);
        let of = |ejected: &[&str]| shares("client@eu/a", &WORLD, &policy, ejected);
        expect(of(&[]), &[("near1", 100), ("near2", 100)]);
        // Half of the tier is gone: 1.4 x 50 % stay.
        expect(of(&["near1"]), &[("near2", 70), ("zone", 30)]);
        expect(of(&["near1", "near2"]), &[("zone", 100)]);
        expect(of(&["near1", "near2", "zone"]), &[("ap1", 100), ("ap2", 100)]);
        expect(of(&["near1", "near2", "zone", "ap1", "ap2"]), &[("us", 100)]);
        expect(of(&["near1", "near2", "zone", "ap1", "ap2", "us"]), &[]);
        // Two weak tiers share what there is in proportion to what they can take.
        let two = ["near1@eu/a", "near2@eu/a", "near3@eu/a", "near4@eu/a", "b1@eu/b", "b2@eu/b", "b3@eu/b", "b4@eu/b"];
        let gone = ["near1", "near2", "near3", "b1", "b2", "b3"];
        expect(shares("client@eu/a", &two, &policy, &gone), &[("near4", 50), ("b4", 50)]);
    }

    #[test]
    fn without_a_place_or_a_rule_all_are_alike() {
        let all = WORLD.map(|text| (text.split_once('@').expect("name@place").0, 100));
        expect(shares("client@", &WORLD, &failover(&[]), &[]), &all);
        expect(shares("client@eu/a", &WORLD, &TrafficPolicy::default(), &[]), &all);
        let rest = all.into_iter().filter(|(name, _)| *name != "us").collect::<Vec<_>>();
        expect(shares("client@eu/a", &WORLD, &TrafficPolicy::default(), &["us"]), &rest);
    }

    #[test]
    fn shares_go_where_they_are_told_to() {
        let place = |text: &str| Place(text.into());
        let to = vec![(place("eu/*"), 60), (place("eu/b"), 10), (place("us"), 30)];
        let rules = vec![
            Distribution { from: place("*"), to: vec![(place("ap"), 100)] },
            Distribution { from: place("eu/a/*"), to },
        ];
        let locality = Some(LocalityPolicy::Distribute(rules));
        let policy = TrafficPolicy { locality, ..TrafficPolicy::default() };
        let of = |own, ejected: &[&str]| shares(own, &WORLD, &policy, ejected);
        expect(of("client@eu/a", &[]), &[("near1", 60), ("near2", 60), ("zone", 10), ("us", 30)]);
        expect(of("client@eu/a", &["us"]), &[("near1", 86), ("near2", 86), ("zone", 14)]);
        expect(of("client@us/a", &[]), &[("ap1", 100), ("ap2", 100)]);
        expect(of("client@us/a", &["ap1", "ap2"]), &[]);
    }

    #[test]
    fn with_too_few_left_the_ejected_ones_serve_as_well() {
        let outliers = OutlierDetection {
            consecutive_failures: 1,
            interval: Default::default(),
            base_ejection: Default::default(),
            max_ejection_percent: 100,
            min_health_percent: 50,
        };
        let policy = TrafficPolicy { outliers: Some(outliers), ..TrafficPolicy::default() };
        let pods = ["a@eu", "b@eu"];
        expect(shares("client@eu", &pods, &policy, &["a"]), &[("b", 100)]);
        expect(shares("client@eu", &pods, &policy, &["a", "b"]), &[("a", 100), ("b", 100)]);
    }
}

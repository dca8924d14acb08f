//! Choice of one among equally good endpoints, in proportion to their capacity.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use mesh_core::traffic::Balance;
use mesh_core::workload::Workload;
use rand::{Rng, RngExt};

use super::experience::{Experience, Target};

/// What is chosen for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker<'a> {
    pub(super) client: IpAddr,
    pub(super) target: &'a Target,
}

/// Picks one of `candidates`, or none when there is none.
pub(super) fn pick<'a, T: Copy>(
    balance: Balance,
    candidates: &[T],
    workload: impl Fn(&T) -> &'a Workload,
    asker: Asker<'_>,
    experience: &impl Experience,
    rng: &mut impl Rng,
) -> Option<T> {
    let capacity = |c: &T| u64::from(workload(c).capacity);
    match balance {
        Balance::LeastConnections => least(candidates, workload, experience, rng),
        Balance::Random => draw(candidates, capacity, None, rng).map(|i| candidates[i]),
        Balance::RoundRobin => {
            let total: u64 = candidates.iter().map(capacity).sum();
            let mut order: Vec<T> = candidates.to_vec();
            order.sort_by(|a, b| workload(a).uid.cmp(&workload(b).uid));
            let turn = experience.turn(asker.target);
            let is_even = order.iter().all(|c| capacity(c) == capacity(&order[0]));
            let mut point = match is_even {
                true => return order.get(usize::try_from(turn % order.len().max(1) as u64).ok()?).copied(),
                // Steps of the golden ratio visit each share as often as it is large, and spread out.
                false => (turn as f64 * GOLDEN).fract() * total as f64,
            };
            let last = order.last().copied();
            for candidate in &order {
                point -= capacity(candidate) as f64;
                if point < 0.0 {
                    return Some(*candidate);
                }
            }
            last
        }
        Balance::SourceIp => {
            let score = |c: &T| rendezvous(asker.client, workload(c));
            candidates.iter().copied().max_by(|a, b| score(a).total_cmp(&score(b)))
        }
    }
}

/// Of two drawn at random, the one with fewer live connections for its capacity.
pub(super) fn least<'a, T: Copy>(
    candidates: &[T],
    workload: impl Fn(&T) -> &'a Workload,
    experience: &impl Experience,
    rng: &mut impl Rng,
) -> Option<T> {
    let capacity = |c: &T| u64::from(workload(c).capacity);
    let first = draw(candidates, capacity, None, rng)?;
    let Some(second) = draw(candidates, capacity, Some(first), rng) else { return Some(candidates[first]) };
    // Load is weighed against capacity by cross-multiplication: no division, no rounding.
    let (a, b) = (workload(&candidates[first]), workload(&candidates[second]));
    let busy = |a: &Workload, b: &Workload| experience.live(a) as u64 * u64::from(b.capacity);
    Some(candidates[if busy(a, b) > busy(b, a) { second } else { first }])
}

const GOLDEN: f64 = 0.618_033_988_749_895;

/// Weighted rendezvous hashing (Thaler and Ravishankar 1998): every agent comes to the same choice without a table, and an
/// endpoint that comes or goes moves only its own share of the clients.
fn rendezvous(client: IpAddr, workload: &Workload) -> f64 {
    // The hasher without keys: the same in every process.
    let mut hasher = DefaultHasher::new();
    (client.to_canonical(), &workload.uid).hash(&mut hasher);
    let unit = ((hasher.finish() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    f64::from(workload.capacity) / -unit.ln()
}

fn draw<T>(candidates: &[T], capacity: impl Fn(&T) -> u64, skip: Option<usize>, rng: &mut impl Rng) -> Option<usize> {
    let others = || candidates.iter().enumerate().filter(|(i, _)| Some(*i) != skip);
    let total: u64 = others().map(|(_, c)| capacity(c)).sum();
    if total == 0 {
        return None;
    }
    let mut point = rng.random_range(0..total);
    for (i, candidate) in others() {
        let capacity = capacity(candidate);
        if point < capacity {
            return Some(i);
        }
        point -= capacity;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::{BTreeMap, BTreeSet};

    use mesh_core::workload::{ServiceKey, Uid};
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::outbound::route::tests::workload;

    /// One endpoint is this busy, the others are idle.
    struct Fixed(&'static str, usize, Cell<u64>);

    impl Experience for Fixed {
        fn live(&self, workload: &Workload) -> usize {
            if &*workload.name == self.0 { self.1 } else { 0 }
        }

        fn turn(&self, _: &Target) -> u64 {
            self.2.replace(self.2.get() + 1)
        }

        fn ejected(&self, _: &Target) -> BTreeSet<Uid> {
            BTreeSet::new()
        }
    }

    fn idle() -> Fixed {
        Fixed("none", 0, Cell::new(0))
    }

    fn chosen(balance: Balance, pods: &[Workload], experience: &Fixed, clients: &[IpAddr]) -> Vec<String> {
        let mut rng = SmallRng::seed_from_u64(7);
        let pods: Vec<&Workload> = pods.iter().collect();
        let target = Target { service: ServiceKey { namespace: "shop".into(), hostname: "web".into() }, port: 80 };
        let choose = |client: &IpAddr| {
            let asker = Asker { client: *client, target: &target };
            pick(balance, &pods, |w| w, asker, experience, &mut rng).expect("there are candidates").name.to_string()
        };
        clients.iter().map(choose).collect()
    }

    fn shares(balance: Balance, pods: &[Workload], experience: &Fixed) -> BTreeMap<String, u32> {
        let clients: Vec<IpAddr> = (0..10_000u32).map(|i| std::net::Ipv4Addr::from(0x0a00_0000 + i).into()).collect();
        let mut seen = BTreeMap::new();
        chosen(balance, pods, experience, &clients).into_iter().for_each(|name| *seen.entry(name).or_default() += 1);
        seen
    }

    const ALL: [Balance; 4] = [Balance::LeastConnections, Balance::RoundRobin, Balance::Random, Balance::SourceIp];

    #[test]
    fn equal_endpoints_get_equal_shares() {
        let pods = ["a", "b", "c"].map(|n| workload(n, "10.0.0.1"));
        for balance in ALL {
            let seen = shares(balance, &pods, &idle());
            assert!(seen.len() == 3 && seen.values().all(|n| (3100..3600).contains(n)), "{balance:?}: {seen:?}");
        }
    }

    #[test]
    fn capacity_weighs_the_choice() {
        let mut pods = [workload("small", "10.0.0.1"), workload("large", "10.0.0.2")];
        pods[1].capacity = 3;
        for balance in ALL {
            let seen = shares(balance, &pods, &idle());
            assert!((7200..7800).contains(&seen["large"]), "{balance:?}: {seen:?}");
        }
    }

    #[test]
    fn the_busiest_of_three_is_never_the_less_loaded_of_two() {
        let pods = ["a", "b", "c"].map(|n| workload(n, "10.0.0.1"));
        let busy = Fixed("a", 100, Cell::new(0));
        assert_eq!(shares(Balance::LeastConnections, &pods, &busy).get("a"), None);
    }

    #[test]
    fn round_robin_goes_round() {
        let pods = ["c", "a", "b"].map(|n| workload(n, "10.0.0.1"));
        let clients = [IpAddr::from([10, 0, 0, 9]); 7];
        let seen = chosen(Balance::RoundRobin, &pods, &idle(), &clients);
        assert_eq!(seen.join(""), "abcabca");
    }

    #[test]
    fn a_client_keeps_its_endpoint_when_another_goes() {
        let pods = ["a", "b", "c", "d"].map(|n| workload(n, "10.0.0.1"));
        let clients: Vec<IpAddr> = (0..1000u32).map(|i| std::net::Ipv4Addr::from(0x0a00_0000 + i).into()).collect();
        let before = chosen(Balance::SourceIp, &pods, &idle(), &clients);
        assert_eq!(before, chosen(Balance::SourceIp, &pods, &idle(), &clients));
        let after = chosen(Balance::SourceIp, &pods[..3], &idle(), &clients);
        for (before, after) in before.iter().zip(&after).filter(|(before, _)| *before != "d") {
            assert_eq!(before, after);
        }
        let mapped = [std::net::Ipv4Addr::from(0x0a00_0000).to_ipv6_mapped().into()];
        assert_eq!(
            chosen(Balance::SourceIp, &pods, &idle(), &mapped)[0],
            before[0],
            "one client, however it is written"
        );
    }
}

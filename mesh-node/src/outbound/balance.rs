//! Choice among equal endpoints: the less loaded of two drawn at random, in proportion to capacity.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use mesh_core::workload::{Uid, Workload};
use rand::{Rng, RngExt};

/// Connections that an endpoint carries for this agent at the moment.
pub trait Load {
    fn live(&self, workload: &Workload) -> usize;
}

/// Picks one of `candidates`, or none when there is none.
pub fn pick<'a, T: Copy>(
    candidates: &[T],
    workload: impl Fn(&T) -> &'a Workload,
    load: &impl Load,
    rng: &mut impl Rng,
) -> Option<T> {
    let total: u64 = candidates.iter().map(|c| u64::from(workload(c).capacity)).sum();
    let draw = |rng: &mut _, skip: Option<usize>| {
        let left = total - skip.map_or(0, |i| u64::from(workload(&candidates[i]).capacity));
        if left == 0 {
            return None;
        }
        let mut point = RngExt::random_range(rng, 0..left);
        for (i, candidate) in candidates.iter().enumerate() {
            if Some(i) == skip {
                continue;
            }
            let capacity = u64::from(workload(candidate).capacity);
            if point < capacity {
                return Some(i);
            }
            point -= capacity;
        }
        None
    };
    let first = draw(rng, None)?;
    let Some(second) = draw(rng, Some(first)) else { return Some(candidates[first]) };
    // Load is weighed against capacity by cross-multiplication: no division, no rounding.
    let (a, b) = (workload(&candidates[first]), workload(&candidates[second]));
    let a_is_busier = load.live(a) as u64 * u64::from(b.capacity) > load.live(b) as u64 * u64::from(a.capacity);
    Some(candidates[if a_is_busier { second } else { first }])
}

/// Live connections by endpoint, shared by the workers of one agent.
#[derive(Clone, Debug, Default)]
pub struct Loads(Arc<Mutex<HashMap<Uid, usize>>>);

impl Loads {
    /// Counts a connection to `workload` for as long as the guard lives.
    pub fn begin(&self, workload: &Workload) -> Loaded {
        *self.lock().entry(workload.uid.clone()).or_default() += 1;
        Loaded { loads: self.clone(), uid: workload.uid.clone() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uid, usize>> {
        // A panic while counting leaves a count off by one at most.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Load for Loads {
    fn live(&self, workload: &Workload) -> usize {
        self.lock().get(&workload.uid).copied().unwrap_or(0)
    }
}

#[derive(Debug)]
pub struct Loaded {
    loads: Loads,
    uid: Uid,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let mut loads = self.loads.lock();
        if let Some(count) = loads.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                loads.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::route::tests::workload;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    struct Fixed(&'static str, usize);

    impl Load for Fixed {
        fn live(&self, workload: &Workload) -> usize {
            if &*workload.name == self.0 { self.1 } else { 0 }
        }
    }

    fn shares(candidates: &[Workload], load: &impl Load) -> HashMap<String, u32> {
        let mut rng = SmallRng::seed_from_u64(7);
        let refs: Vec<&Workload> = candidates.iter().collect();
        let mut seen = HashMap::new();
        for _ in 0..10_000 {
            let chosen = pick(&refs, |w| w, load, &mut rng).expect("there are candidates");
            *seen.entry(chosen.name.to_string()).or_default() += 1;
        }
        seen
    }

    #[test]
    fn equal_endpoints_get_equal_shares_and_a_busy_one_gets_less() {
        let pods = ["a", "b", "c"].map(|n| workload(n, "10.0.0.1"));
        for count in shares(&pods, &Fixed("none", 0)).values() {
            assert!((3000..3700).contains(count), "{count}");
        }
        let busy = shares(&pods, &Fixed("a", 100));
        assert_eq!(busy.get("a"), None, "the busiest of three is never the less loaded of two: {busy:?}");
    }

    #[test]
    fn capacity_weighs_the_draw() {
        let mut pods = [workload("small", "10.0.0.1"), workload("large", "10.0.0.2")];
        pods[1].capacity = 3;
        let seen = shares(&pods, &Fixed("none", 0));
        assert!((7200..7800).contains(&seen["large"]), "{seen:?}");
    }

    #[test]
    fn a_connection_counts_until_its_guard_is_dropped() {
        let (loads, pod) = (Loads::default(), workload("a", "10.0.0.1"));
        let guards = (loads.begin(&pod), loads.begin(&pod));
        assert_eq!(loads.live(&pod), 2);
        drop(guards);
        assert_eq!(loads.live(&pod), 0);
        assert!(loads.lock().is_empty(), "an endpoint without connections costs no memory");
    }
}

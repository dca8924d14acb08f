//! Failover between tiers of endpoints: how much of a better tier has to be gone before a part of the load goes to the next.

use std::collections::BTreeMap;

/// A tier whose endpoints are fewer than 1/1.4 of what they were leaves some of its load to the next, as in the reference
/// (overprovisioning factor 140 %).
const OVERPROVISIONING: f64 = 1.4;

/// Those of `candidates` of one tier that are available: of the best tier (0 is the best), unless so much of it is not available
/// that a part goes on to the next. `point` is drawn, from 0 to 1.
pub fn spill<T: Copy>(
    candidates: &[T],
    tier: impl Fn(&T) -> usize,
    is_available: impl Fn(&T) -> bool,
    point: f64,
) -> Vec<T> {
    let mut tiers: BTreeMap<usize, (usize, Vec<T>)> = BTreeMap::new();
    for candidate in candidates {
        let (all, available) = tiers.entry(tier(candidate)).or_default();
        *all += 1;
        if is_available(candidate) {
            available.push(*candidate);
        }
    }
    let mut left = 1.0_f64;
    let mut shares = Vec::new();
    for (all, available) in tiers.into_values() {
        let share = left.min(OVERPROVISIONING * available.len() as f64 / all as f64);
        left -= share;
        shares.push((share, available));
    }
    // Where all are weak they share it all.
    let mut point = point * (1.0 - left);
    let mut last = Vec::new();
    for (share, available) in shares.into_iter().filter(|(share, _)| *share > 0.0) {
        last = available;
        if point < share {
            break;
        }
        point -= share;
    }
    last
}

//! How long things took: counts in buckets that grow with what they hold, 64 to a doubling. Pure.

use std::time::Duration;

/// Nanoseconds up to 2^40 (18 minutes), to 1.6 %.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
}

/// Buckets to a doubling, as a power of two.
const FINE: u32 = 6;
const LONGEST: u64 = 1 << 40;

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; bucket(LONGEST) + 1], count: 0 }
    }
}

impl Histogram {
    pub(super) fn record(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(LONGEST).min(LONGEST);
        self.buckets[bucket(nanos)] += 1;
        self.count += 1;
    }

    pub(super) fn add(&mut self, other: &Histogram) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(own, more)| *own += more);
        self.count += other.count;
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// What `share` (0 to 1) of all did not exceed, in microseconds; 0 with none.
    pub(super) fn micros(&self, share: f64) -> f64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let rank = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                #[expect(clippy::cast_precision_loss)]
                return least(at) as f64 / 1e3;
            }
        }
        0.0
    }
}

/// Below 2^[`FINE`] each number has its own; above, the highest bits tell.
fn bucket(nanos: u64) -> usize {
    let shift = (63 - (nanos | 1).leading_zeros()).saturating_sub(FINE);
    ((u64::from(shift) << FINE) + (nanos >> shift)) as usize
}

/// The least number of a bucket.
fn least(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket >> FINE).saturating_sub(1);
    (bucket - (shift << FINE)) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_in_a_bucket_that_is_at_most_a_64th_away() {
        for nanos in (0..5000).chain([LONGEST / 3, LONGEST - 1, LONGEST]) {
            let low = least(bucket(nanos));
            assert!(low <= nanos && nanos - low <= nanos >> FINE, "{nanos} in {low}");
        }
    }

    #[test]
    fn shares_are_told_across_what_was_added() {
        let (mut first, mut second) = (Histogram::default(), Histogram::default());
        (1..=50).for_each(|n| first.record(Duration::from_micros(n)));
        (51..=100).for_each(|n| second.record(Duration::from_micros(n)));
        first.add(&second);
        assert_eq!(first.count(), 100);
        for (share, micros) in [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            let found = first.micros(share);
            assert!((found - micros).abs() / micros < 0.016, "{share}: {found}");
        }
        assert_eq!(Histogram::default().micros(0.5), 0.0);
    }
}

//! Metrics that each worker writes for itself, without an atomic read-modify-write; whoever reads them adds up.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// One metric. A shard that nobody holds any more keeps what it has counted and is the next worker's.
#[derive(Debug)]
pub(super) struct Sharded<T>(Arc<Mutex<Vec<Arc<T>>>>);

impl<T> Clone for Sharded<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Sharded<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Default> Sharded<T> {
    /// A shard for one writer.
    pub(super) fn shard(&self) -> Arc<T> {
        let mut shards = self.lock();
        // `get_mut` sees all that the last holder wrote.
        if let Some(free) = shards.iter_mut().find_map(|shard| Arc::get_mut(shard).is_some().then(|| shard.clone())) {
            return free;
        }
        let shard = Arc::new(T::default());
        shards.push(shard.clone());
        shard
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A shard of a counter.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    /// To be called by the shard's one holder.
    pub(super) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }
}

impl TypedMetric for Sharded<Count> {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for Sharded<Count> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let sum: u64 = self.lock().iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum();
        encoder.encode_counter::<NoLabelSet, _, f64>(&sum, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// A shard of a gauge. Alone it may be below zero: what one worker began another may end.
#[derive(Debug, Default)]
pub(super) struct Level(AtomicI64);

impl Level {
    /// By whoever it may be: it is also used when a worker's tasks are dropped by another thread.
    pub(super) fn add(&self, count: i64) {
        self.0.fetch_add(count, Ordering::Release);
    }
}

impl Sharded<Level> {
    /// What was done before the changes that it sees is seen as well.
    pub(super) fn sum(&self) -> i64 {
        self.lock().iter().map(|shard| shard.0.load(Ordering::Acquire)).sum()
    }
}

impl TypedMetric for Sharded<Level> {
    const TYPE: MetricType = MetricType::Gauge;
}

impl EncodeMetric for Sharded<Level> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.encode_gauge(&self.sum())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// Upper bounds of the reference's buckets, for milliseconds and for bytes; above them is one more.
const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// A shard of a histogram.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    counts: [AtomicU64; BOUNDS.len() + 1],
    /// An `f64`, as its bits.
    sum: AtomicU64,
}

impl Buckets {
    /// To be called by the shard's one holder.
    pub(super) fn observe(&self, value: f64) {
        let count = &self.counts[BOUNDS.partition_point(|bound| *bound < value)];
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.sum.store((self.sum() + value).to_bits(), Ordering::Relaxed);
    }

    fn sum(&self) -> f64 {
        f64::from_bits(self.sum.load(Ordering::Relaxed))
    }
}

impl TypedMetric for Sharded<Buckets> {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Sharded<Buckets> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let shards = self.lock();
        let count = |at: usize| shards.iter().map(|shard| shard.counts[at].load(Ordering::Relaxed)).sum::<u64>();
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.enumerate().map(|(at, bound)| (bound, count(at))).collect();
        let (sum, total) = (shards.iter().map(|shard| shard.sum()).sum(), buckets.iter().map(|(_, count)| count).sum());
        encoder.encode_histogram::<NoLabelSet>(sum, total, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn shards_are_added_up_and_go_to_the_next_who_asks() {
        let counter = Sharded::<Count>::default();
        let (a, b) = (counter.shard(), counter.shard());
        a.add(2);
        b.add(3);
        drop(a);
        counter.shard().add(5);
        assert_eq!(counter.lock().len(), 2);
        let mut registry = Registry::default();
        registry.register("c", "c", counter);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("c_total 10\n"), "{text}");
    }

    #[test]
    fn workers_of_many_threads_lose_nothing() {
        let (counter, level) = (Sharded::<Count>::default(), Sharded::<Level>::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let (count, level) = (counter.shard(), level.shard());
                        (0..100).for_each(|_| count.add(1));
                        level.add(1);
                    }
                });
            }
        });
        assert_eq!(counter.lock().iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum::<u64>(), 40_000);
        assert_eq!(level.sum(), 400);
        assert!(counter.lock().len() <= 4);
    }

    #[test]
    fn buckets_are_told_as_a_histogram_of_the_library_tells_them() {
        let (ours, theirs) = (Sharded::<Buckets>::default(), Histogram::new(BOUNDS));
        let (one, other) = (ours.shard(), ours.shard());
        for (at, value) in [0.0, 0.5, 0.51, 7.0, 1000.0, 1000.5, 3_600_000.0, 1e9].into_iter().enumerate() {
            if at % 2 == 0 { &one } else { &other }.observe(value);
            theirs.observe(value);
        }
        let told = |registry: &Registry| {
            let mut text = String::new();
            encode(&mut text, registry).unwrap();
            text
        };
        let (mut a, mut b) = (Registry::default(), Registry::default());
        a.register("h", "h", ours);
        b.register("h", "h", theirs);
        assert_eq!(told(&a), told(&b));
    }
}

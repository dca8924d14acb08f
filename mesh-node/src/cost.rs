//! What the agent does for each pod of its node: its workers' time, and bytes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::netns::NetnsCookie;

/// Of one pod, for as long as it or a connection of it is there.
#[derive(Debug)]
pub struct Cost {
    /// Tells pods apart, within this process.
    pub id: u32,
    nanos: AtomicU64,
    received: AtomicU64,
    transmitted: AtomicU64,
}

impl Cost {
    /// Adds time that a worker has spent, preemption included.
    pub fn spend(&self, time: Duration) {
        self.nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Adds bytes that the pod's applications got and sent.
    pub fn carry(&self, received: u64, transmitted: u64) {
        self.received.fetch_add(received, Ordering::Relaxed);
        self.transmitted.fetch_add(transmitted, Ordering::Relaxed);
    }
}

/// Costs of all pods. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Costs(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    of: HashMap<Labels, Weak<Cost>>,
    at: HashMap<NetnsCookie, Weak<Cost>>,
    next: AtomicU32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    namespace: String,
    pod: String,
}

impl Costs {
    /// That of the pod of this name in this network namespace. A pod that comes back while connections of its first stay go on
    /// has the same.
    pub fn enter(&self, namespace: &str, pod: &str, cookie: NetnsCookie) -> Arc<Cost> {
        let mut known = self.lock();
        known.of.retain(|_, cost| cost.strong_count() > 0);
        known.at.retain(|_, cost| cost.strong_count() > 0);
        let labels = Labels { namespace: namespace.to_owned(), pod: pod.to_owned() };
        let cost = known.of.get(&labels).and_then(Weak::upgrade).unwrap_or_else(|| {
            let id = known.next.fetch_add(1, Ordering::Relaxed);
            Arc::new(Cost { id, nanos: AtomicU64::new(0), received: AtomicU64::new(0), transmitted: AtomicU64::new(0) })
        });
        known.of.insert(labels, Arc::downgrade(&cost));
        known.at.insert(cookie, Arc::downgrade(&cost));
        cost
    }

    /// That of the pod in this network namespace.
    pub fn at(&self, cookie: NetnsCookie) -> Option<Arc<Cost>> {
        self.lock().at.get(&cookie).and_then(Weak::upgrade)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Count = fn(&Cost) -> &AtomicU64;

impl Collector for Costs {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let of = self
            .lock()
            .of
            .iter()
            .filter_map(|(labels, cost)| Some((labels.clone(), cost.upgrade()?)))
            .collect::<Vec<_>>();
        let help = "Time of the agent's workers that went to the pod's connections, in seconds";
        let mut family = encoder.encode_descriptor("weft_pod_worker_seconds", help, None, MetricType::Counter)?;
        for (labels, cost) in &of {
            let seconds = Duration::from_nanos(cost.nanos.load(Ordering::Relaxed)).as_secs_f64();
            ConstCounter::new(seconds).encode(family.encode_family(labels)?)?;
        }
        let each: [(_, _, Count); 2] = [
            ("weft_pod_receive_bytes", "Bytes that the pod's applications got over the mesh", |cost| &cost.received),
            ("weft_pod_transmit_bytes", "Bytes that the pod's applications sent over the mesh", |cost| {
                &cost.transmitted
            }),
        ];
        for (name, help, count) in each {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, cost) in &of {
                ConstCounter::new(count(cost).load(Ordering::Relaxed)).encode(family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn a_pods_figures_stay_while_it_is_there_and_go_with_it() {
        let costs = Costs::default();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(costs.clone()));
        let told = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text.lines().filter(|line| line.starts_with("weft_")).map(str::to_owned).collect::<Vec<_>>()
        };
        let web = costs.enter("shop", "web", NetnsCookie(1));
        web.spend(Duration::from_millis(1500));
        costs.at(NetnsCookie(1)).unwrap().carry(5, 7);
        let again = costs.enter("shop", "web", NetnsCookie(2));
        again.carry(0, 1);
        assert_eq!(again.id, web.id, "one pod has one series");
        assert_ne!(costs.enter("shop", "db", NetnsCookie(3)).id, web.id);
        assert_eq!(
            told(),
            [
                "weft_pod_worker_seconds_total{namespace=\"shop\",pod=\"web\"} 1.5",
                "weft_pod_receive_bytes_total{namespace=\"shop\",pod=\"web\"} 5",
                "weft_pod_transmit_bytes_total{namespace=\"shop\",pod=\"web\"} 8",
            ]
        );
        drop((web, again));
        assert!(told().is_empty() && costs.at(NetnsCookie(1)).is_none());
    }
}

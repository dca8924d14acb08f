//! What this agent knows of endpoints because it has used them, shared by its workers.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_core::traffic::OutlierDetection;
use mesh_core::workload::{ServiceKey, Uid, Workload};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::outliers::Outliers;

/// A port of a service: what endpoints are chosen for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub service: ServiceKey,
    pub port: u16,
}

/// What a choice among endpoints may depend on, beside the snapshot.
pub trait Experience {
    /// Connections that an endpoint carries for this agent at the moment.
    fn live(&self, workload: &Workload) -> usize;

    /// How many choices for a target came before this one.
    fn turn(&self, target: &Target) -> u64;

    /// Endpoints that are to get no new connections.
    fn ejected(&self, target: &Target) -> BTreeSet<Uid>;
}

#[derive(Clone, Debug, Default)]
pub struct Upstreams(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    live: Mutex<HashMap<Uid, usize>>,
    turns: Mutex<HashMap<Target, u64>>,
    outliers: Mutex<HashMap<Target, Outliers>>,
    ejections: Family<TargetLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TargetLabels {
    destination_service: String,
    destination_service_namespace: String,
    port: u16,
}

impl Upstreams {
    pub fn register(&self, registry: &mut Registry) {
        let help = "Endpoints that got no new connections for a while because they failed";
        registry.register("weft_outlier_ejections", help, self.0.ejections.clone());
    }

    /// Counts a connection to `workload` for as long as the guard lives.
    pub fn begin(&self, workload: &Workload) -> Loaded {
        *lock(&self.0.live).entry(workload.uid.clone()).or_default() += 1;
        Loaded { upstreams: self.clone(), uid: workload.uid.clone() }
    }

    /// A connection to one of `endpoints` endpoints could not be opened, or the destination reset it. Says for how long the
    /// endpoint is ejected, if it is.
    pub fn failed(&self, target: &Target, uid: &Uid, rule: &OutlierDetection, endpoints: usize) -> Option<Duration> {
        let time =
            lock(&self.0.outliers).entry(target.clone()).or_default().failed(uid, rule, endpoints, Instant::now())?;
        let labels = TargetLabels {
            destination_service: target.service.hostname.to_string(),
            destination_service_namespace: target.service.namespace.to_string(),
            port: target.port,
        };
        self.0.ejections.get_or_create(&labels).inc();
        Some(time)
    }

    pub fn succeeded(&self, target: &Target, uid: &Uid) {
        let mut all = lock(&self.0.outliers);
        if let Some(outliers) = all.get_mut(target) {
            outliers.succeeded(uid);
            if outliers.is_empty() {
                all.remove(target);
            }
        }
    }
}

impl Experience for Upstreams {
    fn live(&self, workload: &Workload) -> usize {
        lock(&self.0.live).get(&workload.uid).copied().unwrap_or(0)
    }

    fn turn(&self, target: &Target) -> u64 {
        let mut turns = lock(&self.0.turns);
        match turns.get_mut(target) {
            Some(turn) => {
                *turn += 1;
                *turn
            }
            None => turns.insert(target.clone(), 0).unwrap_or(0),
        }
    }

    fn ejected(&self, target: &Target) -> BTreeSet<Uid> {
        lock(&self.0.outliers)
            .get(target)
            .map(|outliers| outliers.ejected(Instant::now()).collect())
            .unwrap_or_default()
    }
}

/// A panic while counting leaves a count off by one at most.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
pub struct Loaded {
    upstreams: Upstreams,
    uid: Uid,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let mut live = lock(&self.upstreams.0.live);
        if let Some(count) = live.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                live.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::route::tests::workload;

    #[test]
    fn a_connection_counts_until_its_guard_is_dropped() {
        let (upstreams, pod) = (Upstreams::default(), workload("a", "10.0.0.1"));
        let guards = (upstreams.begin(&pod), upstreams.begin(&pod));
        assert_eq!(upstreams.live(&pod), 2);
        drop(guards);
        assert_eq!(upstreams.live(&pod), 0);
        assert!(lock(&upstreams.0.live).is_empty(), "an endpoint without connections costs no memory");
    }
}

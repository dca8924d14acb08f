//! Pods that should be in the mesh and are not found on this node. They hold the agent's readiness back, for a while: one that
//! has ended, or never got a sandbox, is not found however long the agent waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_core::workload::Uid;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;

/// How long a pod that is not found holds readiness back.
pub const HOLD: Duration = Duration::from_secs(30);

/// The pods of this node that are missing, by their uids. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct Missing(Arc<Mutex<BTreeMap<Arc<str>, Absent>>>);

#[derive(Debug)]
struct Absent {
    workload: Uid,
    why: String,
    since: Instant,
    given_up: bool,
}

/// One of them, as `/config` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MissingView {
    pub uid: Arc<str>,
    pub workload: Uid,
    pub why: String,
    pub seconds: u64,
    pub holds_readiness: bool,
}

impl Missing {
    /// Says which pods are missing now, each with its uid, its name and why. Yields those that hold readiness back no longer, once.
    pub fn replace(&self, absent: Vec<(Arc<str>, Uid, String)>, now: Instant) -> Vec<MissingView> {
        let mut list = self.lock();
        let mut before = std::mem::take(&mut *list);
        let mut given_up = Vec::new();
        for (uid, workload, why) in absent {
            let known = before.remove(&uid);
            let since = known.as_ref().map_or(now, |known| known.since);
            let was_given_up = known.is_some_and(|known| known.given_up);
            let absent = Absent { workload, why, since, given_up: now.saturating_duration_since(since) >= HOLD };
            if absent.given_up && !was_given_up {
                given_up.push(absent.view(&uid, now));
            }
            list.insert(uid, absent);
        }
        given_up
    }

    /// The first pod that readiness waits for.
    ///
    /// # Errors
    /// There is one; the text says which, and why.
    pub fn ready(&self) -> Result<(), String> {
        match self.lock().values().find(|absent| !absent.given_up) {
            Some(Absent { workload, why, .. }) => Err(format!("pod {workload} is not found: {why}")),
            None => Ok(()),
        }
    }

    /// All of them.
    pub fn views(&self) -> Vec<MissingView> {
        let now = Instant::now();
        self.lock().iter().map(|(uid, absent)| absent.view(uid, now)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Absent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Absent {
    fn view(&self, uid: &Arc<str>, now: Instant) -> MissingView {
        MissingView {
            uid: uid.clone(),
            workload: self.workload.clone(),
            why: self.why.clone(),
            seconds: now.saturating_duration_since(self.since).as_secs(),
            holds_readiness: !self.given_up,
        }
    }
}

impl Collector for Missing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let missing = ConstGauge::new(i64::try_from(self.lock().len()).unwrap_or(i64::MAX));
        let help = "Pods of this node that should be in the mesh and are not found";
        missing.encode(encoder.encode_descriptor("weft_pods_missing", help, None, missing.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn absent(names: &[&str]) -> Vec<(Arc<str>, Uid, String)> {
        names.iter().map(|name| (Arc::from(*name), Uid::pod("c", "shop", name), "no process".to_owned())).collect()
    }

    #[test]
    fn a_missing_pod_holds_readiness_back_for_a_while_and_is_told_of_once() {
        let (missing, begun) = (Missing::default(), Instant::now());
        assert_eq!(missing.ready(), Ok(()));
        assert_eq!(missing.replace(absent(&["a"]), begun), []);
        assert_eq!(missing.ready(), Err("pod c//Pod/shop/a is not found: no process".to_owned()));

        // Another one comes later, and has its own time.
        let later = begun + HOLD;
        let given_up = missing.replace(absent(&["a", "b"]), later);
        assert_eq!(given_up.iter().map(|view| &*view.uid).collect::<Vec<_>>(), ["a"]);
        assert!(missing.ready().unwrap_err().contains("shop/b"));
        assert_eq!(missing.replace(absent(&["a", "b"]), later + HOLD).len(), 1);
        assert_eq!(missing.replace(absent(&["a", "b"]), later + 2 * HOLD), []);
        assert_eq!(missing.ready(), Ok(()));
        assert!(missing.views().iter().all(|view| !view.holds_readiness));

        // One that was found and is lost again begins anew.
        assert_eq!(missing.replace(absent(&["b"]), later + 2 * HOLD), []);
        assert_eq!(missing.views().len(), 1);
        assert_eq!(missing.replace(absent(&["a", "b"]), later + 3 * HOLD), []);
        assert!(missing.ready().unwrap_err().contains("shop/a"));
    }
}

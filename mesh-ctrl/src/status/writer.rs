//! Writes statuses while this controller leads: what differs, and no faster than the API server bears.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{debug, warn};

use super::{Write, writes};
use crate::distribution::Told;
use crate::distribution::exchange::Summaries;
use crate::index::Index;
use crate::instances::Outcomes;
use crate::object::ObjectKey;
use crate::source::kube::resource;

/// Between two writes: fifty in a second.
const PACE: Duration = Duration::from_millis(20);
/// Writes before it is looked again at what differs.
const BATCH: usize = 100;
/// Changes that come together are taken together.
const MOMENT: Duration = Duration::from_millis(500);
/// What was refused is tried again after this long, or when the object is another.
const REFUSED: Duration = Duration::from_secs(300);
/// What failed otherwise.
const FAILED: Duration = Duration::from_secs(5);

/// Statuses that were written, by how that went.
#[derive(Clone, Default)]
pub(crate) struct Writes(Family<[(&'static str, &'static str); 1], Counter>);

impl Writes {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("weft_status_writes", "Statuses of objects that were written, by result", self.0.clone());
    }
}

pub(crate) struct Writer {
    client: Client,
    index: Arc<Mutex<Index>>,
    outcomes: watch::Receiver<Outcomes>,
    /// How far agents are, as all replicas say.
    summaries: watch::Receiver<Summaries>,
    told: Arc<Mutex<Told>>,
    writes: Writes,
}

/// The version of an object for which a write was tried, and until when that holds.
type Tried = HashMap<ObjectKey, (Arc<str>, Instant)>;

impl Writer {
    pub(crate) fn new(
        client: Client,
        index: Arc<Mutex<Index>>,
        outcomes: watch::Receiver<Outcomes>,
        summaries: watch::Receiver<Summaries>,
        writes: Writes,
    ) -> Self {
        Self { client, index, outcomes, summaries, told: Arc::default(), writes }
    }

    /// `stirred`: what the index tells of objects may have changed.
    pub(crate) async fn run(mut self, mut leads: watch::Receiver<bool>, mut stirred: watch::Receiver<()>) {
        let mut tried = Tried::new();
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while leads.wait_for(|leads| *leads).await.is_ok() {
            stirred.mark_unchanged();
            self.outcomes.mark_unchanged();
            self.summaries.mark_unchanged();
            let now = Instant::now();
            tried.retain(|_, (_, until)| *until > now);
            let due: Vec<Write> = self.due(&tried).await;
            let is_more = due.len() > BATCH;
            for write in due.into_iter().take(BATCH) {
                pace.tick().await;
                if !*leads.borrow() {
                    break;
                }
                let until = Instant::now() + self.write(&write).await;
                tried.insert(write.key, (write.version, until));
            }
            if is_more {
                continue;
            }
            let next =
                tried.values().map(|(_, until)| *until).min().map_or(REFUSED, |at| at.saturating_duration_since(now));
            let settles = self.told.lock().unwrap_or_else(|e| e.into_inner()).settles_in(Instant::now());
            let next = settles.map_or(next, |settles| next.min(settles));
            tokio::select! {
                () = sleep(next) => {}
                // Its sender ends with the controller.
                _ = self.summaries.changed() => {}
                changed = stirred.changed() => if changed.is_err() { return },
                // Its sender ends with the index's.
                _ = self.outcomes.changed() => {}
                _ = leads.wait_for(|leads| !*leads) => {}
            }
            sleep(MOMENT).await;
        }
    }

    async fn due(&self, tried: &Tried) -> Vec<Write> {
        let (index, outcomes) = (self.index.clone(), self.outcomes.borrow().clone());
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let (told, summaries) = (self.told.clone(), self.summaries.borrow().clone());
        // Beside everything else that goes on: with ten thousand objects it takes a while.
        let found = tokio::task::spawn_blocking(move || {
            let index = index.lock().unwrap_or_else(|e| e.into_inner());
            if !index.is_synced() {
                return Vec::new();
            }
            let mut told = told.lock().unwrap_or_else(|e| e.into_inner());
            told.tell(&summaries);
            told.retain(|key| index.standing(key).is_some());
            writes(&index, &outcomes, &told, &now)
        });
        let mut found = found.await.unwrap_or_default();
        found.retain(|write| tried.get(&write.key).is_none_or(|(version, _)| *version != write.version));
        found
    }

    /// How long the object, as it is now, need not be looked at again.
    async fn write(&self, write: &Write) -> Duration {
        let Write { key, api_version, version, status } = write;
        let Some(resource) = resource(key.kind, api_version) else { return REFUSED };
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &resource);
        // With the version that it follows from: if the object is another by now, this is a conflict.
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "status": status}));
        let written = api.patch_status(&key.name, &PatchParams::default(), &patch).await;
        let (result, pause) = match written {
            // What is dropped on the way need not be said again.
            Ok(object) if object.metadata.resource_version.as_deref() == Some(version) => ("unchanged", REFUSED),
            Ok(_) => ("written", FAILED),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                debug!(%key, code = status.code, "the object is another by now, or has no status");
                ("outdated", if status.code == 409 { FAILED } else { REFUSED })
            }
            Err(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 429 => {
                warn!(%key, why = status.message, "the status is refused");
                ("refused", REFUSED)
            }
            Err(error) => {
                warn!(%key, %error, "the status cannot be written");
                ("failed", FAILED)
            }
        };
        self.writes.0.get_or_create(&[("result", result)]).inc();
        pause
    }
}

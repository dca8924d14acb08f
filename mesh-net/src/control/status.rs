//! How the control stream fares, for readiness, `/config` and metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;
use tokio::sync::watch;

use super::believed::{Applied, Kind};

/// A handle to the state of the control stream; clones share it.
#[derive(Clone, Debug)]
pub struct ControlStatus {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// What is subscribed to.
    kinds: Vec<Kind>,
    view: Mutex<ControlView>,
    synced: watch::Sender<bool>,
}

/// The state at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ControlView {
    pub connected: bool,
    /// Since when it is connected, or not; seconds since 1970.
    #[serde(serialize_with = "crate::unix_time::serialize")]
    pub since: Option<SystemTime>,
    #[serde(serialize_with = "crate::unix_time::serialize")]
    pub last_update: Option<SystemTime>,
    /// Connections made, the first included.
    pub connects: u64,
    pub synced: bool,
    pub last_error: Option<String>,
    pub types: BTreeMap<&'static str, TypeView>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct TypeView {
    /// Resources in force.
    pub resources: usize,
    /// `system_version_info` of the last response.
    pub version: String,
    /// Whether the stream that is open (or was last) has said everything it had to say at its start.
    pub synced: bool,
    pub responses: u64,
    pub bytes: u64,
    pub nacks: u64,
    /// What the last NACK said; cleared by the next good response.
    pub last_nack: Option<String>,
}

impl Default for ControlStatus {
    fn default() -> Self {
        Self::new()
    }
}

impl ControlStatus {
    /// Of an agent.
    pub fn new() -> Self {
        Self::of(Kind::ALL.into_iter().filter(|kind| *kind != Kind::Layer7).collect())
    }

    /// Of a waypoint.
    pub fn waypoint() -> Self {
        Self::of(Kind::ALL.to_vec())
    }

    fn of(kinds: Vec<Kind>) -> Self {
        let view = ControlView { since: Some(SystemTime::now()), ..ControlView::default() };
        Self { shared: Arc::new(Shared { kinds, view: Mutex::new(view), synced: watch::channel(false).0 }) }
    }

    pub fn view(&self) -> ControlView {
        self.lock().clone()
    }

    /// Whether every subscribed type has arrived once. It stays true when the controller is lost.
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Waits until [`is_synced`](Self::is_synced).
    pub async fn synced(&self) {
        let mut receiver = self.shared.synced.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _ = receiver.wait_for(|synced| *synced).await;
    }

    pub(super) fn connected(&self) {
        let mut view = self.lock();
        view.connected = true;
        view.connects += 1;
        view.since = Some(SystemTime::now());
        view.last_error = None;
        for per_type in view.types.values_mut() {
            per_type.synced = false;
        }
    }

    pub(super) fn lost(&self, error: String) {
        let mut view = self.lock();
        if view.connected {
            view.connected = false;
            view.since = Some(SystemTime::now());
        }
        view.last_error = Some(error);
    }

    pub(super) fn applied(&self, kind: Kind, version: &str, bytes: usize, held: usize, applied: &Applied, whole: bool) {
        let mut view = self.lock();
        view.last_update = Some(SystemTime::now());
        let per_type = view.types.entry(kind.type_url()).or_default();
        per_type.resources = held;
        per_type.version = version.chars().take(200).collect();
        per_type.responses += 1;
        per_type.bytes += bytes as u64;
        per_type.last_nack = applied.error();
        per_type.nacks += u64::from(per_type.last_nack.is_some());
        per_type.synced |= whole;
        if !view.synced && self.shared.kinds.iter().all(|k| view.types.get(k.type_url()).is_some_and(|t| t.synced)) {
            view.synced = true;
            drop(view);
            self.shared.synced.send_replace(true);
        }
    }

    fn lock(&self) -> MutexGuard<'_, ControlView> {
        self.shared.view.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Metrics of the control stream; register with `registry.register_collector(Box::new(status.clone()))`.
impl Collector for ControlStatus {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let view = self.view();
        let connected = ConstGauge::new(i64::from(view.connected));
        let gauge = connected.metric_type();
        connected.encode(encoder.encode_descriptor(
            "weft_control_connected",
            "Whether the control stream is open",
            None,
            gauge,
        )?)?;
        let connects = ConstCounter::new(view.connects);
        let counter = connects.metric_type();
        connects.encode(encoder.encode_descriptor(
            "weft_control_connects",
            "Control streams opened",
            None,
            counter,
        )?)?;
        let kinds = |value: fn(&TypeView) -> u64| -> Vec<_> {
            view.types.iter().map(|(url, t)| ([("url", *url)], value(t))).collect()
        };
        for (name, help, values) in [
            ("istio_xds_message", "Control stream responses received", kinds(|t| t.responses)),
            ("istio_xds_message_bytes", "Bytes of control stream responses received", kinds(|t| t.bytes)),
            ("weft_control_nacks", "Control stream responses refused, wholly or in part", kinds(|t| t.nacks)),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, counter)?;
            for (labels, value) in values {
                ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        let mut family = encoder.encode_descriptor("weft_control_resources", "Resources in force", None, gauge)?;
        for (labels, value) in kinds(|t| t.resources as u64) {
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

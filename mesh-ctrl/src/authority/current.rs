//! What the authority is at the moment, for those who ask and for metrics; and its files, which may change.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_net::unix_time;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::files::{self, Material};
use super::rotation::Stage;
use super::{Authority, Config};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// What signs and what is trusted, and how far the root is exchanged.
pub(super) struct InForce {
    pub(super) material: Material,
    pub(super) stage: Stage,
    /// When the next stage begins.
    pub(super) due: Option<SystemTime>,
}

impl InForce {
    pub(super) fn steady(material: Material) -> Self {
        Self { material, stage: Stage::Steady, due: None }
    }
}

/// For people.
#[derive(Debug, Serialize)]
pub struct AuthorityView {
    pub stage: Stage,
    /// When the next stage begins, in seconds since 1970.
    pub stage_due: Option<u64>,
    /// Seconds since 1970.
    pub not_after: Option<u64>,
    pub roots: usize,
}

impl Authority {
    pub fn view(&self) -> AuthorityView {
        let now = self.now();
        AuthorityView {
            stage: now.stage,
            stage_due: now.due.map(unix_time::seconds),
            not_after: Some(unix_time::seconds(now.material.not_after)),
            roots: now.material.roots.matches("BEGIN CERTIFICATE").count(),
        }
    }

    /// Puts it in force: what is signed from now on, and the roots that are told with it.
    pub(super) fn put(&self, next: InForce) {
        let before = self.now();
        let roots: Arc<str> = next.material.roots.as_str().into();
        let is_known = |pem: &str| before.material.roots.contains(pem);
        let shared = files::split(&next.material.roots).iter().any(|root| is_known(root.trim()));
        if !shared {
            warn!(
                "the new roots and those before have none in common: who has not renewed yet refuses who has. Have both trusted \
                 for the longest lifetime of a certificate before the new one signs"
            );
        }
        info!(stage = next.stage.as_str(), roots = files::split(&next.material.roots).len(), "authority changed");
        self.current.send_replace(Arc::new(next));
        self.roots.send_if_modified(|told| {
            let changed = **told != *roots;
            *told = roots;
            changed
        });
    }
}

/// Reads the authority's files again when they have changed. Files that do not fit, as in the middle of a change, are let be.
pub async fn reread(authority: Arc<Authority>) {
    let config: &Config = &authority.config;
    let mut before = files::contents(config, true);
    loop {
        sleep(LOOK).await;
        let now = files::contents(config, true);
        if now == before {
            continue;
        }
        match files::open(config, SystemTime::now()) {
            Ok(material) => {
                before = now;
                authority.put(InForce::steady(material));
            }
            Err(error) => error!(%error, "the authority's files have changed and cannot be taken: what was read stays"),
        }
    }
}

/// The authority's metrics.
pub struct Telemetry(pub Arc<Authority>);

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Telemetry").field(&self.0.view()).finish()
    }
}

impl Collector for Telemetry {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let view = self.0.view();
        let gauge = ConstGauge::new(0_i64).metric_type();
        let mut family = encoder.encode_descriptor("weft_ca_stage", "How far the root is exchanged", None, gauge)?;
        for stage in Stage::ALL {
            let is = ConstGauge::new(i64::from(stage == view.stage));
            is.encode(family.encode_family(&[("stage", stage.as_str())])?)?;
        }
        let numbers = [
            ("weft_ca_roots", "Roots that are trusted", i64::try_from(view.roots).ok()),
            (
                "weft_ca_stage_due_timestamp_seconds",
                "When the next stage of an exchange of the root begins, since 1970; 0 outside of one",
                Some(view.stage_due.and_then(|due| i64::try_from(due).ok()).unwrap_or(0)),
            ),
            (
                "weft_ca_not_after_timestamp_seconds",
                "When the authority's own certificate is over, since 1970",
                view.not_after.and_then(|end| i64::try_from(end).ok()),
            ),
        ];
        for (name, help, value) in numbers {
            let gauge = ConstGauge::new(value.unwrap_or(0));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

//! What a request leaves behind: its line in the access log and its metrics, under the reference's names.

pub mod trace;
mod log;
mod line;
mod series;
mod labels;
mod shards;
mod rules;
mod expression;
mod record;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tracing::{Level as Severity, enabled, warn};

use crate::client::Client;
use crate::overload::Shed;
pub use expression::Headers;
pub use log::{AccessLog, Lines};
pub use record::{GrpcStatus, Record, Texts, Word};
pub use rules::Rules;
use series::{Families, Series};
use shards::{Level, Sharded};
use trace::Tracer;

/// Target of access-log lines, so that a log filter can name them.
pub const ACCESS: &str = "access";

/// What one worker tells. Clones are the same worker's.
#[derive(Clone, Debug)]
pub struct Telemetry(Arc<Worker>);

#[derive(Debug)]
struct Worker {
    all: All,
    lines: Option<Lines>,
    tracer: Tracer,
    live: Arc<Level>,
    /// Only the worker takes it.
    desk: Mutex<Desk>,
}

#[derive(Debug, Default)]
struct Desk {
    series: Series,
    /// Memory for the words of requests to come.
    texts: Vec<Texts>,
}

/// What all workers count in.
#[derive(Clone, Debug, Default)]
struct All {
    families: Families,
    handshakes_refused: Family<Reason, Counter>,
    streams_refused: Family<Reason, Counter>,
    policy_recorded: Family<Recorded, Counter>,
    ejections: Family<Ejected, Counter>,
    limited: Family<Limited, Counter>,
    shed: Family<Reason, Counter>,
    live: Sharded<Level>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Recorded {
    kind: &'static str,
    policy: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Limited {
    policy: String,
    enforced: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ejected {
    service: String,
}

/// Words that are kept for requests to come, and how much memory each may have.
const MOST_TEXTS: usize = 64;
const MOST_TEXT: usize = 8 << 10;

impl Default for Telemetry {
    fn default() -> Self {
        Self::new(All::default(), None, Tracer::default())
    }
}

impl Telemetry {
    fn new(all: All, lines: Option<Lines>, tracer: Tracer) -> Self {
        let live = all.live.shard();
        Self(Arc::new(Worker { all, lines, tracer, live, desk: Mutex::default() }))
    }

    /// The same metrics as another worker tells them; `None`: it writes no lines.
    #[must_use]
    pub fn worker(&self, lines: Option<Lines>, tracer: Tracer) -> Self {
        Self::new(self.0.all.clone(), lines, tracer)
    }

    pub fn tracer(&self) -> &Tracer {
        &self.0.tracer
    }

    pub fn register(&self, registry: &mut Registry) {
        let all = &self.0.all;
        all.families.register(registry);
        registry.register(
            "weft_tunnel_handshakes_refused",
            "Tunnels that failed before they carried anything",
            all.handshakes_refused.clone(),
        );
        registry.register(
            "weft_waypoint_streams_refused",
            "Streams of the tunnel that were not served",
            all.streams_refused.clone(),
        );
        registry.register(
            "weft_policy_recorded",
            "Requests that a dry-run or AUDIT policy would have decided on",
            all.policy_recorded.clone(),
        );
        registry.register("weft_outlier_ejections", "Endpoints ejected", all.ejections.clone());
        registry.register("weft_requests_limited", "Requests over a rate limit", all.limited.clone());
        registry.register("weft_requests_shed", "Requests refused because there was too much to do", all.shed.clone());
        registry.register("weft_requests_live", "Requests and connections of bytes in flight", all.live.clone());
    }

    /// Requests and connections of bytes in flight, of all workers.
    pub fn live(&self) -> i64 {
        self.0.all.live.sum()
    }

    /// One more is in flight, for as long as what is returned lives.
    #[must_use]
    pub fn begin(&self) -> Live {
        self.0.live.add(1);
        Live(self.0.live.clone())
    }

    pub fn handshake_failed(&self, reason: &'static str, detail: &str, peer: SocketAddr) {
        self.0.all.handshakes_refused.get_or_create(&Reason { reason }).inc();
        warn!(%peer, reason, detail, "tunnel refused");
    }

    pub fn stream_refused(&self, reason: &'static str, detail: &str, client: &Client) {
        self.0.all.streams_refused.get_or_create(&Reason { reason }).inc();
        warn!(client = %client.address, identity = %client.identity, reason, detail, "stream refused");
    }

    /// A policy in dry run, or of action AUDIT, that had something to say.
    pub fn recorded(&self, kind: &'static str, policy: &str) {
        self.0.all.policy_recorded.get_or_create(&Recorded { kind, policy: policy.to_owned() }).inc();
    }

    /// A request was over a rate limit, which is enforced or only counts.
    pub fn limited(&self, policy: &str, enforced: bool) {
        let enforced = if enforced { "true" } else { "false" };
        self.0.all.limited.get_or_create(&Limited { policy: policy.to_owned(), enforced }).inc();
    }

    /// A request was refused because there was too much to do.
    pub fn shed(&self, shed: Shed) {
        self.0.all.shed.get_or_create(&Reason { reason: shed.reason() }).inc();
    }

    pub fn ejected(&self, service: &str) {
        self.0.all.ejections.get_or_create(&Ejected { service: service.to_owned() }).inc();
    }

    pub fn connection_opened(&self, record: &Record, rules: Option<&Arc<Rules>>) {
        self.0.all.families.opened(record, rules);
    }

    /// Memory for a request's words, to be given back by [`Telemetry::exchanged`].
    #[must_use]
    pub fn texts(&self) -> Texts {
        self.desk().texts.pop().unwrap_or_default()
    }

    /// Counts an exchange, writes its line and tells its span.
    pub fn exchanged(&self, record: &mut Record, rules: Option<&Arc<Rules>>) {
        record.took = record.began.elapsed();
        self.line(record, rules);
        if let Some(begun) = record.trace.take() {
            self.0.tracer.end(begun, record);
        }
        let mut desk = self.desk();
        desk.series.exchanged(&self.0.all.families, record, rules);
        let mut texts = std::mem::take(&mut record.texts);
        if desk.texts.len() < MOST_TEXTS && (1..=MOST_TEXT).contains(&texts.capacity()) {
            texts.clear();
            desk.texts.push(texts);
        }
    }

    /// Counts and writes the line of a connection of bytes.
    pub fn connection_closed(&self, record: &mut Record, rules: Option<&Arc<Rules>>) {
        record.took = record.began.elapsed();
        self.0.all.families.closed(record, rules);
        self.line(record, rules);
    }

    fn line(&self, record: &Record, rules: Option<&Arc<Rules>>) {
        if let Some(lines) = &self.0.lines
            && enabled!(target: ACCESS, Severity::INFO)
            && rules.is_none_or(|rules| rules.logs(record))
        {
            lines.write(record);
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.0.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Telemetry::begin`].
#[derive(Debug)]
pub struct Live(Arc<Level>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

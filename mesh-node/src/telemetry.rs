//! What a connection leaves behind: its access-log line and its metrics, under Istio's names.

mod line;

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::identity::SpiffeId;
use mesh_core::workload::Workload;
use mesh_net::labels::Text;
use mesh_net::logging::Lines;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tracing::{Level, enabled, warn};

use crate::connection::{Direction, End, Facts, Live, Tally};
use crate::cost::{Cost, Costs};

/// Target of access-log lines, so that a log filter can name them.
pub const ACCESS: &str = "access";

/// Without [`Telemetry::writing`] nothing of it writes lines.
#[derive(Clone, Debug, Default)]
pub struct Telemetry {
    lines: Option<Lines>,
    tallies: Tallies,
    costs: Costs,
    ends: Family<EndLabels, Counter>,
    audited: Family<AuditLabels, Counter>,
    refused_handshakes: Family<ReasonLabels, Counter>,
    panics: Counter,
    live: Gauge,
}

/// A tally for each set of labels: looked for once a connection, not once a counter.
#[derive(Clone, Debug, Default)]
struct Tallies(Arc<Mutex<HashMap<TcpLabels, Arc<Tally>>>>);

impl Tallies {
    fn of(&self, labels: TcpLabels) -> Arc<Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(labels).or_default().clone()
    }
}

type Count = fn(&Tally) -> &AtomicU64;

impl Collector for Tallies {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = tallies.iter().map(|(labels, tally)| (labels.clone(), tally.clone())).collect();
        drop(tallies);
        let each: [(_, _, Count); 4] = [
            ("istio_tcp_connections_opened", "Connections opened", |tally| &tally.opened),
            ("istio_tcp_connections_closed", "Connections closed", |tally| &tally.closed),
            ("istio_tcp_sent_bytes", "Bytes sent to clients, in responses", |tally| &tally.sent),
            ("istio_tcp_received_bytes", "Bytes received from clients, in requests", |tally| &tally.received),
        ];
        for (name, help, count) in each {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, tally) in &all {
                let count = count(tally).load(Ordering::Relaxed);
                if count > 0 {
                    ConstCounter::new(count).encode(family.encode_family(labels)?)?;
                }
            }
        }
        Ok(())
    }
}

/// Istio's standard TCP labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, EncodeLabelSet)]
struct TcpLabels {
    reporter: &'static str,
    source_workload: Text,
    source_canonical_service: Text,
    source_canonical_revision: Text,
    source_workload_namespace: Text,
    source_principal: Text,
    source_app: Text,
    source_version: Text,
    source_cluster: Text,
    destination_service: Text,
    destination_service_namespace: Text,
    destination_service_name: Text,
    destination_workload: Text,
    destination_canonical_service: Text,
    destination_canonical_revision: Text,
    destination_workload_namespace: Text,
    destination_principal: Text,
    destination_app: Text,
    destination_version: Text,
    destination_cluster: Text,
    request_protocol: &'static str,
    response_flags: &'static str,
    connection_security_policy: &'static str,
}

/// Of what tells most of them apart: to hash twenty texts costs as much as the line of a connection.
impl Hash for TcpLabels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.reporter.hash(state);
        self.source_workload.hash(state);
        self.destination_workload.hash(state);
        self.destination_service.hash(state);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    direction: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuditLabels {
    kind: &'static str,
    policy: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    direction: &'static str,
    reason: &'static str,
}

impl Telemetry {
    pub fn writing(lines: Lines) -> Self {
        Self { lines: Some(lines), ..Self::default() }
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.tallies.clone()));
        registry.register_collector(Box::new(self.costs.clone()));
        registry.register("weft_connections_ended", "Connections by how they ended", self.ends.clone());
        registry.register(
            "weft_policy_recorded",
            "Connections that a dry-run or AUDIT policy would have decided on",
            self.audited.clone(),
        );
        registry.register(
            "weft_tunnel_handshakes_refused",
            "Tunnels that failed before they carried a connection",
            self.refused_handshakes.clone(),
        );
        registry.register("weft_panics", "Connections lost to a defect of the agent", self.panics.clone());
        registry.register("weft_connections_live", "Connections alive", self.live.clone());
    }

    /// What the agent does for each pod.
    pub fn costs(&self) -> &Costs {
        &self.costs
    }

    /// A connection that is alive from here on, and what it is counted in.
    pub fn opened(&self, facts: &Facts) -> (Arc<Tally>, Option<Arc<Cost>>) {
        self.live.inc();
        let tally = self.tallies.of(labels(facts));
        tally.opened.fetch_add(1, Ordering::Relaxed);
        (tally, facts.pod.and_then(|pod| self.costs.at(pod)))
    }

    /// A connection that lives and is another agent's from here on.
    pub fn left(&self) {
        self.live.dec();
    }

    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// A tunnel that failed in its handshake: no connection is known yet that a line could be about.
    pub fn handshake_failed(
        &self,
        direction: Direction,
        reason: &'static str,
        detail: &str,
        peer: std::net::SocketAddr,
    ) {
        self.refused_handshakes.get_or_create(&ReasonLabels { direction: direction.as_str(), reason }).inc();
        warn!(%peer, direction = direction.as_str(), reason, detail, "tunnel refused");
    }

    /// A policy in dry run, or of action AUDIT, that had something to say.
    pub fn recorded(&self, kind: &'static str, policy: String) {
        self.audited.get_or_create(&AuditLabels { kind, policy }).inc();
    }

    /// Brings the byte counters of a connection up to date, while it lives and when it ends.
    pub fn report_bytes(&self, live: &Live) {
        live.report();
    }

    pub fn closed(&self, live: &Live, end: &End) {
        self.live.dec();
        self.report_bytes(live);
        live.tally().closed.fetch_add(1, Ordering::Relaxed);
        self.ends.get_or_create(&EndLabels { direction: live.facts.direction.as_str(), reason: end.reason }).inc();
        if let Some(lines) = &self.lines
            && enabled!(target: ACCESS, Level::INFO)
        {
            lines.write(ACCESS, line::MESSAGE, |line| line::fill(live, end, line));
        }
    }
}

fn labels(facts: &Facts) -> TcpLabels {
    let text = |w: &Option<Arc<Workload>>, field: fn(&Workload) -> &Arc<str>| {
        w.as_ref().map(|w| field(w).into()).unwrap_or_default()
    };
    let principal = |id: &Option<SpiffeId>| id.as_ref().map(|id| id.shared_uri().into()).unwrap_or_default();
    let (source, destination, service) = (&facts.source, &facts.destination, &facts.service);
    TcpLabels {
        reporter: match facts.direction {
            Direction::Inbound => "destination",
            Direction::Outbound => "source",
        },
        source_workload: text(source, |w| &w.workload_name),
        source_canonical_service: text(source, |w| &w.canonical_name),
        source_canonical_revision: text(source, |w| &w.canonical_revision),
        source_workload_namespace: text(source, |w| &w.namespace),
        source_principal: principal(&facts.source_identity),
        source_app: text(source, |w| &w.canonical_name),
        source_version: text(source, |w| &w.canonical_revision),
        source_cluster: text(source, |w| &w.cluster),
        destination_service: service.as_ref().map(|s| (&s.key.hostname).into()).unwrap_or_default(),
        destination_service_namespace: service.as_ref().map(|s| (&s.key.namespace).into()).unwrap_or_default(),
        destination_service_name: service.as_ref().map(|s| (&s.name).into()).unwrap_or_default(),
        destination_workload: text(destination, |w| &w.workload_name),
        destination_canonical_service: text(destination, |w| &w.canonical_name),
        destination_canonical_revision: text(destination, |w| &w.canonical_revision),
        destination_workload_namespace: text(destination, |w| &w.namespace),
        destination_principal: principal(&facts.destination_identity),
        destination_app: text(destination, |w| &w.canonical_name),
        destination_version: text(destination, |w| &w.canonical_revision),
        destination_cluster: text(destination, |w| &w.cluster),
        request_protocol: "tcp",
        response_flags: "-",
        connection_security_policy: facts.security.as_str(),
    }
}

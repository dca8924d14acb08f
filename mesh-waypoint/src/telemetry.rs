//! What a request leaves behind: its line in the access log and its metrics, under the reference's names.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mesh_core::identity::SpiffeId;
use mesh_core::service::Service;
use mesh_core::workload::Workload;
use mesh_net::labels::Text;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tracing::{info, warn};

use crate::client::Client;

/// Target of access-log lines, so that a log filter can name them.
pub const ACCESS: &str = "access";

/// The reference's buckets, for milliseconds and for bytes.
const BUCKETS: [f64; 19] = [
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

#[derive(Clone, Debug)]
pub struct Telemetry {
    requests: Family<Labels, Counter>,
    duration: Family<Labels, Histogram>,
    request_bytes: Family<Labels, Histogram>,
    response_bytes: Family<Labels, Histogram>,
    tcp_opened: Family<Labels, Counter>,
    tcp_closed: Family<Labels, Counter>,
    tcp_sent: Family<Labels, Counter>,
    tcp_received: Family<Labels, Counter>,
    handshakes_refused: Family<Reason, Counter>,
    streams_refused: Family<Reason, Counter>,
    policy_recorded: Family<Recorded, Counter>,
    ejections: Family<Ejected, Counter>,
    limited: Family<Limited, Counter>,
    pub live: Gauge,
}

/// Istio's standard labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
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
    response_code: u16,
    grpc_response_status: String,
    response_flags: &'static str,
    connection_security_policy: &'static str,
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

impl Default for Telemetry {
    fn default() -> Self {
        let histogram = || Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        Self {
            requests: Family::default(),
            duration: histogram(),
            request_bytes: histogram(),
            response_bytes: histogram(),
            tcp_opened: Family::default(),
            tcp_closed: Family::default(),
            tcp_sent: Family::default(),
            tcp_received: Family::default(),
            handshakes_refused: Family::default(),
            streams_refused: Family::default(),
            policy_recorded: Family::default(),
            ejections: Family::default(),
            limited: Family::default(),
            live: Gauge::default(),
        }
    }
}

/// What is known of an exchange, or of a connection of bytes, when it is over.
#[derive(Clone, Debug)]
pub struct Record {
    pub client: Arc<Client>,
    pub service: Option<Arc<Service>>,
    pub destination: Option<Arc<Workload>>,
    pub upstream: Option<SocketAddr>,
    pub asked: SocketAddr,
    pub began: Instant,
    /// `HTTP/1.1` and the like; `-` for bytes.
    pub protocol: &'static str,
    pub method: String,
    /// As it came, with the query.
    pub path: String,
    pub authority: String,
    pub request_id: String,
    pub user_agent: String,
    pub forwarded_for: String,
    pub is_grpc: bool,
    pub status: u16,
    pub grpc_status: Option<String>,
    /// The reference's two-letter words for what went wrong; `-` for nothing.
    pub flags: &'static str,
    /// What decided on the status.
    pub details: String,
    pub failure: String,
    pub route: Arc<str>,
    pub received: u64,
    pub sent: u64,
    pub attempts: u32,
}

impl Record {
    pub fn new(client: Arc<Client>, asked: SocketAddr, protocol: &'static str) -> Self {
        Self {
            client,
            service: None,
            destination: None,
            upstream: None,
            asked,
            began: Instant::now(),
            protocol,
            method: String::new(),
            path: String::new(),
            authority: String::new(),
            request_id: String::new(),
            user_agent: String::new(),
            forwarded_for: String::new(),
            is_grpc: false,
            status: 0,
            grpc_status: None,
            flags: "-",
            details: String::new(),
            failure: String::new(),
            route: "".into(),
            received: 0,
            sent: 0,
            attempts: 0,
        }
    }
}

impl Telemetry {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("istio_requests", "Requests", self.requests.clone());
        registry.register(
            "istio_request_duration_milliseconds",
            "Time from a request's first byte to its response's last, in ms",
            self.duration.clone(),
        );
        registry.register("istio_request_bytes", "Bytes of request bodies", self.request_bytes.clone());
        registry.register("istio_response_bytes", "Bytes of response bodies", self.response_bytes.clone());
        registry.register("istio_tcp_connections_opened", "Connections opened", self.tcp_opened.clone());
        registry.register("istio_tcp_connections_closed", "Connections closed", self.tcp_closed.clone());
        registry.register("istio_tcp_sent_bytes", "Bytes sent to clients", self.tcp_sent.clone());
        registry.register("istio_tcp_received_bytes", "Bytes received from clients", self.tcp_received.clone());
        registry.register(
            "weft_tunnel_handshakes_refused",
            "Tunnels that failed before they carried anything",
            self.handshakes_refused.clone(),
        );
        registry.register(
            "weft_waypoint_streams_refused",
            "Streams of the tunnel that were not served",
            self.streams_refused.clone(),
        );
        registry.register(
            "weft_policy_recorded",
            "Requests that a dry-run or AUDIT policy would have decided on",
            self.policy_recorded.clone(),
        );
        registry.register("weft_outlier_ejections", "Endpoints ejected", self.ejections.clone());
        registry.register("weft_requests_limited", "Requests over a rate limit", self.limited.clone());
        registry.register("weft_requests_live", "Requests and connections of bytes in flight", self.live.clone());
    }

    pub fn handshake_failed(&self, reason: &'static str, detail: &str, peer: SocketAddr) {
        self.handshakes_refused.get_or_create(&Reason { reason }).inc();
        warn!(%peer, reason, detail, "tunnel refused");
    }

    pub fn stream_refused(&self, reason: &'static str, detail: &str, client: &Client) {
        self.streams_refused.get_or_create(&Reason { reason }).inc();
        warn!(client = %client.address, identity = %client.identity, reason, detail, "stream refused");
    }

    /// A policy in dry run, or of action AUDIT, that had something to say.
    pub fn recorded(&self, kind: &'static str, policy: &str) {
        self.policy_recorded.get_or_create(&Recorded { kind, policy: policy.to_owned() }).inc();
    }

    /// A request was over a rate limit, which is enforced or only counts.
    pub fn limited(&self, policy: &str, enforced: bool) {
        let enforced = if enforced { "true" } else { "false" };
        self.limited.get_or_create(&Limited { policy: policy.to_owned(), enforced }).inc();
    }

    pub fn ejected(&self, service: &str) {
        self.ejections.get_or_create(&Ejected { service: service.to_owned() }).inc();
    }

    pub fn connection_opened(&self, record: &Record) {
        self.tcp_opened.get_or_create(&labels(record)).inc();
    }

    /// Counts and writes the line of an exchange.
    pub fn exchanged(&self, record: &Record, logged: bool) {
        let labels = labels(record);
        self.requests.get_or_create(&labels).inc();
        self.duration.get_or_create(&labels).observe(record.began.elapsed().as_secs_f64() * 1000.0);
        #[allow(clippy::cast_precision_loss)]
        self.request_bytes.get_or_create(&labels).observe(record.received as f64);
        #[allow(clippy::cast_precision_loss)]
        self.response_bytes.get_or_create(&labels).observe(record.sent as f64);
        if logged {
            line(record);
        }
    }

    /// Counts and writes the line of a connection of bytes.
    pub fn connection_closed(&self, record: &Record, logged: bool) {
        let labels = labels(record);
        self.tcp_closed.get_or_create(&labels).inc();
        self.tcp_sent.get_or_create(&labels).inc_by(record.sent);
        self.tcp_received.get_or_create(&labels).inc_by(record.received);
        if logged {
            line(record);
        }
    }
}

fn labels(record: &Record) -> Labels {
    let text =
        |w: Option<&Arc<Workload>>, field: fn(&Workload) -> &Arc<str>| w.map(|w| field(w).into()).unwrap_or_default();
    let principal = |id: &SpiffeId| Text(Some(id.uri().into()));
    let (source, destination, service) =
        (record.client.workload.as_ref(), record.destination.as_ref(), record.service.as_ref());
    Labels {
        reporter: "waypoint",
        source_workload: text(source, |w| &w.workload_name),
        source_canonical_service: text(source, |w| &w.canonical_name),
        source_canonical_revision: text(source, |w| &w.canonical_revision),
        source_workload_namespace: text(source, |w| &w.namespace),
        source_principal: principal(&record.client.identity),
        source_app: text(source, |w| &w.canonical_name),
        source_version: text(source, |w| &w.canonical_revision),
        source_cluster: text(source, |w| &w.cluster),
        destination_service: service.map(|s| (&s.key.hostname).into()).unwrap_or_default(),
        destination_service_namespace: service.map(|s| (&s.key.namespace).into()).unwrap_or_default(),
        destination_service_name: service.map(|s| (&s.name).into()).unwrap_or_default(),
        destination_workload: text(destination, |w| &w.workload_name),
        destination_canonical_service: text(destination, |w| &w.canonical_name),
        destination_canonical_revision: text(destination, |w| &w.canonical_revision),
        destination_workload_namespace: text(destination, |w| &w.namespace),
        destination_principal: destination.map(|w| principal(&w.identity)).unwrap_or_default(),
        destination_app: text(destination, |w| &w.canonical_name),
        destination_version: text(destination, |w| &w.canonical_revision),
        destination_cluster: text(destination, |w| &w.cluster),
        request_protocol: match (record.protocol, record.is_grpc) {
            ("-", _) => "tcp",
            (_, true) => "grpc",
            (_, false) => "http",
        },
        response_code: record.status,
        grpc_response_status: record.grpc_status.clone().unwrap_or_default(),
        response_flags: record.flags,
        connection_security_policy: "mutual_tls",
    }
}

fn line(record: &Record) {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let duration = u64::try_from(record.began.elapsed().as_millis()).unwrap_or(u64::MAX);
    info!(
        target: ACCESS,
        method = some(&record.method),
        path = some(&record.path),
        protocol = record.protocol,
        authority = some(&record.authority),
        response_code = record.status,
        response_flags = record.flags,
        response_code_details = some(&record.details),
        grpc_status = record.grpc_status,
        upstream_transport_failure_reason = some(&record.failure),
        bytes_received = record.received,
        bytes_sent = record.sent,
        duration = duration,
        attempts = record.attempts,
        x_forwarded_for = some(&record.forwarded_for),
        user_agent = some(&record.user_agent),
        request_id = some(&record.request_id),
        upstream_host = record.upstream.map(|address| address.to_string()),
        upstream_cluster = record.service.as_ref().map(|s| s.key.hostname.to_string()),
        upstream_workload = record.destination.as_ref().map(|w| w.name.to_string()),
        downstream_local_address = %record.asked,
        downstream_remote_address = %record.client.address,
        downstream_identity = %record.client.identity,
        downstream_workload = record.client.workload.as_ref().map(|w| w.name.to_string()),
        route_name = some(&record.route),
        "request complete"
    );
}

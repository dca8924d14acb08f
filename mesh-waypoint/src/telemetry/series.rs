//! The series that a request counts in: looked up once for all requests that are alike, and then at hand.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use mesh_core::identity::SpiffeId;
use mesh_core::service::Service;
use mesh_core::workload::Workload;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::labels::Labels;
use super::record::{GrpcStatus, Record};
use super::rules::{Metric, Rules};
use super::shards::{Buckets, Count, Sharded};

/// Series that a worker keeps at hand. Beyond them it begins anew: nothing that was counted is lost by it.
const MOST: usize = 4096;

/// Series, of all metrics together, whose labels may have what values requests give them; beyond, all that are new are one.
const MOST_TOLD: usize = 20_000;
const TOO_MANY: &str = "too_many";

/// Istio's metrics, of all workers.
#[derive(Clone, Debug, Default)]
pub(super) struct Families {
    requests: Family<Labels, Sharded<Count>>,
    duration: Family<Labels, Sharded<Buckets>>,
    request_bytes: Family<Labels, Sharded<Buckets>>,
    response_bytes: Family<Labels, Sharded<Buckets>>,
    tcp_opened: Family<Labels, Sharded<Count>>,
    tcp_closed: Family<Labels, Sharded<Count>>,
    tcp_sent: Family<Labels, Sharded<Count>>,
    tcp_received: Family<Labels, Sharded<Count>>,
    /// Series with values that requests gave.
    given: Arc<AtomicUsize>,
}

impl Families {
    pub(super) fn register(&self, registry: &mut Registry) {
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
    }

    pub(super) fn opened(&self, record: &Record, rules: Option<&Arc<Rules>>) {
        let told = Told::new(record, rules);
        told.add(Metric::TcpOpened, &self.tcp_opened, &self.given, 1);
    }

    pub(super) fn closed(&self, record: &Record, rules: Option<&Arc<Rules>>) {
        let told = Told::new(record, rules);
        told.add(Metric::TcpClosed, &self.tcp_closed, &self.given, 1);
        told.add(Metric::TcpSent, &self.tcp_sent, &self.given, record.sent);
        told.add(Metric::TcpReceived, &self.tcp_received, &self.given, record.received);
    }
}

/// How one record is told.
struct Told<'a> {
    labels: Labels,
    rules: Option<&'a Arc<Rules>>,
    values: Vec<Arc<str>>,
}

impl<'a> Told<'a> {
    fn new(record: &Record, rules: Option<&'a Arc<Rules>>) -> Self {
        let values = rules.map(|rules| rules.values(record)).unwrap_or_default();
        Self { labels: Labels::of(record), rules, values }
    }

    /// A shard of the record's series; `None`: it is not told.
    fn shard<T: Default>(
        &self,
        metric: Metric,
        family: &Family<Labels, Sharded<T>>,
        given: &AtomicUsize,
    ) -> Option<Arc<T>> {
        let Some(change) = self.rules.map(|rules| rules.change(metric)) else {
            return Some(family.get_or_create(&self.labels).shard());
        };
        if change.disabled {
            return None;
        }
        let labels = self.labels.changed(change, &self.values);
        if let Some(known) = family.get(&labels) {
            return Some(known.shard());
        }
        if self.values.is_empty() || given.fetch_add(1, Ordering::Relaxed) < MOST_TOLD {
            return Some(family.get_or_create(&labels).shard());
        }
        let values = vec![TOO_MANY.into(); self.values.len()];
        Some(family.get_or_create(&self.labels.changed(change, &values)).shard())
    }

    fn add(&self, metric: Metric, family: &Family<Labels, Sharded<Count>>, given: &AtomicUsize, count: u64) {
        if let Some(shard) = self.shard(metric, family, given) {
            shard.add(count);
        }
    }
}

/// What a worker has at hand.
#[derive(Debug)]
pub(super) struct Series {
    known: HashMap<Key, Requests, RandomState>,
    most: usize,
}

impl Default for Series {
    fn default() -> Self {
        Self { known: HashMap::default(), most: MOST }
    }
}

/// What requests that count alike have in common. Objects are told apart by where they are: a newer state of one is another, with
/// the same labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    client: Who,
    service: Option<usize>,
    destination: Option<usize>,
    protocol: &'static str,
    is_grpc: bool,
    status: u16,
    grpc_status: Option<GrpcStatus>,
    flags: &'static str,
    rules: Option<usize>,
    /// Of labels that rules add.
    values: Vec<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    /// Whose identity is the workload's ([`crate::client::Client::workload`]).
    Workload(usize),
    Stranger(SpiffeId),
}

impl Key {
    fn of(record: &Record, rules: Option<&Arc<Rules>>) -> Self {
        let client = match &record.client.workload {
            Some(workload) => Who::Workload(place(workload)),
            None => Who::Stranger(record.client.identity.clone()),
        };
        Self {
            client,
            service: record.service.as_ref().map(place),
            destination: record.destination.as_ref().map(place),
            protocol: record.protocol,
            is_grpc: record.is_grpc,
            status: record.status,
            grpc_status: record.grpc_status,
            flags: record.flags,
            rules: rules.map(place),
            values: rules.map(|rules| rules.values(record)).unwrap_or_default(),
        }
    }
}

fn place<T>(object: &Arc<T>) -> usize {
    Arc::as_ptr(object) as usize
}

/// What a key names. Nothing else comes to be where these are while the key is in use.
#[derive(Debug)]
struct Held {
    _client: Option<Arc<Workload>>,
    _service: Option<Arc<Service>>,
    _destination: Option<Arc<Workload>>,
    _rules: Option<Arc<Rules>>,
}

/// This worker's shards of the series of some requests.
#[derive(Debug)]
struct Requests {
    requests: Option<Arc<Count>>,
    duration: Option<Arc<Buckets>>,
    request_bytes: Option<Arc<Buckets>>,
    response_bytes: Option<Arc<Buckets>>,
    _held: Held,
}

impl Series {
    /// Counts an exchange that is over.
    pub(super) fn exchanged(&mut self, families: &Families, record: &Record, rules: Option<&Arc<Rules>>) {
        let key = Key::of(record, rules);
        if let Some(known) = self.known.get(&key) {
            return known.add(record);
        }
        let told = Told { labels: Labels::of(record), rules, values: key.values.clone() };
        let held = Held {
            _client: record.client.workload.clone(),
            _service: record.service.clone(),
            _destination: record.destination.clone(),
            _rules: rules.cloned(),
        };
        let new = Requests {
            requests: told.shard(Metric::Requests, &families.requests, &families.given),
            duration: told.shard(Metric::Duration, &families.duration, &families.given),
            request_bytes: told.shard(Metric::RequestBytes, &families.request_bytes, &families.given),
            response_bytes: told.shard(Metric::ResponseBytes, &families.response_bytes, &families.given),
            _held: held,
        };
        new.add(record);
        if self.known.len() >= self.most {
            self.known.clear();
        }
        self.known.insert(key, new);
    }
}

impl Requests {
    #[allow(clippy::cast_precision_loss)]
    fn add(&self, record: &Record) {
        if let Some(requests) = &self.requests {
            requests.add(1);
        }
        for (buckets, value) in [
            (&self.duration, record.took.as_secs_f64() * 1000.0),
            (&self.request_bytes, record.received as f64),
            (&self.response_bytes, record.sent as f64),
        ] {
            if let Some(buckets) = buckets {
                buckets.observe(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use expect_test::expect;
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::client::Client;

    fn record(status: u16) -> Record {
        let client = Client {
            identity: SpiffeId::new("td", "shop", "web").unwrap(),
            address: SocketAddr::from(([10, 0, 0, 9], 4000)),
            workload: None,
        };
        let mut record = Record::new(Arc::new(client), SocketAddr::from(([10, 96, 0, 7], 80)), "HTTP/2");
        (record.status, record.sent) = (status, 10);
        record
    }

    fn told(families: &Families, of: &str) -> Vec<String> {
        let mut registry = Registry::default();
        families.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let mut lines: Vec<_> = text.lines().filter(|line| line.starts_with(of)).map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[test]
    fn requests_are_told_under_the_references_names() {
        let families = Families::default();
        let (mut one, mut other) = (Series::default(), Series::default());
        one.exchanged(&families, &record(200), None);
        one.exchanged(&families, &record(200), None);
        other.exchanged(&families, &record(200), None);
        expect![[r#"
            istio_requests_total{reporter="waypoint",source_workload="unknown",source_canonical_service="unknown",source_canonical_revision="unknown",source_workload_namespace="unknown",source_principal="spiffe://td/ns/shop/sa/web",source_app="unknown",source_version="unknown",source_cluster="unknown",destination_service="unknown",destination_service_namespace="unknown",destination_service_name="unknown",destination_workload="unknown",destination_canonical_service="unknown",destination_canonical_revision="unknown",destination_workload_namespace="unknown",destination_principal="unknown",destination_app="unknown",destination_version="unknown",destination_cluster="unknown",request_protocol="http",response_code="200",grpc_response_status="",response_flags="-",connection_security_policy="mutual_tls"} 3"#]]
        .assert_eq(&told(&families, "istio_requests_total").join("\n"));
        let sums = told(&families, "istio_response_bytes_sum");
        assert!(sums.len() == 1 && sums[0].ends_with(" 30.0"), "{sums:?}");
    }

    #[test]
    fn what_differs_is_counted_apart() {
        let (families, mut series) = (Families::default(), Series::default());
        let with = |change: fn(&mut Record)| {
            let mut record = record(200);
            change(&mut record);
            record
        };
        let all = [
            with(|_| {}),
            with(|record| record.status = 503),
            with(|record| record.flags = "UF"),
            with(|record| record.is_grpc = true),
            with(|record| (record.is_grpc, record.grpc_status) = (true, Some(GrpcStatus(0)))),
            with(|record| {
                let identity = SpiffeId::new("td", "shop", "other").unwrap();
                record.client = Arc::new(Client { identity, ..(*record.client).clone() });
            }),
        ];
        for record in all.iter().chain(&all) {
            series.exchanged(&families, record, None);
        }
        let lines = told(&families, "istio_requests_total");
        assert!(lines.len() == all.len() && lines.iter().all(|line| line.ends_with(" 2")), "{lines:#?}");
    }

    #[test]
    fn labels_and_metrics_are_what_rules_make_of_them() {
        let model = serde_json::json!({ "metrics": { "overrides": {
            "ALL_METRICS": { "labels": { "source_app": null, "by": "request.method", "reporter": "'me'" } },
            "request_bytes": { "disabled": true },
        } } });
        let rules = Rules::compile(&serde_json::from_value(model).unwrap(), "test");
        let (families, mut series) = (Families::default(), Series::default());
        for method in ["GET", "PUT", "GET"] {
            let mut record = record(200);
            record.texts.set(crate::telemetry::Word::Method, method);
            series.exchanged(&families, &record, rules.as_ref());
        }
        let lines = told(&families, "istio_requests_total");
        assert_eq!(lines.len(), 2);
        assert!(
            lines.iter().all(|line| line.contains("reporter=\"me\"") && !line.contains("source_app")),
            "{lines:#?}"
        );
        assert!(lines[0].ends_with(",by=\"GET\"} 2") && lines[1].ends_with(",by=\"PUT\"} 1"), "{lines:#?}");
        assert!(told(&families, "istio_request_bytes").is_empty());
        assert_eq!(told(&families, "istio_response_bytes_count").len(), 2);
        // Whatever requests say, there are only so many series.
        for path in 0..MOST_TOLD + 10 {
            let mut record = record(200);
            record.texts.set(crate::telemetry::Word::Method, &path.to_string());
            families.opened(&record, rules.as_ref());
        }
        let lines = told(&families, "istio_tcp_connections_opened_total");
        assert!((MOST_TOLD / 2..=MOST_TOLD + 1).contains(&lines.len()), "{}", lines.len());
        assert!(lines.iter().any(|line| line.contains(TOO_MANY)));
    }

    #[test]
    fn a_worker_keeps_only_so_many_at_hand_and_loses_no_count() {
        let (families, mut series) = (Families::default(), Series { most: 4, ..Series::default() });
        for _ in 0..2 {
            for status in 200..210 {
                series.exchanged(&families, &record(status), None);
                assert!(series.known.len() <= 4);
            }
        }
        let lines = told(&families, "istio_requests_total");
        assert!(lines.len() == 10 && lines.iter().all(|line| line.ends_with(" 2")));
    }
}

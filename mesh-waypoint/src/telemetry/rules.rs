//! What a Telemetry says of the access log and of metrics, made ready.

use std::sync::Arc;

use mesh_core::l7::telemetry::{MetricOverride, Telemetry as Model};
use tracing::warn;

use super::expression::{Attributes, Expression};
use super::record::Record;

/// A metric of Istio's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metric {
    Requests,
    Duration,
    RequestBytes,
    ResponseBytes,
    TcpOpened,
    TcpClosed,
    TcpSent,
    TcpReceived,
}

impl Metric {
    /// By the names of the model.
    const ALL: [(Self, &'static str); 8] = [
        (Self::Requests, "requests_total"),
        (Self::Duration, "request_duration_milliseconds"),
        (Self::RequestBytes, "request_bytes"),
        (Self::ResponseBytes, "response_bytes"),
        (Self::TcpOpened, "tcp_connections_opened_total"),
        (Self::TcpClosed, "tcp_connections_closed_total"),
        (Self::TcpSent, "tcp_sent_bytes_total"),
        (Self::TcpReceived, "tcp_received_bytes_total"),
    ];
}

/// What is to be told otherwise than by default.
#[derive(Debug)]
pub struct Rules {
    logged: bool,
    filter: Option<Expression>,
    changes: [Change; Metric::ALL.len()],
    /// Those that labels have their values of.
    values: Vec<Expression>,
}

/// Of one metric.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) disabled: bool,
    /// Label to the place of its value; `None`: it is left out.
    pub(super) labels: Vec<(Arc<str>, Option<usize>)>,
}

impl Rules {
    /// `None`: all is as by default. What is no expression is said once, here, and then left out: all is logged, and the label is what
    /// it was.
    pub fn compile(model: &Model, of: &str) -> Option<Arc<Self>> {
        let (log, metrics) = (&model.access_log, &model.metrics);
        if log.enabled && log.filter.is_none() && metrics.overrides.is_empty() {
            return None;
        }
        let read = |source: &str| {
            let read = Expression::compile(source);
            read.map_err(|error| warn!(model = of, expression = source, error, "an expression is not taken")).ok()
        };
        let mut sources: Vec<&str> = Vec::new();
        let mut values = Vec::new();
        let mut place = |source| match sources.iter().position(|own| *own == source) {
            Some(at) => Some(at),
            None => {
                values.push(read(source)?);
                sources.push(source);
                Some(sources.len() - 1)
            }
        };
        let all = metrics.overrides.get("ALL_METRICS");
        let changes = Metric::ALL.map(|(_, name)| {
            // What is said of one metric goes before what is said of all.
            let said: Vec<&MetricOverride> = metrics.overrides.get(name).into_iter().chain(all).collect();
            let mut change =
                Change { disabled: said.iter().find_map(|said| said.disabled).unwrap_or(false), labels: Vec::new() };
            for (label, source) in said.iter().flat_map(|said| &said.labels) {
                if change.labels.iter().any(|(own, _)| own == label) {
                    continue;
                }
                match source.as_deref().map(&mut place) {
                    None => change.labels.push((label.clone(), None)),
                    Some(Some(at)) => change.labels.push((label.clone(), Some(at))),
                    Some(None) => {}
                }
            }
            change
        });
        let filter = log.filter.as_deref().and_then(read);
        Some(Arc::new(Self { logged: log.enabled, filter, changes, values }))
    }

    /// Whether header fields have to be kept until the end.
    pub fn asks_for_headers(&self) -> bool {
        self.is_about("request") || self.is_about("response")
    }

    pub(super) fn logs(&self, record: &Record) -> bool {
        let holds = |filter: &Expression| filter.holds(&Attributes::of(record, |name| filter.is_about(name)));
        self.logged && self.filter.as_ref().is_none_or(holds)
    }

    pub(super) fn change(&self, metric: Metric) -> &Change {
        &self.changes[metric as usize]
    }

    /// Values of labels for one record; one that there is not is `unknown`.
    pub(super) fn values(&self, record: &Record) -> Vec<Arc<str>> {
        if self.values.is_empty() {
            return Vec::new();
        }
        let attributes = Attributes::of(record, |name| self.is_about(name));
        let text = |value: &Expression| value.text(&attributes).filter(|text| !text.is_empty());
        self.values.iter().map(|value| text(value).map_or_else(|| "unknown".into(), Arc::from)).collect()
    }

    fn is_about(&self, name: &str) -> bool {
        self.values.iter().chain(&self.filter).any(|expression| expression.is_about(name))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use mesh_core::identity::SpiffeId;

    use super::*;
    use crate::client::Client;

    fn rules(model: serde_json::Value) -> Option<Arc<Rules>> {
        Rules::compile(&serde_json::from_value(model).unwrap(), "test")
    }

    fn record(status: u16) -> Record {
        let client = Client {
            identity: SpiffeId::new("td", "shop", "web").unwrap(),
            address: SocketAddr::from(([10, 0, 0, 9], 4000)),
            workload: None,
        };
        let asked = SocketAddr::from(([10, 96, 0, 7], 80));
        Record { status, ..Record::new(Arc::new(client), asked, "HTTP/2") }
    }

    #[test]
    fn what_is_as_by_default_costs_nothing() {
        assert!(rules(serde_json::json!({})).is_none());
        assert!(rules(serde_json::json!({ "tracing": { "disabled": true } })).is_none());
    }

    #[test]
    fn a_log_is_off_or_filtered_or_whole() {
        for (log, logged) in [
            (serde_json::json!({ "enabled": false }), [false, false]),
            (serde_json::json!({ "filter": "response.code >= 400" }), [false, true]),
            (serde_json::json!({ "enabled": false, "filter": "response.code >= 400" }), [false, false]),
            (serde_json::json!({ "filter": "response.code >=" }), [true, true]),
        ] {
            let rules = rules(serde_json::json!({ "access_log": log })).unwrap();
            assert_eq!([rules.logs(&record(200)), rules.logs(&record(500))], logged, "{log}");
        }
    }

    #[test]
    fn one_metric_goes_before_all_of_them() {
        let rules = rules(serde_json::json!({ "metrics": { "overrides": {
            "ALL_METRICS": { "disabled": true, "labels": { "a": "request.method", "b": null, "bad": "1 +" } },
            "requests_total": { "disabled": false, "labels": { "a": "response.code", "c": "request.method" } },
            "request_bytes": { "labels": { "b": "'x'" } },
        } } }))
        .unwrap();
        let told = |metric| {
            let change = rules.change(metric);
            let values = rules.values(&record(201));
            let labels = change.labels.iter().map(|(label, at)| match at {
                Some(at) => format!("{label}={}", values[*at]),
                None => format!("-{label}"),
            });
            (change.disabled, labels.collect::<Vec<_>>().join(" "))
        };
        assert_eq!(told(Metric::Requests), (false, "a=201 c=unknown -b".to_owned()));
        assert_eq!(told(Metric::RequestBytes), (true, "b=x a=unknown".to_owned()));
        assert_eq!(told(Metric::TcpSent), (true, "a=unknown -b".to_owned()));
    }
}

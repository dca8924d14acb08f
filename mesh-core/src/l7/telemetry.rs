//! What of the traffic is told, by the Telemetry API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::route::Share;
use crate::workload::ServiceKey;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    pub access_log: AccessLog,
    pub metrics: Metrics,
    pub tracing: Tracing,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLog {
    pub enabled: bool,
    /// A CEL expression; only what it holds for is logged.
    pub filter: Option<Arc<str>>,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self { enabled: true, filter: None }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// By the metric's name without `istio_`; `ALL_METRICS` for all.
    pub overrides: BTreeMap<Arc<str>, MetricOverride>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricOverride {
    /// `None`: as it is said of all metrics.
    pub disabled: Option<bool>,
    /// Label to a CEL expression, or `None`: the label is left out.
    pub labels: BTreeMap<Arc<str>, Option<Arc<str>>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tracing {
    /// Of the requests that bring no decision with them.
    pub sampling: Option<Share>,
    pub disabled: bool,
    pub tags: BTreeMap<Arc<str>, Tag>,
    /// Who is told; `None`: whom the waypoint itself is set to tell.
    pub provider: Option<Arc<Provider>>,
}

/// A collector of spans.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    pub protocol: ProviderProtocol,
    pub place: Place,
    pub port: u16,
    /// Of an HTTP request, with its `/`; empty: the protocol's usual one.
    #[serde(default)]
    pub path: Arc<str>,
    /// Fields of each request (gRPC: its metadata), in lower case.
    #[serde(default)]
    pub headers: Vec<(Arc<str>, FieldValue)>,
    /// For one batch of spans; `None`: the waypoint's usual one.
    #[serde(default)]
    pub timeout: Option<Duration>,
    /// Longest path in a span's URL, in bytes; `None`: 256.
    #[serde(default)]
    pub longest_path: Option<u32>,
    /// Ids of traces that begin at the waypoint have 8 bytes in place of 16.
    #[serde(default)]
    pub short_ids: bool,
}

/// Where a collector is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    Service(ServiceKey),
    /// A service of the mesh by its host name, or a name of DNS, or an address.
    Host(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldValue {
    Literal(Arc<str>),
    /// Of this variable of the waypoint; without it there is no field.
    Environment(Arc<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderProtocol {
    /// OTLP over gRPC.
    OtlpGrpc,
    /// OTLP as protobuf in an HTTP request.
    OtlpHttp,
    /// Zipkin's JSON, version 2.
    Zipkin,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tag {
    Literal(Arc<str>),
    Environment { name: Arc<str>, default: Arc<str> },
    Header { name: Arc<str>, default: Arc<str> },
}

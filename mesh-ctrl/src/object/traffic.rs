//! DestinationRule: what is to happen to connections to a host. What needs a waypoint is kept by name only. Values have been
//! checked as admission checks them (`mesh-analysis`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::traffic::{Balance, ConnectionPool, Keepalive, OutlierDetection, Rule, TrafficPolicy};
use serde::Deserialize;
use serde_json::Value;

use super::Metadata;
use super::destination::{CONSECUTIVE, Destination};
use super::locality::{RawLocality, locality};
use super::scalar::{GoDuration, PortNumber};
use super::security::Mistake;

#[derive(Clone, Debug, PartialEq)]
pub struct DestinationRule {
    pub metadata: Metadata,
    /// As it was written: a short name is one of the rule's own namespace.
    pub host: Arc<str>,
    /// `None` without a `trafficPolicy`.
    pub rule: Option<Arc<Rule>>,
    /// Empty: everybody. `.` is the rule's own namespace.
    pub export_to: Vec<Arc<str>>,
    /// What waypoints carry out.
    pub at_waypoints: Arc<Destination>,
    /// Fields that have no effect on what agents do, and why.
    pub unused: Vec<(String, &'static str)>,
    /// Fields that have no effect at a waypoint either.
    pub unused_at_waypoints: Vec<(String, &'static str)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawDestinationRule {
    #[serde(rename = "apiVersion")]
    _api_version: Value,
    #[serde(rename = "kind")]
    _kind: Value,
    metadata: Metadata,
    spec: RuleSpec,
    #[serde(default, rename = "status")]
    _status: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RuleSpec {
    host: Arc<str>,
    #[serde(default)]
    traffic_policy: Option<RawPolicy>,
    #[serde(default)]
    subsets: Vec<Value>,
    #[serde(default)]
    export_to: Vec<Arc<str>>,
    #[serde(default)]
    workload_selector: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawPolicy {
    load_balancer: Option<RawBalancer>,
    connection_pool: RawPool,
    outlier_detection: Option<RawOutliers>,
    tls: Option<Value>,
    port_level_settings: Vec<RawPortPolicy>,
    tunnel: Option<Value>,
    proxy_protocol: Option<Value>,
    retry_budget: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawPortPolicy {
    port: PortSelector,
    #[serde(default)]
    load_balancer: Option<RawBalancer>,
    #[serde(default)]
    connection_pool: RawPool,
    #[serde(default)]
    outlier_detection: Option<RawOutliers>,
    #[serde(default)]
    tls: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PortSelector {
    number: PortNumber,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawBalancer {
    simple: Option<Simple>,
    consistent_hash: Option<ConsistentHash>,
    locality_lb_setting: Option<RawLocality>,
    warmup_duration_secs: Option<Value>,
    warmup: Option<Value>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Simple {
    Unspecified,
    LeastConn,
    Random,
    Passthrough,
    RoundRobin,
    LeastRequest,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct ConsistentHash {
    http_header_name: Option<Value>,
    http_cookie: Option<Value>,
    use_source_ip: bool,
    http_query_parameter_name: Option<Value>,
    // Which of the two algorithms is asked for changes who gets whom, and nothing that a client could rely on.
    #[serde(rename = "ringHash")]
    _ring_hash: Option<Value>,
    #[serde(rename = "maglev")]
    _maglev: Option<Value>,
    #[serde(rename = "minimumRingSize")]
    _minimum_ring_size: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawPool {
    tcp: RawTcp,
    http: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawTcp {
    max_connections: Option<i32>,
    connect_timeout: Option<GoDuration>,
    tcp_keepalive: Option<RawKeepalive>,
    max_connection_duration: Option<GoDuration>,
    idle_timeout: Option<GoDuration>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawKeepalive {
    probes: Option<u32>,
    time: Option<GoDuration>,
    interval: Option<GoDuration>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawOutliers {
    consecutive_errors: Option<i32>,
    split_external_local_origin_errors: bool,
    consecutive_local_origin_failures: Option<u32>,
    consecutive_gateway_errors: Option<u32>,
    #[serde(rename = "consecutive5xxErrors")]
    consecutive_5xx_errors: Option<u32>,
    interval: Option<GoDuration>,
    base_ejection_time: Option<GoDuration>,
    max_ejection_percent: Option<u8>,
    min_health_percent: Option<u8>,
}

/// Why agents do nothing with what waypoints do.
pub const NEEDS_WAYPOINT: &str = "needs a waypoint";

impl TryFrom<RawDestinationRule> for DestinationRule {
    type Error = Mistake;

    fn try_from(raw: RawDestinationRule) -> Result<Self, Mistake> {
        let spec = raw.spec;
        if spec.host.is_empty() {
            return mistake("spec.host", "a host is needed");
        }
        let mut unused = Vec::new();
        if !spec.subsets.is_empty() {
            unused.push(("spec.subsets".to_owned(), NEEDS_WAYPOINT));
        }
        if spec.workload_selector.is_some() {
            unused.push(("spec.workloadSelector".to_owned(), "the rule is in force for every client that sees it"));
        }
        let rule = spec.traffic_policy.map(|policy| policy.read(&mut unused)).transpose()?;
        Ok(Self {
            metadata: raw.metadata,
            host: spec.host,
            rule: rule.map(Arc::new),
            export_to: spec.export_to,
            at_waypoints: Arc::default(),
            unused,
            unused_at_waypoints: Vec::new(),
        })
    }
}

impl DestinationRule {
    pub(super) fn with_waypoints(self, destination: Destination, unused: Vec<(String, &'static str)>) -> Self {
        Self { unused_at_waypoints: unused, at_waypoints: Arc::new(destination), ..self }
    }
}

impl RawPolicy {
    fn read(self, unused: &mut Vec<(String, &'static str)>) -> Result<Rule, Mistake> {
        let path = "spec.trafficPolicy";
        for (is_set, field) in [
            (self.tunnel.is_some(), "tunnel"),
            (self.proxy_protocol.is_some(), "proxyProtocol"),
            (self.retry_budget.is_some(), "retryBudget"),
        ] {
            if is_set {
                unused.push((format!("{path}.{field}"), NEEDS_WAYPOINT));
            }
        }
        let general = policy(path, self.load_balancer, self.connection_pool, self.outlier_detection, self.tls, unused)?;
        let (mut ports, mut seen) = (BTreeMap::new(), BTreeSet::new());
        for (i, port) in self.port_level_settings.into_iter().enumerate() {
            let path = format!("{path}.portLevelSettings[{i}]");
            if !seen.insert(port.port.number) {
                return mistake(format!("{path}.port.number"), "the port is listed before");
            }
            let settings =
                policy(&path, port.load_balancer, port.connection_pool, port.outlier_detection, port.tls, unused)?;
            ports.insert(port.port.number.0, settings);
        }
        Ok(Rule { general, ports })
    }
}

fn policy(
    path: &str,
    balancer: Option<RawBalancer>,
    pool: RawPool,
    outliers: Option<RawOutliers>,
    tls: Option<Value>,
    unused: &mut Vec<(String, &'static str)>,
) -> Result<TrafficPolicy, Mistake> {
    let balancer = balancer.unwrap_or_default();
    if let Some(tls) = tls {
        let why = match tls.get("mode").and_then(Value::as_str) {
            Some("ISTIO_MUTUAL") => "the mesh's own mutual TLS needs no asking for",
            Some("DISABLE") => "the destination says whether it takes plaintext: PeerAuthentication",
            _ => NEEDS_WAYPOINT,
        };
        unused.push((format!("{path}.tls"), why));
    }
    if pool.http.is_some() {
        unused.push((format!("{path}.connectionPool.http"), NEEDS_WAYPOINT));
    }
    if balancer.warmup.is_some() || balancer.warmup_duration_secs.is_some() {
        unused.push((format!("{path}.loadBalancer.warmup"), NEEDS_WAYPOINT));
    }
    if outliers.as_ref().is_some_and(|outliers| outliers.consecutive_errors.is_some()) {
        unused.push((format!("{path}.outlierDetection.consecutiveErrors"), CONSECUTIVE));
    }
    let outliers = outliers.map(RawOutliers::read);
    let locality_path = format!("{path}.loadBalancer.localityLbSetting");
    Ok(TrafficPolicy {
        balance: balance(&format!("{path}.loadBalancer"), &balancer, unused)?,
        pool: pool.tcp.read(&format!("{path}.connectionPool.tcp"))?,
        outliers,
        locality: locality(&locality_path, balancer.locality_lb_setting, outliers.is_some(), unused),
    })
}

fn balance(path: &str, balancer: &RawBalancer, unused: &mut Vec<(String, &'static str)>) -> Result<Balance, Mistake> {
    let Some(hash) = &balancer.consistent_hash else {
        return Ok(match balancer.simple {
            None | Some(Simple::Unspecified | Simple::LeastConn | Simple::LeastRequest) => Balance::LeastConnections,
            Some(Simple::Random) => Balance::Random,
            Some(Simple::RoundRobin) => Balance::RoundRobin,
            Some(Simple::Passthrough) => {
                let why = "an agent has to know the endpoint, to know who may answer there";
                unused.push((format!("{path}.simple"), why));
                Balance::LeastConnections
            }
        });
    };
    let l7 = [&hash.http_header_name, &hash.http_cookie, &hash.http_query_parameter_name];
    match (l7.iter().filter(|key| key.is_some()).count(), hash.use_source_ip) {
        (0, true) => Ok(Balance::SourceIp),
        (1, false) => {
            unused.push((format!("{path}.consistentHash"), NEEDS_WAYPOINT));
            Ok(Balance::LeastConnections)
        }
        (0, false) => mistake(format!("{path}.consistentHash"), "nothing to hash is named"),
        _ => mistake(format!("{path}.consistentHash"), "one thing to hash is to be named, not several"),
    }
}

impl RawTcp {
    fn read(self, path: &str) -> Result<ConnectionPool, Mistake> {
        let at = |field: &str| format!("{path}.{field}");
        // As in the reference, where 0 is a field that was not set.
        let max_connections = self.max_connections.filter(|most| *most > 0).map(i32::unsigned_abs);
        let keepalive = self.tcp_keepalive.map(|keepalive| {
            let seconds = |duration: Option<GoDuration>, field: &str| match duration {
                Some(GoDuration(duration)) if duration < Duration::from_secs(1) => {
                    mistake(at(field), "a duration of at least 1s is needed")
                }
                other => Ok(other.map(|d| d.0)),
            };
            Ok(Keepalive {
                probes: keepalive.probes.filter(|probes| *probes > 0),
                time: seconds(keepalive.time, "tcpKeepalive.time")?,
                interval: seconds(keepalive.interval, "tcpKeepalive.interval")?,
            })
        });
        Ok(ConnectionPool {
            max_connections,
            connect_timeout: self.connect_timeout.map(|d| d.0),
            keepalive: keepalive.transpose()?,
            // 0s switches the reference's default of an hour off; here there is none.
            idle_timeout: self.idle_timeout.map(|d| d.0).filter(|idle| !idle.is_zero()),
            max_duration: self.max_connection_duration.map(|d| d.0),
        })
    }
}

impl RawOutliers {
    fn read(self) -> OutlierDetection {
        let duration = |given: Option<GoDuration>, default| given.map_or(Duration::from_secs(default), |d| d.0);
        // A connection that fails counts as a 5xx and as a gateway error, unless what is local is counted apart.
        let consecutive_failures = match self.split_external_local_origin_errors {
            true => self.consecutive_local_origin_failures.unwrap_or(5),
            false => {
                let set = [self.consecutive_5xx_errors.unwrap_or(5), self.consecutive_gateway_errors.unwrap_or(0)];
                set.into_iter().filter(|count| *count > 0).min().unwrap_or(0)
            }
        };
        OutlierDetection {
            consecutive_failures,
            interval: duration(self.interval, 10),
            base_ejection: duration(self.base_ejection_time, 30),
            max_ejection_percent: self.max_ejection_percent.unwrap_or(10),
            min_health_percent: self.min_health_percent.unwrap_or(0),
        }
    }
}

fn mistake<T>(field: impl Into<String>, message: &str) -> Result<T, Mistake> {
    Err(Mistake { field: field.into(), message: message.to_owned() })
}

//! What of a DestinationRule a waypoint carries out: all of it, subsets included.
//!
//! A subset's sections stand in front of those of the whole service, so they are kept apart until the rules that are in force
//! for a service are known.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::l7::destination::{
    Balance, ClientCertificate, HashBy, Originate, Outliers, Policy, Pool, RetryBudget, Roots, SlowStart, SubsetPolicy,
    Tls,
};
use mesh_core::traffic::Keepalive;
use serde::Deserialize;
use serde_json::Value;

use super::Labels;
use super::locality::{RawLocality, locality};
use super::present::present;
use super::scalar::duration;
use super::virtual_service::PortSelector;

/// A DestinationRule, of which only this is looked at.
#[derive(Deserialize)]
pub(super) struct Whole {
    pub(super) spec: Destination,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Destination {
    pub traffic_policy: Option<TrafficPolicy>,
    pub subsets: Vec<Subset>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Subset {
    pub name: Arc<str>,
    pub labels: Labels,
    #[serde(rename = "trafficPolicy")]
    pub policy: Option<TrafficPolicy>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicy {
    #[serde(flatten)]
    own: Sections,
    port_level_settings: Vec<PortSettings>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct PortSettings {
    port: PortSelector,
    #[serde(flatten)]
    sections: Sections,
}

/// The parts that a narrower policy replaces one by one.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Sections {
    load_balancer: Option<LoadBalancer>,
    connection_pool: Option<ConnectionPool>,
    outlier_detection: Option<OutlierDetection>,
    tls: Option<ClientTls>,
    /// Of the whole policy: ports have none of their own, and that of the policy that they stand in.
    retry_budget: Option<RawRetryBudget>,
}

/// See [`RetryBudget`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawRetryBudget {
    percent: Option<f64>,
    min_retry_concurrency: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LoadBalancer {
    simple: Simple,
    consistent_hash: Option<ConsistentHash>,
    locality_lb_setting: Option<RawLocality>,
    #[serde(deserialize_with = "duration")]
    warmup_duration_secs: Option<Duration>,
    warmup: Option<Warmup>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Simple {
    #[default]
    Unspecified,
    LeastConn,
    Random,
    Passthrough,
    RoundRobin,
    LeastRequest,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConsistentHash {
    http_header_name: Option<Arc<str>>,
    http_cookie: Option<Cookie>,
    use_source_ip: bool,
    http_query_parameter_name: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Cookie {
    name: Arc<str>,
    path: Arc<str>,
    #[serde(deserialize_with = "duration")]
    ttl: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Warmup {
    #[serde(deserialize_with = "duration")]
    duration: Option<Duration>,
    minimum_percent: Option<f64>,
    aggression: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct ConnectionPool {
    tcp: Tcp,
    http: Http,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Tcp {
    max_connections: i32,
    #[serde(deserialize_with = "duration")]
    connect_timeout: Option<Duration>,
    tcp_keepalive: Option<TcpKeepalive>,
    #[serde(deserialize_with = "duration")]
    max_connection_duration: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    idle_timeout: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct TcpKeepalive {
    probes: u32,
    #[serde(deserialize_with = "duration")]
    time: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    interval: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Http {
    http1_max_pending_requests: i32,
    http2_max_requests: i32,
    max_requests_per_connection: i32,
    max_retries: i32,
    #[serde(deserialize_with = "duration")]
    idle_timeout: Option<Duration>,
    h2_upgrade_policy: UpgradePolicy,
    use_client_protocol: bool,
    max_concurrent_streams: i32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum UpgradePolicy {
    #[default]
    Default,
    DoNotUpgrade,
    Upgrade,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OutlierDetection {
    split_external_local_origin_errors: bool,
    consecutive_local_origin_failures: Option<u32>,
    consecutive_gateway_errors: Option<u32>,
    #[serde(rename = "consecutive5xxErrors")]
    consecutive_5xx_errors: Option<u32>,
    #[serde(deserialize_with = "duration")]
    interval: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    base_ejection_time: Option<Duration>,
    max_ejection_percent: Option<u8>,
    min_health_percent: Option<u8>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClientTls {
    mode: TlsMode,
    client_certificate: Arc<str>,
    private_key: Arc<str>,
    ca_certificates: Arc<str>,
    credential_name: Arc<str>,
    subject_alt_names: Vec<Arc<str>>,
    sni: Arc<str>,
    insecure_skip_verify: Option<bool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum TlsMode {
    #[default]
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}

/// Finds a Secret by its name; outer `None`: there is none, inner: it has no roots.
pub type Find<'a> = &'a mut dyn FnMut(&Arc<str>) -> Option<Option<Arc<str>>>;

/// What holds for a service as a whole, and for its ports.
pub fn general(policy: Option<&TrafficPolicy>, find: Find<'_>) -> SubsetPolicy {
    let Some(policy) = policy else { return SubsetPolicy::default() };
    let of_port = |port: &PortSettings| (port.port.number, policy.own.of_port(&port.sections).policy(find));
    let ports = policy.port_level_settings.iter().map(of_port).collect();
    SubsetPolicy { general: policy.own.policy(find), ports }
}

/// What holds for a subset. Its own sections come first; a port's settings inherit nothing of the policy that they stand in.
pub fn of_subset(service: Option<&TrafficPolicy>, subset: &TrafficPolicy, find: Find<'_>) -> SubsetPolicy {
    let nothing = TrafficPolicy::default();
    let service = service.unwrap_or(&nothing);
    let general = subset.own.over(&service.own);
    let mut ports: BTreeMap<u16, Policy> = BTreeMap::new();
    for port in &service.port_level_settings {
        ports.insert(port.port.number, general.of_port(&subset.own.over(&port.sections)).policy(find));
    }
    for port in &subset.port_level_settings {
        ports.insert(port.port.number, general.of_port(&port.sections).policy(find));
    }
    SubsetPolicy { general: general.policy(find), ports }
}

/// Fields of a DestinationRule that no waypoint carries out, and why.
pub(super) fn unused(rule: &Value) -> Vec<(String, &'static str)> {
    const OF_POLICIES: [(&str, &str); 2] =
        [("tunnel", "is carried out nowhere"), ("proxyProtocol", "is carried out nowhere")];
    const OF_SECTIONS: [(&str, &str); 2] = [
        ("tls.caCrl", "revoked certificates are not looked for"),
        ("loadBalancer.consistentHash.httpCookie.attributes", "a cookie that is set has a path and a lifetime"),
    ];
    // Where it stands in the policy of the whole service, agents tell of it.
    const OF_SUBSETS: [(&str, &str); 1] = [("outlierDetection.consecutiveErrors", CONSECUTIVE)];
    let mut unused = Vec::new();
    let mut look = |place: &str, fields: &[(&str, &'static str)]| {
        for (field, why) in fields {
            unused.extend(present(rule, &format!("{place}.{field}")).into_iter().map(|path| (path, *why)));
        }
    };
    for policy in ["trafficPolicy", "subsets[].trafficPolicy"] {
        look(policy, &OF_POLICIES);
        for sections in [policy.to_owned(), format!("{policy}.portLevelSettings[]")] {
            look(&sections, &OF_SECTIONS);
            if policy.starts_with("subsets") {
                look(&sections, &OF_SUBSETS);
            }
        }
    }
    unused
}

/// Of `consecutiveErrors`.
pub(super) const CONSECUTIVE: &str = "the reference does not look at it any more: consecutive5xxErrors counts";

impl Sections {
    fn over(&self, under: &Self) -> Self {
        Self {
            load_balancer: self.load_balancer.clone().or_else(|| under.load_balancer.clone()),
            connection_pool: self.connection_pool.clone().or_else(|| under.connection_pool.clone()),
            outlier_detection: self.outlier_detection.clone().or_else(|| under.outlier_detection.clone()),
            tls: self.tls.clone().or_else(|| under.tls.clone()),
            retry_budget: self.retry_budget.clone().or_else(|| under.retry_budget.clone()),
        }
    }

    /// Settings of a port within this policy.
    fn of_port(&self, port: &Self) -> Self {
        Self { retry_budget: self.retry_budget.clone(), ..port.clone() }
    }

    fn policy(&self, find: Find<'_>) -> Policy {
        let balancer = self.load_balancer.clone().unwrap_or_default();
        let outliers = self.outlier_detection.as_ref().map(OutlierDetection::read);
        // What has no effect is told where agents read the same field.
        let locality = locality("", balancer.locality_lb_setting.clone(), outliers.is_some(), &mut Vec::new());
        Policy {
            balance: balancer.balance(),
            locality,
            pool: Pool {
                retry_budget: self.retry_budget.as_ref().map(RawRetryBudget::read),
                ..self.connection_pool.as_ref().map(ConnectionPool::read).unwrap_or_default()
            },
            outliers,
            tls: self.tls.as_ref().map(|tls| tls.read(find)).unwrap_or_default(),
            slow_start: balancer.slow_start(),
        }
    }
}

impl RawRetryBudget {
    /// Defaults are the reference's.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn read(&self) -> RetryBudget {
        let percent = self.percent.unwrap_or(20.0).clamp(0.0, 100.0);
        RetryBudget { millipercent: (percent * 1000.0) as u32, least: self.min_retry_concurrency.unwrap_or(3) }
    }
}

impl LoadBalancer {
    fn balance(&self) -> Balance {
        let Some(hash) = &self.consistent_hash else {
            return match self.simple {
                Simple::Unspecified | Simple::LeastConn | Simple::LeastRequest => Balance::LeastRequest,
                Simple::Random => Balance::Random,
                Simple::Passthrough => Balance::Passthrough,
                Simple::RoundRobin => Balance::RoundRobin,
            };
        };
        Balance::Hash(if let Some(name) = &hash.http_header_name {
            HashBy::Header(name.to_lowercase().into())
        } else if let Some(cookie) = &hash.http_cookie {
            HashBy::Cookie { name: cookie.name.clone(), path: cookie.path.clone(), ttl: cookie.ttl }
        } else if let Some(name) = &hash.http_query_parameter_name {
            HashBy::Query(name.clone())
        } else {
            HashBy::SourceIp
        })
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn slow_start(&self) -> Option<SlowStart> {
        let warmup = self.warmup.clone().unwrap_or_default();
        let window = warmup.duration.or(self.warmup_duration_secs)?;
        Some(SlowStart {
            window,
            minimum_percent: warmup.minimum_percent.unwrap_or(10.0).clamp(1.0, 100.0) as u8,
            aggression: (warmup.aggression.unwrap_or(1.0).clamp(0.0, 1e6) * 1000.0) as u32,
        })
    }
}

/// As in the reference, where 0 is a field that was not set.
fn set(number: i32) -> Option<u32> {
    (number > 0).then_some(number.unsigned_abs())
}

impl ConnectionPool {
    fn read(&self) -> Pool {
        let (tcp, http, default) = (&self.tcp, &self.http, Pool::default());
        let keepalive = tcp.tcp_keepalive.as_ref().map(|keepalive| Keepalive {
            probes: Some(keepalive.probes).filter(|probes| *probes > 0),
            time: keepalive.time,
            interval: keepalive.interval,
        });
        Pool {
            max_connections: set(tcp.max_connections),
            connect_timeout: tcp.connect_timeout.unwrap_or(default.connect_timeout),
            keepalive,
            idle_timeout: match http.idle_timeout.or(tcp.idle_timeout) {
                None => default.idle_timeout,
                Some(idle) => Some(idle).filter(|idle| !idle.is_zero()),
            },
            max_connection_duration: tcp.max_connection_duration,
            max_pending: set(http.http1_max_pending_requests),
            max_requests: set(http.http2_max_requests),
            max_requests_per_connection: set(http.max_requests_per_connection),
            max_retries: set(http.max_retries),
            retry_budget: None,
            max_concurrent_streams: set(http.max_concurrent_streams),
            upgrade: http.h2_upgrade_policy == UpgradePolicy::Upgrade,
            use_client_protocol: http.use_client_protocol,
        }
    }
}

impl OutlierDetection {
    fn read(&self) -> Outliers {
        let or = |given: Option<Duration>, default| given.unwrap_or(Duration::from_secs(default));
        Outliers {
            consecutive_5xx: self.consecutive_5xx_errors.unwrap_or(5),
            consecutive_gateway: self.consecutive_gateway_errors.unwrap_or(0),
            split_local: self.split_external_local_origin_errors,
            consecutive_local: self.consecutive_local_origin_failures.unwrap_or(5),
            interval: or(self.interval, 10),
            base_ejection: or(self.base_ejection_time, 30),
            max_ejection_percent: self.max_ejection_percent.unwrap_or(10),
            min_health_percent: self.min_health_percent.unwrap_or(0),
        }
    }
}

impl ClientTls {
    /// What a Secret was to say and does not say is refused: without it, others would be trusted than was meant.
    fn read(&self, find: Find<'_>) -> Tls {
        let is_mutual = match self.mode {
            TlsMode::Disable | TlsMode::IstioMutual => return Tls::None,
            TlsMode::Simple => false,
            TlsMode::Mutual => true,
        };
        let secret = &self.credential_name;
        let refused = |why: &str| Tls::Refused(format!("Secret {secret} {why}").into());
        let file = |path: &Arc<str>| Some(path).filter(|path| !["", "system"].contains(&&***path)).cloned();
        let roots = match secret.is_empty() {
            true => file(&self.ca_certificates).map(Roots::File),
            false if is_mutual => return refused("is not told to waypoints, which have keys in files"),
            false => match find(secret) {
                None => return refused("is not known"),
                Some(None) => return refused("has no ca.crt"),
                Some(Some(roots)) => Some(Roots::Text(roots)),
            },
        };
        let client = file(&self.client_certificate).zip(file(&self.private_key)).filter(|_| is_mutual);
        Tls::Originate(Originate {
            sni: Some(self.sni.clone()).filter(|sni| !sni.is_empty()),
            subject_alt_names: self.subject_alt_names.clone(),
            roots,
            client: client.map(|(chain, key)| ClientCertificate { chain, key }),
            insecure: self.insecure_skip_verify == Some(true),
        })
    }
}

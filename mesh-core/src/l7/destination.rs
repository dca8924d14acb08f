//! What is done with connections and requests to a service, by its DestinationRule.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Protocol;
use crate::traffic::{Keepalive, LocalityPolicy};
use crate::workload::Uid;

/// A service that routes lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Destination {
    pub protocols: BTreeMap<u16, Protocol>,
    pub general: Policy,
    /// By service port; what is set for a port inherits nothing from `general`.
    pub ports: BTreeMap<u16, Policy>,
    pub subsets: BTreeMap<Arc<str>, Subset>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subset {
    /// Endpoints of the service whose labels are the subset's.
    pub members: BTreeSet<Uid>,
    /// `None`: as for the service as a whole. Merged already: a field that the subset sets replaces the service's.
    #[serde(default)]
    pub policy: Option<SubsetPolicy>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SubsetPolicy {
    pub general: Policy,
    pub ports: BTreeMap<u16, Policy>,
}

impl Destination {
    /// Everything that may hold for one of its endpoints.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        let own = self.subsets.values().filter_map(|subset| subset.policy.as_ref());
        let own = own.flat_map(|own| std::iter::once(&own.general).chain(own.ports.values()));
        std::iter::once(&self.general).chain(self.ports.values()).chain(own)
    }

    /// What holds for a port of the service, or of one of its subsets.
    pub fn policy(&self, port: u16, subset: Option<&str>) -> &Policy {
        let own = subset.and_then(|name| self.subsets.get(name)).and_then(|subset| subset.policy.as_ref());
        let (general, ports) = own.map_or((&self.general, &self.ports), |own| (&own.general, &own.ports));
        ports.get(&port).unwrap_or(general)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    pub balance: Balance,
    pub locality: Option<LocalityPolicy>,
    pub pool: Pool,
    pub outliers: Option<Outliers>,
    pub tls: Tls,
    /// For this long a new endpoint's share grows from a tenth to whole.
    pub slow_start: Option<SlowStart>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Of two drawn at random, the one with fewer requests in flight for its capacity.
    #[default]
    LeastRequest,
    RoundRobin,
    Random,
    /// The address that the client asked for.
    Passthrough,
    Hash(HashBy),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashBy {
    Header(Arc<str>),
    Query(Arc<str>),
    SourceIp,
    Cookie {
        name: Arc<str>,
        path: Arc<str>,
        /// One is made when the request has none: with this age, 0 for as long as the browser runs. `None`: never made.
        ttl: Option<Duration>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlowStart {
    pub window: Duration,
    /// Share at the beginning, 1 to 100.
    pub minimum_percent: u8,
    /// Times a thousand: 1000 grows evenly.
    pub aggression: u32,
}

/// `None`: no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pool {
    pub max_connections: Option<u32>,
    pub connect_timeout: Duration,
    pub keepalive: Option<Keepalive>,
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    /// Requests that wait for a connection.
    pub max_pending: Option<u32>,
    /// Requests in flight, HTTP/1.1's as well.
    pub max_requests: Option<u32>,
    pub max_requests_per_connection: Option<u32>,
    /// Retries under way; where there is a budget it says that alone.
    pub max_retries: Option<u32>,
    pub retry_budget: Option<RetryBudget>,
    pub max_concurrent_streams: Option<u32>,
    /// HTTP/1.1 requests go on as HTTP/2.
    pub upgrade: bool,
    /// The client's version goes on as it is.
    pub use_client_protocol: bool,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            max_connections: None,
            connect_timeout: Duration::from_secs(10),
            keepalive: None,
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_pending: None,
            max_requests: None,
            max_requests_per_connection: None,
            max_retries: None,
            retry_budget: None,
            max_concurrent_streams: None,
            upgrade: false,
            use_client_protocol: false,
        }
    }
}

/// How many retries may be under way: a share of all requests under way and waiting, and some in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryBudget {
    /// Thousandths of a percent, 0 to 100,000.
    pub millipercent: u32,
    pub least: u32,
}

/// When an endpoint gets nothing for a while. Counters of 0 never eject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outliers {
    /// Failed connections and 5xx in a row.
    pub consecutive_5xx: u32,
    /// Failed connections, 502, 503 and 504 in a row.
    pub consecutive_gateway: u32,
    /// Failed connections are counted here alone.
    pub split_local: bool,
    pub consecutive_local: u32,
    pub interval: Duration,
    pub base_ejection: Duration,
    /// Of the endpoints, 0 to 100, rounded down.
    pub max_ejection_percent: u8,
    /// With a smaller share of endpoints left, 0 to 100, ejected ones are used as well.
    pub min_health_percent: u8,
}

/// How the endpoint is spoken to within the connection or tunnel to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    /// In the mesh the tunnel, else plain.
    #[default]
    None,
    /// `SIMPLE`, or `MUTUAL` with a certificate of the client's own.
    Originate(Originate),
    /// As what was asked for cannot be had, nothing is sent; and why.
    Refused(Arc<str>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Originate {
    /// Asked for, and looked for in the certificate; `None`: the service's hostname.
    pub sni: Option<Arc<str>>,
    /// Looked for in place of that name, one of them: DNS names, addresses, `spiffe://..`.
    pub subject_alt_names: Vec<Arc<str>>,
    /// `None`: the system's roots.
    pub roots: Option<Roots>,
    pub client: Option<ClientCertificate>,
    /// Whoever answers is the right one.
    pub insecure: bool,
}

/// Files of the waypoint, PEM, by their paths. A key is never told: a model is no secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificate {
    pub chain: Arc<str>,
    pub key: Arc<str>,
}

/// Certificates that are trusted, PEM.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Roots {
    Text(Arc<str>),
    /// A file of the waypoint, by its path.
    File(Arc<str>),
}

//! What a waypoint does for one service: the one model that VirtualService, DestinationRule, the Gateway API's routes, L7
//! policies and Telemetry are compiled into by the controller, and all that a waypoint knows of them.
//!
//! A model says things as they are in force: defaults are filled in, names are resolved, precedence is the order of lists.
//! The same resources come to the same bytes, in whatever order they were seen ([`crate::wire::layer7`]).

pub mod ratelimit;
pub mod telemetry;
pub mod expression;
pub mod authentication;
pub mod authorization;
pub mod destination;
pub mod route;
pub mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::workload::ServiceKey;
use authentication::JwtRule;
use authorization::Policy;
use destination::Destination;
use ratelimit::RateLimit;
use route::{HttpRoutes, TcpRoute, TlsRoute};
use telemetry::Telemetry;

/// Namespace and name of the Gateway that a waypoint carries out; also the name under which it asks for its models.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WaypointKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for WaypointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One service at one waypoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer7 {
    pub waypoint: WaypointKey,
    pub target: Target,
    /// By the service's port. What a client asks for on another port is refused.
    pub ports: BTreeMap<u16, PortRules>,
    /// What is known of the services that routes lead to, the target itself included.
    #[serde(default)]
    pub destinations: BTreeMap<ServiceKey, Destination>,
    #[serde(default)]
    pub policies: Vec<Policy>,
    #[serde(default)]
    pub jwt: Vec<JwtRule>,
    /// A request takes of each that is for it, after policy has let it in.
    #[serde(default)]
    pub rate_limits: Vec<RateLimit>,
    #[serde(default)]
    pub path_normalization: PathNormalization,
    #[serde(default)]
    pub telemetry: Telemetry,
}

/// What the model is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    Service(ServiceKey),
    /// Every workload that uses the waypoint and is asked for by its own address. `ports` is empty then: each port is what its
    /// bytes say it is.
    Workloads,
}

impl Layer7 {
    /// Name on the control stream: `waypoint namespace/waypoint name/service namespace/hostname`, or `.../*`.
    pub fn name(&self) -> String {
        match &self.target {
            Target::Service(service) => format!("{}/{service}", self.waypoint),
            Target::Workloads => format!("{}/*", self.waypoint),
        }
    }
}

/// One port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRules {
    pub protocol: Protocol,
    /// For requests; `None`: nobody has said anything, all goes to the service with the default retries.
    #[serde(default)]
    pub http: Option<HttpRoutes>,
    /// For connections that are no HTTP, in order; empty: to the service.
    #[serde(default)]
    pub tcp: Vec<TcpRoute>,
    /// For TLS that passes through, by its SNI, in order; none of these: as `tcp` says.
    #[serde(default)]
    pub tls: Vec<TlsRoute>,
}

/// What is spoken on a port, by its `appProtocol` or its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Neither says: HTTP/1 or HTTP/2 if the first bytes are that, bytes otherwise.
    #[default]
    Detect,
    /// Either version, which the first bytes tell.
    Http,
    Http2,
    /// HTTP/2 whose failures are told in gRPC's way.
    Grpc,
    Tcp,
    Tls,
}

/// How a path is made canonical before anything looks at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathNormalization {
    None,
    /// RFC 3986, section 6: dot segments, `\` for `/`, percent-encoded unreserved characters.
    #[default]
    Base,
    /// And `//` is `/`.
    MergeSlashes,
    /// And `%2F`, `%5C` are decoded first.
    DecodeAndMergeSlashes,
}

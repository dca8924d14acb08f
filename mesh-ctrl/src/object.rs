//! Kubernetes and Istio objects, trimmed to the fields that Weft uses.
//!
//! Every source (a folder, the Kubernetes API) deserialises into these. Kubernetes' own kinds ignore fields that are not
//! listed here. Istio's kinds refuse them: a policy with a misspelt field would otherwise mean something wider than what
//! its author wrote. What an object says is checked while it is read, so an [`Object`] is one that can be put in force.

mod read;
mod standing;
pub mod grpc_route;
pub mod stream_route;
pub mod http_route;
pub mod http_filter;
pub mod gateway;
pub mod reference_grant;
pub mod request_authentication;
pub mod telemetry;
pub mod backend_traffic_policy;
pub mod mesh_config;
mod secret;
mod traffic;
pub mod destination;
pub mod virtual_service;
mod locality;
mod present;
mod security;
mod networking;
mod kubernetes;
pub mod reference;
pub mod text;
mod scalar;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use backend_traffic_policy::BackendTrafficPolicy;
pub use gateway::Gateway;
pub use grpc_route::GrpcRoute;
pub use http_route::HttpRoute;
pub use kubernetes::{
    ContainerPort, Endpoint, EndpointPort, EndpointSlice, IpFamily, Namespace, Node, Pod, PodPhase, PortRef, Service,
    ServicePort, ServiceType,
};
pub use mesh_config::MeshConfig;
pub use networking::{EntryEndpoint, EntryPort, Location, Resolution, ServiceEntry, WorkloadEntry};
pub use read::{Read, Refused, read};
pub use reference_grant::ReferenceGrant;
pub use request_authentication::RequestAuthentication;
pub use scalar::IpBlock;
pub use secret::Secret;
pub use security::{
    AuthorizationAction, AuthorizationPolicy, AuthorizationRule, MtlsMode, Operation, PeerAuthentication, PeerSource,
    Selector, When, WhenKey,
};
pub use standing::Standing;
pub use stream_route::StreamRoute;
pub use telemetry::Telemetry;
pub use traffic::{DestinationRule, NEEDS_WAYPOINT};
pub use virtual_service::VirtualService;

/// One object of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Namespace(Namespace),
    Node(Node),
    Pod(Pod),
    Service(Service),
    EndpointSlice(EndpointSlice),
    ServiceAccount(Metadata),
    ReplicaSet(Metadata),
    Deployment(Metadata),
    Job(Metadata),
    PeerAuthentication(PeerAuthentication),
    AuthorizationPolicy(AuthorizationPolicy),
    ServiceEntry(ServiceEntry),
    WorkloadEntry(WorkloadEntry),
    DestinationRule(DestinationRule),
    VirtualService(VirtualService),
    Gateway(Gateway),
    HttpRoute(HttpRoute),
    GrpcRoute(GrpcRoute),
    TcpRoute(StreamRoute),
    TlsRoute(StreamRoute),
    RequestAuthentication(RequestAuthentication),
    Telemetry(Telemetry),
    BackendTrafficPolicy(BackendTrafficPolicy),
    ReferenceGrant(ReferenceGrant),
    /// The one ConfigMap that is read.
    MeshConfig(MeshConfig),
    Secret(Secret),
}

/// The kinds of [`Object`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Kind {
    Namespace,
    Node,
    Pod,
    Service,
    EndpointSlice,
    ServiceAccount,
    ReplicaSet,
    Deployment,
    Job,
    PeerAuthentication,
    AuthorizationPolicy,
    ServiceEntry,
    WorkloadEntry,
    DestinationRule,
    VirtualService,
    Gateway,
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
    #[serde(rename = "TCPRoute")]
    TcpRoute,
    #[serde(rename = "TLSRoute")]
    TlsRoute,
    RequestAuthentication,
    Telemetry,
    BackendTrafficPolicy,
    ReferenceGrant,
    ConfigMap,
    Secret,
}

/// What names an object within a cluster, whichever of its served versions it came in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ObjectKey {
    pub kind: Kind,
    /// Empty for the kinds that have none (Namespace, Node).
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// Labels by key.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    #[serde(default)]
    pub name: Arc<str>,
    #[serde(default)]
    pub namespace: Arc<str>,
    #[serde(default)]
    pub uid: Arc<str>,
    #[serde(default)]
    pub labels: Labels,
    /// Only those whose key holds `istio.io/` or starts with `weft.io/`; others (a whole last-applied object, often) are not kept.
    #[serde(default, deserialize_with = "scalar::known_annotations")]
    pub annotations: Labels,
    /// RFC 3339 in UTC with seconds, as the API server writes it, so that text order is time order.
    #[serde(default)]
    pub creation_timestamp: Option<Arc<str>>,
    #[serde(default)]
    pub deletion_timestamp: Option<Arc<str>>,
    /// The one owner that controls this object.
    #[serde(default, rename = "ownerReferences", deserialize_with = "scalar::controller")]
    pub owner: Option<Owner>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub struct Owner {
    pub kind: Arc<str>,
    pub name: Arc<str>,
}

impl Metadata {
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(|v| &**v)
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(|v| &**v)
    }
}

impl Kind {
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::ServiceAccount => "ServiceAccount",
            Self::ReplicaSet => "ReplicaSet",
            Self::Deployment => "Deployment",
            Self::Job => "Job",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::DestinationRule => "DestinationRule",
            Self::VirtualService => "VirtualService",
            Self::Gateway => "Gateway",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::RequestAuthentication => "RequestAuthentication",
            Self::Telemetry => "Telemetry",
            Self::BackendTrafficPolicy => "BackendTrafficPolicy",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

impl Object {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::Pod(_) => Kind::Pod,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::ServiceAccount(_) => Kind::ServiceAccount,
            Self::ReplicaSet(_) => Kind::ReplicaSet,
            Self::Deployment(_) => Kind::Deployment,
            Self::Job(_) => Kind::Job,
            Self::PeerAuthentication(_) => Kind::PeerAuthentication,
            Self::AuthorizationPolicy(_) => Kind::AuthorizationPolicy,
            Self::ServiceEntry(_) => Kind::ServiceEntry,
            Self::WorkloadEntry(_) => Kind::WorkloadEntry,
            Self::DestinationRule(_) => Kind::DestinationRule,
            Self::VirtualService(_) => Kind::VirtualService,
            Self::Gateway(_) => Kind::Gateway,
            Self::HttpRoute(_) => Kind::HttpRoute,
            Self::GrpcRoute(_) => Kind::GrpcRoute,
            Self::TcpRoute(_) => Kind::TcpRoute,
            Self::TlsRoute(_) => Kind::TlsRoute,
            Self::RequestAuthentication(_) => Kind::RequestAuthentication,
            Self::Telemetry(_) => Kind::Telemetry,
            Self::BackendTrafficPolicy(_) => Kind::BackendTrafficPolicy,
            Self::ReferenceGrant(_) => Kind::ReferenceGrant,
            Self::MeshConfig(_) => Kind::ConfigMap,
            Self::Secret(_) => Kind::Secret,
        }
    }

    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Namespace(o) => &o.metadata,
            Self::Node(o) => &o.metadata,
            Self::Pod(o) => &o.metadata,
            Self::Service(o) => &o.metadata,
            Self::EndpointSlice(o) => &o.metadata,
            Self::ServiceAccount(m) | Self::ReplicaSet(m) | Self::Deployment(m) | Self::Job(m) => m,
            Self::PeerAuthentication(o) => &o.metadata,
            Self::AuthorizationPolicy(o) => &o.metadata,
            Self::ServiceEntry(o) => &o.metadata,
            Self::WorkloadEntry(o) => &o.metadata,
            Self::DestinationRule(o) => &o.metadata,
            Self::VirtualService(o) => &o.metadata,
            Self::Gateway(o) => &o.metadata,
            Self::HttpRoute(o) => &o.metadata,
            Self::GrpcRoute(o) => &o.metadata,
            Self::RequestAuthentication(o) => &o.metadata,
            Self::Telemetry(o) => &o.metadata,
            Self::BackendTrafficPolicy(o) => &o.metadata,
            Self::ReferenceGrant(o) => &o.metadata,
            Self::MeshConfig(o) => &o.metadata,
            Self::Secret(o) => &o.metadata,
            Self::TcpRoute(o) | Self::TlsRoute(o) => &o.metadata,
        }
    }

    pub fn key(&self) -> ObjectKey {
        let metadata = self.metadata();
        ObjectKey { kind: self.kind(), namespace: metadata.namespace.clone(), name: metadata.name.clone() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind.is_namespaced() {
            true => write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name),
            false => write!(f, "{} {}", self.kind.as_str(), self.name),
        }
    }
}

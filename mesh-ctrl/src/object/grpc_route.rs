//! GRPCRoute, as it is written.

use std::sync::Arc;

use serde::Deserialize;

use super::Metadata;
use super::http_filter::Filter;
use super::http_route::{Comparison, Condition, SessionPersistence, WeightedBackend};
use super::reference::ParentRef;

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct GrpcRoute {
    pub metadata: Metadata,
    pub spec: GrpcRouteSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRouteSpec {
    pub parent_refs: Vec<ParentRef>,
    pub hostnames: Vec<Arc<str>>,
    pub rules: Vec<GrpcRouteRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRouteRule {
    pub name: Arc<str>,
    pub matches: Vec<GrpcRouteMatch>,
    pub filters: Vec<Filter>,
    pub backend_refs: Vec<WeightedBackend>,
    pub session_persistence: Option<SessionPersistence>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GrpcRouteMatch {
    pub method: Option<GrpcMethod>,
    pub headers: Vec<Condition>,
}

/// One of the two is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GrpcMethod {
    #[serde(rename = "type")]
    pub kind: Comparison,
    pub service: Option<Arc<str>>,
    pub method: Option<Arc<str>>,
}

//! TCPRoute and TLSRoute, as they are written.

use std::sync::Arc;

use serde::Deserialize;

use super::Metadata;
use super::http_route::WeightedBackend;
use super::reference::ParentRef;

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct StreamRoute {
    pub metadata: Metadata,
    pub spec: StreamRouteSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamRouteSpec {
    pub parent_refs: Vec<ParentRef>,
    /// Of a TLSRoute: names in the handshake.
    pub hostnames: Vec<Arc<str>>,
    pub rules: Vec<StreamRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamRule {
    pub name: Arc<str>,
    pub backend_refs: Vec<WeightedBackend>,
}

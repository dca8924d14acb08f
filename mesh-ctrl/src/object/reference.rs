//! How policies and the Gateway API's kinds name other objects.

use std::sync::Arc;

use serde::Deserialize;

/// What a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    #[serde(default = "gateway_group")]
    pub group: Arc<str>,
    #[serde(default = "gateway_kind")]
    pub kind: Arc<str>,
    pub name: Arc<str>,
    /// `None`: that of the route.
    #[serde(default)]
    pub namespace: Option<Arc<str>>,
    /// Of a Service: its port by name.
    #[serde(default)]
    pub section_name: Option<Arc<str>>,
    #[serde(default)]
    pub port: Option<u16>,
}

/// Where a route leads to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BackendObject {
    #[serde(default)]
    pub group: Arc<str>,
    #[serde(default = "service_kind")]
    pub kind: Arc<str>,
    pub name: Arc<str>,
    /// `None`: that of the route.
    #[serde(default)]
    pub namespace: Option<Arc<str>>,
    #[serde(default)]
    pub port: Option<u16>,
}

/// What a policy is attached to, in its own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TargetRef {
    #[serde(default)]
    pub group: Arc<str>,
    pub kind: Arc<str>,
    pub name: Arc<str>,
    /// Admission holds it empty.
    #[serde(default, rename = "namespace")]
    _namespace: Arc<str>,
}

/// The kinds that routes and policies can be attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Referent {
    Service,
    ServiceEntry,
    Gateway,
    GatewayClass,
}

impl Referent {
    fn of(group: &str, kind: &str) -> Option<Self> {
        Some(match (group, kind) {
            ("" | "core", "Service") => Self::Service,
            ("networking.istio.io", "ServiceEntry") => Self::ServiceEntry,
            (GATEWAY_GROUP, "Gateway") => Self::Gateway,
            (GATEWAY_GROUP, "GatewayClass") => Self::GatewayClass,
            _ => return None,
        })
    }
}

impl ParentRef {
    pub fn referent(&self) -> Option<Referent> {
        Referent::of(&self.group, &self.kind)
    }
}

impl TargetRef {
    pub fn referent(&self) -> Option<Referent> {
        Referent::of(&self.group, &self.kind)
    }
}

impl BackendObject {
    pub fn is_service(&self) -> bool {
        Referent::of(&self.group, &self.kind) == Some(Referent::Service)
    }
}

pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// Who puts Gateways and routes in force, as GatewayClasses and statuses name it.
pub const CONTROLLER_NAME: &str = "weft.io/mesh-controller";

fn gateway_group() -> Arc<str> {
    GATEWAY_GROUP.into()
}

fn gateway_kind() -> Arc<str> {
    "Gateway".into()
}

fn service_kind() -> Arc<str> {
    "Service".into()
}

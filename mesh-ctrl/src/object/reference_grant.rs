//! ReferenceGrant: what of its namespace others may name.

use std::sync::Arc;

use serde::Deserialize;

use super::Metadata;

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ReferenceGrant {
    pub metadata: Metadata,
    pub spec: ReferenceGrantSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ReferenceGrantSpec {
    pub from: Vec<GrantedFrom>,
    pub to: Vec<GrantedTo>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrantedFrom {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    pub namespace: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrantedTo {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    /// `None`: every object of the kind.
    #[serde(default)]
    pub name: Option<Arc<str>>,
}

impl ReferenceGrant {
    /// Whether a route of `kind` in `namespace` may name the Service.
    pub fn allows(&self, kind: &str, namespace: &str, service: &str) -> bool {
        let group = super::reference::GATEWAY_GROUP;
        let from = |from: &GrantedFrom| &*from.group == group && &*from.kind == kind && &*from.namespace == namespace;
        let to = |to: &GrantedTo| {
            matches!((&*to.group, &*to.kind), ("" | "core", "Service"))
                && to.name.as_ref().is_none_or(|name| &**name == service)
        };
        self.spec.from.iter().any(from) && self.spec.to.iter().any(to)
    }
}

//! How an object stands with the API server: what controllers have said of it, and of which version of it.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::Kind;

/// What is needed to write an object's status, and to know whether that is needed.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub api_version: Arc<str>,
    /// `metadata.resourceVersion`: a write that names an older one is refused.
    pub version: Arc<str>,
    /// `metadata.generation`, which counts changes of what the object asks for; 0 where the API server counts none.
    pub generation: i64,
    /// Of `status` what controllers say: `conditions`, and for kinds of the Gateway API `parents`, `addresses` and `listeners`.
    pub status: Map<String, Value>,
}

const FIELDS: [&str; 4] = ["conditions", "parents", "addresses", "listeners"];

impl Standing {
    /// `None`: of such objects nothing is said.
    pub fn of(kind: Kind, object: &Value) -> Option<Self> {
        if !has_conditions(kind) {
            return None;
        }
        let metadata = &object["metadata"];
        let text = |value: &Value| Arc::from(value.as_str().unwrap_or_default());
        let said = |field: &&str| Some(((*field).to_owned(), object["status"].get(*field)?.clone()));
        Some(Self {
            api_version: text(&object["apiVersion"]),
            version: text(&metadata["resourceVersion"]),
            generation: metadata["generation"].as_i64().unwrap_or_default(),
            status: FIELDS.iter().filter_map(said).collect(),
        })
    }

    /// A list of the status; empty if it is not there.
    pub fn list(&self, field: &str) -> &[Value] {
        self.status.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }
}

fn has_conditions(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Service
            | Kind::Gateway
            | Kind::HttpRoute
            | Kind::GrpcRoute
            | Kind::TcpRoute
            | Kind::TlsRoute
            | Kind::PeerAuthentication
            | Kind::AuthorizationPolicy
            | Kind::RequestAuthentication
            | Kind::Telemetry
            | Kind::ServiceEntry
            | Kind::WorkloadEntry
            | Kind::DestinationRule
            | Kind::VirtualService
    )
}

//! What is shown of the pods.

use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::identity::SpiffeId;
use serde::Serialize;

use super::command::Manager;

/// A pod as shown by `/config`.
#[derive(Clone, Debug, Serialize)]
pub struct PodView {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub manager: Manager,
    pub state: &'static str,
    pub identity: Option<SpiffeId>,
    pub addresses: Vec<IpAddr>,
    pub netns_cookie: u64,
    /// What stands between the pod and the mesh.
    pub waiting_for: Option<String>,
}

/// What the manager knows, for `/config` and readiness.
#[derive(Clone, Debug, Default)]
pub struct PodsView {
    pub superseded: bool,
    /// Managers that have not told of all their pods yet.
    pub unsettled: Vec<Manager>,
    pub pods: Vec<PodView>,
}

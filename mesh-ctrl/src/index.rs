//! From the cluster's objects to what agents are told, incrementally.
//!
//! ```text
//! Event -> objects (as they are) -> which units could differ -> build each anew -> compare -> Change
//! ```
//! Building one unit (a pod's workload, a host's service, a policy) is a pure function of the objects, so any order of
//! events ends in the same resources. The reverse indices say which units an event can touch, so a changed pod costs work
//! in proportion to that pod's services and policies, not to the mesh.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_core::identity::SpiffeId;
use mesh_core::policy::Policy;
use mesh_core::wire::Address;

use crate::source::{Event, Finding};

#[derive(Clone, Debug)]
pub struct Config {
    pub cluster_id: Arc<str>,
    pub network: Arc<str>,
    pub trust_domain: Arc<str>,
    /// Suffix of service hostnames: `<name>.<namespace>.svc.<cluster domain>`.
    pub cluster_domain: Arc<str>,
    /// Policies in this namespace are for the whole mesh.
    pub root_namespace: Arc<str>,
    /// What puts a namespace or a pod into the mesh: a value of `istio.io/dataplane-mode`, or any label as `key=value`
    /// (`istio-injection=enabled`, for taking a mesh over).
    pub dataplane_modes: BTreeSet<Arc<str>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_id: "Kubernetes".into(),
            network: "".into(),
            trust_domain: "cluster.local".into(),
            cluster_domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
            dataplane_modes: BTreeSet::from(["weft".into()]),
        }
    }
}

/// A resource that differs from what was published before.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Name on the control stream.
    pub name: Arc<str>,
    pub resource: Resource,
}

/// `None`: the resource is gone.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)]
pub enum Resource {
    Address(Option<Address>),
    Authorization(Option<Policy>),
}

#[derive(Debug)]
pub struct Index {}

impl Index {
    pub fn new(config: Config) -> Self {
        let _ = config;
        Self {}
    }

    /// Takes a batch and returns the resources that differ after it, each once.
    pub fn apply(&mut self, events: Vec<Event>) -> Vec<Change> {
        let _ = events;
        Vec::new()
    }

    /// Identities of the pods that are scheduled to `node` and have not ended: those its agent may ask certificates for.
    pub fn identities_on_node(&self, node: &str) -> BTreeSet<SpiffeId> {
        let _ = node;
        BTreeSet::new()
    }

    /// All that is wrong at present, the source's findings included, worst first.
    pub fn findings(&self) -> Vec<Finding> {
        Vec::new()
    }

    /// Whether the source has sent everything that it found at its start.
    pub fn is_synced(&self) -> bool {
        false
    }
}

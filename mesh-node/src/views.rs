//! What the agent believes and what it carries, for people who look.

use std::sync::Arc;

use mesh_core::policy::Policy;
use mesh_core::service::Service;
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::Workload;
use mesh_net::certificates::CertificateStatus;
use mesh_net::control::ControlView;
use mesh_net::unix_time;
use serde::Serialize;

use crate::connection::Live;
use crate::connections::Connections;
use crate::direct::DirectPath;
use crate::ebpf::Facility;
use crate::outside::{self, Outside};
use crate::pods::PodView;
use crate::pods::missing::MissingView;

/// `/config`
#[derive(Debug, Serialize)]
pub struct ConfigView {
    pub version: &'static str,
    pub node: String,
    pub control: ControlView,
    pub pods: Vec<PodView>,
    /// Pods of this node that should be among them and are not found.
    pub missing: Vec<MissingView>,
    pub certificates: Vec<CertificateStatus>,
    pub workloads: Vec<Arc<Workload>>,
    pub services: Vec<Arc<Service>>,
    pub policies: Vec<Arc<Policy>>,
    pub kernel: Vec<FacilityView>,
}

impl ConfigView {
    /// Adds what a snapshot holds, in the order of names.
    pub fn with_snapshot(mut self, snapshot: Option<&Snapshot>) -> Self {
        if let Some(snapshot) = snapshot {
            self.workloads = snapshot.workloads().cloned().collect();
            self.services = snapshot.services().cloned().collect();
            self.policies = snapshot.policies().cloned().collect();
        }
        self.workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
        self.services.sort_by(|a, b| a.key.cmp(&b.key));
        self.policies.sort_by(|a, b| a.key.cmp(&b.key));
        self
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct FacilityView {
    pub name: String,
    pub since_kernel: String,
    pub present: bool,
    /// What is lost without it.
    pub lost: String,
}

impl From<&Facility> for FacilityView {
    fn from(f: &Facility) -> Self {
        Self {
            name: f.name.to_string(),
            since_kernel: f.since.to_string(),
            present: f.present,
            lost: f.lost.to_string(),
        }
    }
}

/// `/connections`
#[derive(Debug, Serialize)]
pub struct ConnectionsView {
    /// By the agent.
    carried: Vec<ConnectionView>,
    /// Between two pods of this node, by the kernel: a row for each end.
    direct: Vec<ConnectionView>,
    /// From before their pod's enrolment: the agent neither carries nor counts them.
    outside: Vec<OutsideView>,
}

/// A connection that the agent carries or watches.
#[derive(Debug, Serialize)]
struct ConnectionView {
    id: u64,
    direction: &'static str,
    security: &'static str,
    client: String,
    source: Option<String>,
    source_identity: Option<String>,
    asked: String,
    target: Option<String>,
    tunnel: Option<String>,
    destination: Option<String>,
    destination_identity: Option<String>,
    service: Option<String>,
    policy: Option<String>,
    bytes_recv: u64,
    bytes_sent: u64,
    age_seconds: u64,
    opened_unix: u64,
}

impl From<&Live> for ConnectionView {
    fn from(live: &Live) -> Self {
        let facts = &live.facts;
        let name = |w: &Option<Arc<Workload>>| w.as_ref().map(|w| format!("{}/{}", w.namespace, w.name));
        Self {
            id: live.id,
            direction: facts.direction.as_str(),
            security: facts.security.as_str(),
            client: facts.client.to_string(),
            source: name(&facts.source),
            source_identity: facts.source_identity.as_ref().map(ToString::to_string),
            asked: facts.asked.to_string(),
            target: facts.target.map(|t| t.to_string()),
            tunnel: facts.tunnel.map(|t| t.to_string()),
            destination: name(&facts.destination),
            destination_identity: facts.destination_identity.as_ref().map(ToString::to_string),
            service: facts.service.as_ref().map(|s| s.key.to_string()),
            policy: facts.policy.as_ref().map(ToString::to_string),
            bytes_recv: live.received(),
            bytes_sent: live.sent(),
            age_seconds: live.opened.elapsed().as_secs(),
            opened_unix: unix_time::seconds(live.opened_at),
        }
    }
}

/// A connection that is older than its pod's place in the mesh.
#[derive(Debug, Serialize)]
struct OutsideView {
    namespace: Arc<str>,
    pod: Arc<str>,
    local: String,
    remote: String,
    direction: &'static str,
    /// Since when the pod is in the mesh.
    enrolled_unix: u64,
}

impl From<outside::Row> for OutsideView {
    fn from(row: outside::Row) -> Self {
        Self {
            namespace: row.namespace,
            pod: row.pod,
            local: row.local.to_string(),
            remote: row.remote.to_string(),
            direction: row.direction.as_str(),
            enrolled_unix: unix_time::seconds(row.enrolled),
        }
    }
}

/// Blocks while the kernel is asked for what goes on without the agent.
pub fn connections(connections: &Connections, direct: &DirectPath, outside: &Outside) -> ConnectionsView {
    ConnectionsView {
        carried: connections.all().iter().map(|live| live.as_ref().into()).collect(),
        direct: direct.live().iter().map(|live| live.as_ref().into()).collect(),
        outside: outside.rows().into_iter().map(Into::into).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mesh_core::workload::ServiceKey;

    #[test]
    fn what_a_service_is_the_key_of_can_be_shown() {
        let key = ServiceKey { namespace: "shop".into(), hostname: "db.shop.svc.cluster.local".into() };
        let shown = serde_json::to_string(&BTreeMap::from([(key, 1)])).unwrap();
        assert_eq!(shown, r#"{"shop/db.shop.svc.cluster.local":1}"#);
    }
}

//! A node's agent as far as discovery goes: it connects, and believes what it is told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use mesh_core::snapshot::Snapshot;
use mesh_net::control::{self, ControlStatus};
use mesh_net::grpc::Backoff;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::controller::Controller;
use crate::wait::{PATIENCE, until};

/// An agent. It goes with the value.
#[derive(Debug)]
pub struct Agent {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    status: ControlStatus,
    /// Ends the stream when it is dropped.
    _runtime: Runtime,
}

impl Agent {
    /// Connects to `controller` with the token of a node's agent.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn connect(controller: &Controller, token: &str) -> Result<Agent> {
        let config = control::Config {
            controller: controller.target("agent-token", token)?,
            node_id: control::node_id([127, 0, 0, 1].into(), "agent", "weft-system", "cluster.local"),
            node_name: "a".to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            network: String::new(),
            on_demand: None,
            waypoint: None,
            backoff: Backoff { min: Duration::from_millis(20), max: Duration::from_millis(200) },
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (publish, snapshots) = watch::channel(Arc::default());
        let status = ControlStatus::new();
        runtime.spawn(control::run(config, publish, status.clone()));
        Ok(Agent { snapshots, status, _runtime: runtime })
    }

    /// Waits until it has been told everything once.
    ///
    /// # Errors
    /// It is not.
    pub fn wait_synced(&self) -> Result<()> {
        until("an agent to be told everything", PATIENCE, || self.status.is_synced().then_some(()))
    }

    /// All that it believes, each thing with all that is known of it.
    #[must_use]
    pub fn believes(&self) -> BTreeSet<String> {
        let snapshot = self.snapshots.borrow().clone();
        let workloads = snapshot.workloads().map(|workload| format!("{workload:?}"));
        let services = snapshot.services().map(|service| format!("{service:?}"));
        workloads.chain(services).chain(snapshot.policies().map(|policy| format!("{policy:?}"))).collect()
    }
}

//! How far a pod has come on its way into the mesh, or out of it.

use std::sync::Arc;

use mesh_net::certificates::Lease;
use tokio::time::Instant;

use super::command::{Description, Manager, Standing, Waiter};
use super::view::PodView;
use crate::connections::Connections;
use crate::netns::Netns;
use crate::pod::Pod;

/// A pod that a manager has told of.
pub(super) struct Known {
    pub(super) description: Description,
    pub(super) stage: Stage,
    pub(super) waiters: Vec<Waiter>,
}

pub(super) enum Stage {
    /// The label says no.
    Outside,
    Waiting {
        lease: Option<Lease>,
        why: String,
        retry_at: Instant,
        failures: u32,
    },
    Enrolled(Arc<Pod>),
}

impl Stage {
    /// Nothing has been tried yet.
    pub(super) fn waiting() -> Self {
        Self::Waiting { lease: None, why: String::new(), retry_at: Instant::now(), failures: 0 }
    }
}

impl Known {
    /// It as shown.
    pub(super) fn view(&self) -> PodView {
        let Description { uid, namespace, name, netns, manager, .. } = &self.description;
        let (state, pod, waiting_for) = match &self.stage {
            Stage::Outside => ("outside", None, None),
            Stage::Waiting { why, .. } => ("waiting", None, Some(why.clone())),
            Stage::Enrolled(pod) => ("enrolled", Some(pod), None),
        };
        PodView {
            uid: uid.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
            manager: *manager,
            state,
            identity: pod.map(|pod| pod.identity.clone()),
            addresses: pod.map(|pod| pod.addresses.clone()).unwrap_or_default(),
            netns_cookie: netns.cookie().0,
            waiting_for,
        }
    }
}

/// A pod that left the mesh and has connections in it.
pub(super) struct Releasing {
    pub(super) uid: Arc<str>,
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) netns: Netns,
    /// None: an agent before this one enrolled it.
    pub(super) pod: Option<Arc<Pod>>,
    /// Until then a listener may yield connections that were begun before the release.
    pub(super) not_before: Instant,
    pub(super) deadline: Instant,
}

impl Releasing {
    /// It as shown, with how many of `connections` it waits for.
    pub(super) fn view(&self, connections: &Connections) -> PodView {
        PodView {
            uid: self.uid.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            manager: Manager::Label,
            state: "releasing",
            identity: self.pod.as_ref().map(|pod| pod.identity.clone()),
            addresses: self.pod.as_ref().map(|pod| pod.addresses.clone()).unwrap_or_default(),
            netns_cookie: self.netns.cookie().0,
            waiting_for: Some(match connections.of_pod(self.netns.cookie()) {
                0 => "connections of another agent to end".to_owned(),
                count => format!("{count} connections to end"),
            }),
        }
    }
}

/// Tells all who wait for a pod.
pub(super) fn answer(waiters: &mut Vec<Waiter>, result: Result<Standing, String>) {
    for waiter in waiters.drain(..) {
        let _ = waiter.send(result.clone());
    }
}

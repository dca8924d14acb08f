//! What the pods' manager is told, by whom, and what it answers.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::oneshot;

use crate::netns::{Netns, NetnsCookie};

/// Who told of a pod, which decides how it comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Manager {
    /// A pod manager over ZDS: in the mesh from add to delete.
    Zds,
    /// The local socket, with the label deciding: in the mesh while the control plane says that the workload is.
    Label,
    /// A kubelet's pods, found by their cgroups: in the mesh while the control plane says that the workload is.
    Kubelet,
    /// The local socket, regardless of labels.
    Always,
}

impl Manager {
    /// Whether the control plane's word on the label decides, which comes and goes while the pod is known.
    pub(super) fn heeds_labels(self) -> bool {
        match self {
            Self::Label | Self::Kubelet => true,
            Self::Zds | Self::Always => false,
        }
    }
}

/// A pod as its manager describes it.
#[derive(Clone, Debug)]
pub struct Description {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// `None`: the one that the control plane knows the workload by.
    pub service_account: Option<Arc<str>>,
    pub netns: Netns,
    pub manager: Manager,
}

/// Where a pod that is known stands once there is nothing to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Enrolled,
    /// Not to be enrolled.
    Outside,
}

/// Who waits for a pod: told where it stands, or what is in the way.
pub type Waiter = oneshot::Sender<Result<Standing, String>>;

pub enum Command {
    /// Answered when the pod is enrolled, or known and not to be enrolled, or with what is in the way.
    Add(Description, Waiter),
    Remove(Arc<str>, oneshot::Sender<Result<(), String>>),
    /// A pod's network is taken down. By then the same pod may have another one: then nothing is removed.
    Leave(Arc<str>, NetnsCookie, oneshot::Sender<Result<(), String>>),
    /// The pods of a manager that has told all it knows: others of its own are gone.
    Settle(Manager, Vec<Arc<str>>),
}

/// Why a command is not obeyed any more.
pub(crate) const SUPERSEDED: &str = "another agent has taken over this node's pods";

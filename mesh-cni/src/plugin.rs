//! The plugin's object in a network configuration: the agent writes it, the plugin reads it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `type` of the object, which is also the name of the plugin's file.
pub const TYPE: &str = "weft-cni";

/// What becomes of a pod that should be in the mesh and cannot be enrolled in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It starts without, and is enrolled as soon as that can be.
    Open,
    /// It does not start. The kubelet tries again.
    #[default]
    Closed,
}

/// Longest wait, in seconds. The kubelet itself waits two minutes for a sandbox, unless it is told otherwise.
pub const MOST_SECONDS: u64 = 100;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plugin {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub on_failure: OnFailure,
    /// How long a pod may be kept waiting, in seconds: 1 to [`MOST_SECONDS`].
    #[serde(default = "default_seconds")]
    pub timeout_seconds: u64,
    /// Namespaces whose pods never wait.
    #[serde(default)]
    pub exclude_namespaces: Vec<String>,
    /// Where the agent listens.
    pub socket: PathBuf,
    /// See [`meshed`](crate::meshed).
    pub meshed: PathBuf,
}

fn default_seconds() -> u64 {
    20
}

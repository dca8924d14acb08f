//! The CNI plugin's other half: a new pod's first container waits until its agent has enrolled it.
//!
//! ```text
//! start    both of them and the server, one after the other
//! keeper   plugin's file and its entry in the network configuration, again whenever something else is there
//! meshed   the namespaces of the mesh in a file: what the plugin goes by while no agent answers
//! server   plugin --(pod, namespace)--> agent: told by the control stream yet? in the mesh? enrolled? --> answer
//! ```
//! A pod has its address only after the plugin is done, so the control plane tells of it, without one, as soon as it is
//! scheduled. Who the pod is says its uid, which the runtime and the control stream both have from the API server.

mod start;
pub mod server;
pub mod keeper;
pub mod meshed;
pub mod install;
pub mod edit;

use std::path::PathBuf;

use mesh_cni::plugin::{OnFailure, Plugin, TYPE};

pub use start::start;

/// Name of the plugin's socket in the agent's run directory.
pub const SOCKET: &str = "cni.sock";
/// The agent's folder in that of the network configurations. Runtimes look at files there, not at folders.
pub const FOLDER: &str = "weft.d";
/// The plugin's program, beside the agent's own.
pub const PROGRAM: &str = "mesh-cni";

/// How the plugin is installed. Paths are the node's and the agent's alike: its container has these folders where the node
/// has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the runtime looks for network configurations.
    pub conf_dir: PathBuf,
    /// Where the runtime looks for plugins.
    pub bin_dir: PathBuf,
    pub on_failure: OnFailure,
    /// How long a pod may be kept waiting, in seconds.
    pub timeout_seconds: u64,
    /// Namespaces whose pods never wait.
    pub exclude_namespaces: Vec<String>,
}

impl Config {
    /// The plugin's object in a network configuration, for an agent with this run directory.
    #[must_use]
    pub fn plugin(&self, run_dir: &std::path::Path) -> Plugin {
        Plugin {
            kind: TYPE.to_owned(),
            on_failure: self.on_failure,
            timeout_seconds: self.timeout_seconds,
            exclude_namespaces: self.exclude_namespaces.clone(),
            socket: run_dir.join(SOCKET),
            meshed: self.conf_dir.join(FOLDER).join(mesh_cni::meshed::FILE),
        }
    }
}

//! Weft's CNI plugin, chained behind those that make a pod's network: it keeps the pod from its first container until the
//! node's agent has the pod in the mesh.
//!
//! ```text
//! kubelet -> runtime -> bridge, ... -> this plugin --(the pod, its network namespace)--> agent
//!                                          <---- enrolled | outside | failed ---------
//! ```
//! The library is what the plugin and the agent have in common: the plugin's object in the network configuration, the
//! packets between them, and the file by which the plugin knows what to do without an agent.

pub mod run;
pub mod asking;
pub mod call;
pub mod packet;
pub mod plugin;
pub mod meshed;
pub mod spans;
pub mod failure;

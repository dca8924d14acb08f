//! Weft's node agent: takes enrolled pods' connections from eBPF, carries them over mutual TLS and enforces policy.
//!
//! It knows eBPF and this node's pods, and nothing of Kubernetes' API: what is true of the mesh comes over the control
//! stream.
//!
//! ```text
//!  app in pod A --connect()--> eBPF --> capture --> outbound: route, pool --> splice ==mTLS==> the other node
//!  the other node ==mTLS==> capture --> inbound: who, policy, deliver --> splice --> app in pod B
//! ```

pub mod app;
pub mod uninstall;
pub mod views;
pub mod handover;
pub mod settings;
pub mod cni;
pub mod pods;
pub mod worker;
pub mod direct;
pub mod outside;
pub mod inbound;
pub mod outbound;
pub mod capture;
pub mod splice;
pub mod pod;
pub mod connections;
pub mod telemetry;
pub mod connection;
pub mod shares;
pub mod lookout;
pub mod cost;
pub mod ebpf;
pub mod plumbing;
pub mod socket;
pub mod netns;

//! What is true in a mesh: who a workload is, where it is, what may reach it.
//!
//! This crate opens no socket, reads no clock and starts no task; whatever it decides is a function of its arguments, so
//! that the controller, the node agent and the tests decide alike.
//!
//! ```text
//! wire messages --TryFrom--> Workload, Service, Policy --upsert--> Snapshot
//!                                                                    |
//!                              Connection --policy::evaluate(..)-----+--> Permit | Denial
//! ```

pub mod wire;
pub mod snapshot;
pub mod policy;
pub mod service;
pub mod l7;
pub mod traffic;
pub mod workload;
pub mod identity;
pub mod addr;

//! The instances of waypoints: a Gateway of class `weft-waypoint` becomes a Deployment and what belongs to it.
//!
//! ```text
//! index ──> Gateways ──> objects as they should be ─┐
//!             API server ──> objects as they are ───┴─> what differs ──> server-side apply     (the leader alone)
//! ```
//! All that is made has the Gateway as its owner, so it goes with it. What has another owner, or none, is never touched.

mod reconcile;
mod class;
mod children;
mod drift;
mod objects;
mod wishes;
mod quantity;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use objects::Config;
pub(crate) use reconcile::{Reconciler, Writes};

/// What the API server knows our writes by. Fields that it says are ours are set back when somebody changes them.
const FIELD_MANAGER: &str = "weft-waypoints";
/// Label that says of which class the Gateway of an object is.
const CLASS_LABEL: &str = "gateway.networking.k8s.io/gateway-class-name";

/// How it went with a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is as it should be.
    Done,
    /// The Gateway asks for what it cannot have; what was there stays.
    Invalid(Vec<String>),
    /// An object that it needs is somebody else's.
    Conflict(String),
    /// The API server refuses, or does not answer.
    Failed(String),
}

/// By namespace and name of the Gateway.
pub type Outcomes = Arc<BTreeMap<(Arc<str>, Arc<str>), Outcome>>;

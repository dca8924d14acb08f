//! Services and ServiceEntries: which waypoint they are bound to.

use serde_json::{Map, Value};

use super::{Sight, field};
use crate::condition::{Condition, merged};
use crate::object::{ObjectKey, Standing};

/// As the reference calls it.
pub(super) const BOUND: &str = "istio.io/WaypointBound";

impl Sight<'_> {
    pub(super) fn service(&self, key: &ObjectKey, standing: &Standing) -> Map<String, Value> {
        let bound: Vec<Condition> = self.bound(key).into_iter().collect();
        field("conditions", merged(standing.list("conditions"), &bound, &[BOUND], standing.generation, self.now))
    }

    /// `None`: it asks for no waypoint.
    pub(super) fn bound(&self, key: &ObjectKey) -> Option<Condition> {
        let binding = self.index.binding(key)?;
        let gateway = format!("{}/{}", binding.namespace, binding.gateway);
        let (is_true, reason, message) = match (binding.is_there, binding.is_refused) {
            (true, false) => (true, "WaypointAccepted", format!("bound to waypoint {gateway}")),
            (true, true) => (
                false,
                "AttachmentDenied",
                format!("waypoint {gateway} does not take services of this namespace; what goes through it fails"),
            ),
            (false, _) => {
                (false, "WaypointMissing", format!("there is no waypoint {gateway}; what goes through it fails"))
            }
        };
        Some(Condition::new(BOUND, is_true, reason, message))
    }
}

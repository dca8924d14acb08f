//! Istio's kinds: how many agents and waypoints have the object as it is now.

use std::time::Instant;

use super::Sight;
use crate::condition::Condition;
use crate::distribution::{Said, is_counted};
use crate::object::{ObjectKey, Standing};
use crate::source::Severity;

pub(super) const DISTRIBUTED: &str = "weft.io/Distributed";

/// What becomes of the condition.
pub(super) enum Distributed {
    AsBefore,
    /// `None`: it goes.
    Now(Option<Condition>),
}

impl Sight<'_> {
    /// What is refused is told to nobody, and nothing is said of it.
    pub(super) fn distributed(&self, key: &ObjectKey, standing: &Standing) -> Distributed {
        let is_refused = self.findings(key).iter().any(|finding| finding.severity == Severity::Error);
        if is_refused || !is_counted(key.kind) {
            return Distributed::Now(None);
        }
        let all_had = standing.list("conditions").iter().any(|condition| {
            condition["type"] == DISTRIBUTED
                && condition["status"] == "True"
                && condition["observedGeneration"] == standing.generation
        });
        let count = match self.told.said(key, standing, all_had, Instant::now()) {
            Said::Nothing => return Distributed::Now(None),
            Said::AsBefore => return Distributed::AsBefore,
            Said::Now(count) => count,
        };
        let (have, connected, generation) = (count.have, count.connected, standing.generation);
        let mut message = format!("{have} of {connected} agents and waypoints have generation {generation}");
        if count.refuse > 0 {
            message +=
                &format!("; {} of them refuse what they were told: {}", count.refuse, count.why.unwrap_or_default());
        }
        let reason = match (have >= connected, count.refuse) {
            (true, _) => "Distributed",
            (false, 0) => "Pending",
            (false, _) => "Refused",
        };
        Distributed::Now(Some(Condition::new(DISTRIBUTED, have >= connected, reason, message)))
    }
}

//! How many agents and waypoints have an object as it is now.
//!
//! ```text
//! each replica: change of an object -> places in its log (Marks) + how far its own agents are -> Summary, at most each 2 s
//! the leader:   own Summary + those of the others (ConfigMap) -> Count of an object -> its status, once it settles
//! ```
//! Places in the log are each replica's own. What they share is the API server's versions: a summary says up to which version of
//! each kind its replica has read, and which of the latest generations not all of its agents have.

pub(crate) mod exchange;
mod marks;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::object::{Kind, ObjectKey, Standing};

pub(crate) use marks::{Marks, Seen, heads};

/// How long an object may be on its way before it is said that not all have it.
const SETTLES: Duration = Duration::from_secs(5);

/// What one replica says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Agents and waypoints that are connected to it.
    connected: usize,
    /// Of these, who have not been told everything once.
    beginning: usize,
    /// The newest version that it has read, by kind.
    read: BTreeMap<String, u64>,
    /// Objects whose generation not all of its agents have, as `kind namespace/name`.
    pending: BTreeMap<String, Pending>,
    /// There are more of these than are listed.
    #[serde(default)]
    is_cut: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Pending {
    generation: i64,
    have: usize,
    /// Who refused what they were told last.
    refuse: usize,
    /// What one of them said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// Of all replicas together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) have: usize,
    pub(crate) connected: usize,
    pub(crate) refuse: usize,
    pub(crate) why: Option<String>,
}

/// What is to be said of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Nothing: there are no agents.
    Nothing,
    /// What was said before, or nothing yet.
    AsBefore,
    Now(Count),
}

/// All summaries, and since when objects are on their way.
#[derive(Debug, Default)]
pub(crate) struct Told {
    summaries: Vec<Arc<Summary>>,
    waiting: Mutex<HashMap<ObjectKey, Waiting>>,
}

/// An object that not all have.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    generation: i64,
    /// In which the generation was first seen. Later ones are statuses, the own one too.
    version: u64,
    since: Instant,
}

/// Of a version, which the API server counts upwards; 0 if it does not.
fn number(version: &str) -> u64 {
    version.parse().unwrap_or(0)
}

/// Kinds of which it is said.
pub(crate) fn is_counted(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::PeerAuthentication
            | Kind::AuthorizationPolicy
            | Kind::RequestAuthentication
            | Kind::Telemetry
            | Kind::ServiceEntry
            | Kind::WorkloadEntry
            | Kind::DestinationRule
            | Kind::VirtualService
    )
}

impl Summary {
    /// How many of its agents have the generation; `None` if it does not say.
    fn have(&self, key: &ObjectKey, name: &str, wait: &Waiting) -> Option<(usize, Option<&Pending>)> {
        if self.read.get(key.kind.as_str()).is_none_or(|read| *read < wait.version) {
            return Some((0, None));
        }
        match self.pending.get(name) {
            Some(pending) if pending.generation == wait.generation => Some((pending.have, Some(pending))),
            Some(_) => Some((0, None)),
            None if self.is_cut => None,
            None => Some((self.connected.saturating_sub(self.beginning), None)),
        }
    }
}

impl Told {
    /// Takes the place of what was told before.
    pub(crate) fn tell(&mut self, summaries: &[Arc<Summary>]) {
        self.summaries = summaries.to_vec();
    }

    /// What to say of an object whose status says `all_had` of its generation, that all had it. Who connects later is told of it
    /// before anything new, so that is not said anew.
    pub(crate) fn said(&self, key: &ObjectKey, standing: &Standing, all_had: bool, now: Instant) -> Said {
        let mut waiting = self.waiting.lock().unwrap_or_else(|e| e.into_inner());
        // A controller that has just begun to lead knows of no agents yet.
        if all_had {
            waiting.remove(key);
            return Said::AsBefore;
        }
        let begins = Waiting { generation: standing.generation, version: number(&standing.version), since: now };
        let wait = waiting.entry(key.clone()).or_insert(begins);
        if wait.generation != standing.generation {
            *wait = begins;
        }
        let Some(count) = self.count(key, wait) else { return Said::AsBefore };
        let is_settled = now.saturating_duration_since(wait.since) >= SETTLES;
        if count.connected == 0 || count.have >= count.connected {
            waiting.remove(key);
            return if count.connected == 0 { Said::Nothing } else { Said::Now(count) };
        }
        if is_settled { Said::Now(count) } else { Said::AsBefore }
    }

    /// How long until it is to be said of the next object that not all have it, if nobody says anything new.
    pub(crate) fn settles_in(&self, now: Instant) -> Option<Duration> {
        let waiting = self.waiting.lock().unwrap_or_else(|e| e.into_inner());
        let due = waiting.values().map(|wait| (wait.since + SETTLES).saturating_duration_since(now));
        due.filter(|wait| !wait.is_zero()).min()
    }

    /// Forgets objects that are gone.
    pub(crate) fn retain(&self, is_there: impl Fn(&ObjectKey) -> bool) {
        self.waiting.lock().unwrap_or_else(|e| e.into_inner()).retain(|key, _| is_there(key));
    }

    fn count(&self, key: &ObjectKey, wait: &Waiting) -> Option<Count> {
        let (name, mut count) = (key.to_string(), Count::default());
        for summary in &self.summaries {
            let (have, pending) = summary.have(key, &name, wait)?;
            count.have += have;
            count.connected += summary.connected;
            if let Some(pending) = pending {
                count.refuse += pending.refuse;
                count.why = count.why.or_else(|| pending.why.clone());
            }
        }
        Some(count)
    }
}

//! What one replica knows: at which place of its log each object's generation is, and how far its agents are.

use std::collections::{BTreeMap, HashMap};

use mesh_net::control;

use super::{Pending, Summary, is_counted};
use crate::ads::Progress;
use crate::object::ObjectKey;
use crate::source::Event;
use crate::store::World;

/// Objects on their way that a summary lists.
const MOST: usize = 500;

/// Places in the logs of each kind of resource.
pub(crate) type Places = [u64; control::Kind::ALL.len()];

/// Where the logs end.
pub(crate) fn heads(world: &World) -> Places {
    control::Kind::ALL.map(|kind| world.of(kind).head())
}

/// Objects whose generation some agent may not have.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    read: BTreeMap<String, u64>,
    generations: HashMap<ObjectKey, i64>,
    /// Who has acknowledged everything up to there has the generation.
    pending: BTreeMap<ObjectKey, (i64, Places)>,
}

/// What of a batch of events concerns objects that are counted.
#[derive(Debug, Default)]
pub(crate) struct Seen(Vec<(ObjectKey, Option<(i64, u64)>)>);

impl Seen {
    /// To be read before the batch is applied, and noted after it.
    pub(crate) fn of(events: &[Event]) -> Self {
        let seen = events.iter().filter_map(|event| match event {
            Event::Standing(key, standing) if is_counted(key.kind) => {
                Some((key.clone(), Some((standing.generation, standing.version.parse().unwrap_or(0)))))
            }
            Event::Delete(key) if is_counted(key.kind) => Some((key.clone(), None)),
            _ => None,
        });
        Self(seen.collect())
    }
}

impl Marks {
    /// `heads`: where the logs end with all that came of it.
    pub(crate) fn note(&mut self, seen: Seen, heads: Places) {
        for (key, now) in seen.0 {
            let Some((generation, version)) = now else {
                self.generations.remove(&key);
                self.pending.remove(&key);
                continue;
            };
            let read = self.read.entry(key.kind.as_str().to_owned()).or_default();
            *read = version.max(*read);
            if self.generations.insert(key.clone(), generation) != Some(generation) {
                self.pending.insert(key, (generation, heads));
            }
        }
    }

    /// What there is to say with these agents; what all of them have is forgotten.
    pub(crate) fn summary(&mut self, agents: &[Progress]) -> Summary {
        let (begun, beginning): (Vec<&Progress>, Vec<&Progress>) = agents.iter().partition(|agent| agent.is_told);
        // Who begins is told all of it in one go, and is counted apart until then.
        self.pending.retain(|_, (_, places)| begun.iter().any(|agent| !agent.has(places)));
        let listed = self.pending.iter().take(MOST).map(|(key, (generation, places))| {
            let lack = begun.iter().filter(|agent| !agent.has(places));
            let refusals: Vec<&String> = lack.filter_map(|agent| agent.refusal.as_ref()).collect();
            let pending = Pending {
                generation: *generation,
                have: begun.iter().filter(|agent| agent.has(places)).count(),
                refuse: refusals.len(),
                why: refusals.first().map(|why| why.chars().take(200).collect()),
            };
            (key.to_string(), pending)
        });
        Summary {
            pending: listed.collect(),
            is_cut: self.pending.len() > MOST,
            connected: agents.len(),
            beginning: beginning.len(),
            read: self.read.clone(),
        }
    }
}

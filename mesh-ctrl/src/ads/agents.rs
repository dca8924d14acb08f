//! Who is connected, and how far each has come.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use mesh_net::control::Kind;
use mesh_net::unix_time;
use serde::Serialize;

use super::session::Session;
use crate::store::World;

/// The agents that are connected.
#[derive(Debug, Default)]
pub struct Agents {
    next: AtomicU64,
    live: Mutex<BTreeMap<u64, Live>>,
}

#[derive(Debug)]
struct Live {
    view: AgentView,
    progress: Progress,
}

/// How far one agent or waypoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Up to where in the logs, in the order of [`Kind::ALL`], it has acknowledged everything.
    pub(crate) places: [u64; Kind::ALL.len()],
    /// Whether it has acknowledged everything once.
    pub(crate) is_told: bool,
    /// What it said against what it was told last.
    pub(crate) refusal: Option<String>,
}

impl Progress {
    /// Whether it has what is up to `places`.
    pub(crate) fn has(&self, places: &[u64]) -> bool {
        self.places.iter().zip(places).all(|(own, place)| own >= place)
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct AgentView {
    /// The node that its token is of.
    pub node: Arc<str>,
    /// What it calls itself.
    pub id: String,
    pub peer: Option<SocketAddr>,
    /// Seconds since 1970.
    pub connected_at: u64,
    pub types: BTreeMap<&'static str, SubscriptionView>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct SubscriptionView {
    pub wildcard: bool,
    /// Names asked for on demand.
    pub asked: usize,
    /// Places in the log of changes: told, acknowledged, and how far the latter is behind the latest change.
    pub sent: u64,
    pub acknowledged: u64,
    pub lag: u64,
    pub responses: u64,
    pub nacks: u64,
    pub last_nack: Option<String>,
}

impl Agents {
    /// In the order in which they came.
    pub fn view(&self, world: &World) -> Vec<AgentView> {
        let mut all: Vec<AgentView> = self.lock().values().map(|live| live.view.clone()).collect();
        for agent in &mut all {
            for kind in Kind::ALL {
                if let Some(view) = agent.types.get_mut(kind.type_url()) {
                    view.lag = world.of(kind).head().saturating_sub(view.acknowledged);
                }
            }
        }
        all
    }

    /// How far each is, in the order in which they came.
    pub(crate) fn progress(&self) -> Vec<Progress> {
        self.lock().values().map(|live| live.progress.clone()).collect()
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn streams_of(&self, node: &str) -> usize {
        self.lock().values().filter(|live| *live.view.node == *node).count()
    }

    pub(super) fn enter(self: &Arc<Self>, node: Arc<str>, peer: Option<SocketAddr>) -> Entered {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let now = unix_time::seconds(SystemTime::now());
        let view = AgentView { node, id: String::new(), peer, connected_at: now, types: BTreeMap::new() };
        let progress = Progress { places: Default::default(), is_told: false, refusal: None };
        self.lock().insert(id, Live { view, progress });
        Entered { id, agents: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Live>> {
        self.live.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// An agent's place among the connected; it leaves when this is dropped.
#[derive(Debug)]
pub(super) struct Entered {
    id: u64,
    agents: Arc<Agents>,
}

impl Entered {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn named(&self, id: &str) {
        if let Some(agent) = self.agents.lock().get_mut(&self.id) {
            agent.view.id = id.chars().take(300).collect();
        }
    }

    pub(super) fn show(&self, session: &Session) {
        let mut live = self.agents.lock();
        let Some(Live { view: agent, progress }) = live.get_mut(&self.id) else { return };
        progress.places = session.places();
        progress.is_told |= session.is_told();
        progress.refusal = session.refusal().map(str::to_owned);
        for kind in Kind::ALL {
            let subscription = session.subscription(kind);
            if !subscription.started() {
                continue;
            }
            // In place: this is called twice for each response.
            let view = agent.types.entry(kind.type_url()).or_default();
            view.wildcard = subscription.wildcard;
            view.asked = subscription.asked.len();
            view.sent = subscription.cursor;
            view.acknowledged = subscription.acknowledged;
            view.responses = subscription.responses;
            view.nacks = subscription.nacks;
            view.last_nack.clone_from(&subscription.last_nack);
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.agents.lock().remove(&self.id);
    }
}

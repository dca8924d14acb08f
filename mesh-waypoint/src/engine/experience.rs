//! What this waypoint knows of endpoints because it has used them, shared by its workers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use mesh_core::l7::destination;
use mesh_core::workload::{ServiceKey, Uid};

use super::outliers::{Outcome, Outliers};

/// What endpoints are chosen for: a port of a service, or of one of its subsets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub service: ServiceKey,
    pub port: u16,
    pub subset: Option<Arc<str>>,
}

/// All of them, by target.
#[derive(Debug, Default)]
pub struct Experiences(Mutex<HashMap<Target, Arc<Experience>>>);

impl Experiences {
    pub fn of(&self, target: &Target) -> Arc<Experience> {
        let mut all = lock(&self.0);
        match all.get(target) {
            Some(experience) => experience.clone(),
            None => all.entry(target.clone()).or_default().clone(),
        }
    }

    /// Forgets targets that are gone.
    pub fn retain(&self, is_there: impl Fn(&Target) -> bool) {
        lock(&self.0).retain(|target, _| is_there(target));
    }
}

/// What is known of the endpoints of one target.
#[derive(Debug, Default)]
pub struct Experience(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    in_flight: HashMap<Uid, u64, RandomState>,
    turns: u64,
    outliers: Outliers,
    /// When an endpoint was first seen; kept only for a slow start.
    since: HashMap<Uid, Instant>,
}

/// What a choice among endpoints depends on. Nothing changes while it is held, so only for a choice.
#[derive(Debug)]
pub(super) struct Look<'a> {
    state: MutexGuard<'a, State>,
    pub(super) ejected: HashSet<Uid>,
    /// How many choices came before.
    pub(super) turn: u64,
}

impl Look<'_> {
    pub(super) fn in_flight(&self, uid: &Uid) -> u64 {
        self.state.in_flight.get(uid).copied().unwrap_or(0)
    }

    /// How long ago an endpoint was first seen.
    pub(super) fn age(&self, uid: &Uid, now: Instant) -> Option<Duration> {
        self.state.since.get(uid).map(|since| now.saturating_duration_since(*since))
    }
}

impl Experience {
    /// Counts a request at an endpoint for as long as the guard lives.
    pub fn begin(self: &Arc<Self>, uid: &Uid) -> InFlight {
        *lock(&self.0).in_flight.entry(uid.clone()).or_default() += 1;
        InFlight { experience: self.clone(), uid: uid.clone() }
    }

    /// What became of a request at one of `endpoints` endpoints. `true`: the endpoint is ejected.
    pub fn record(
        &self,
        uid: &Uid,
        outcome: Outcome,
        policy: &destination::Policy,
        endpoints: usize,
        now: Instant,
    ) -> bool {
        let Some(rule) = &policy.outliers else { return false };
        lock(&self.0).outliers.record(uid, outcome, rule, endpoints, now)
    }

    /// Takes a turn. `endpoints`: all there are.
    pub(super) fn look(&self, endpoints: &[&Uid], policy: &destination::Policy, now: Instant) -> Look<'_> {
        let mut state = lock(&self.0);
        let is_there = |uid: &Uid| endpoints.contains(&uid);
        let turn = state.turns;
        state.turns = turn.wrapping_add(1);
        if policy.slow_start.is_some() {
            for uid in endpoints {
                if !state.since.contains_key(*uid) {
                    state.since.insert((*uid).clone(), now);
                }
            }
            if state.since.len() > endpoints.len() {
                state.since.retain(|uid, _| is_there(uid));
            }
        }
        let ejected = match &policy.outliers {
            Some(_) if state.outliers.is_empty() => HashSet::new(),
            Some(rule) => {
                state.outliers.retain(is_there);
                state.outliers.ejected(rule, now)
            }
            None => HashSet::new(),
        };
        Look { state, ejected, turn }
    }
}

#[derive(Debug)]
pub struct InFlight {
    experience: Arc<Experience>,
    uid: Uid,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = lock(&self.experience.0);
        if let Some(count) = state.in_flight.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                state.in_flight.remove(&self.uid);
            }
        }
    }
}

/// A panic while counting leaves a count off by one at most.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

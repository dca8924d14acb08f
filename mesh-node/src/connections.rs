//! The connections that are alive.
//!
//! Every connection that the agent accepts is opened here and leaves through [`Open`]'s drop, so each one is counted and
//! logged once, whatever its end: completed, refused, reset, or lost to a panic.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::connection::{End, Facts, Live};
use crate::netns::NetnsCookie;
use crate::telemetry::Telemetry;

/// All live connections of the agent.
#[derive(Clone, Debug)]
pub struct Connections {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    live: Mutex<HashMap<u64, Arc<Live>>>,
    next: AtomicU64,
    telemetry: Telemetry,
}

impl Connections {
    pub fn new(telemetry: Telemetry) -> Self {
        Self { inner: Arc::new(Inner { live: Mutex::default(), next: AtomicU64::new(1), telemetry }) }
    }

    /// Puts a connection on record; it stays there until the returned value is finished or dropped.
    pub fn open(&self, facts: Facts, opened: Instant) -> Open {
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let live = Arc::new(Live::new(id, facts, opened));
        self.lock().insert(id, live.clone());
        self.inner.telemetry.opened(&live);
        Open { connections: self.clone(), live, end: None }
    }

    /// Logs and counts a connection that was refused before it carried anything.
    pub fn refuse(&self, facts: Facts, opened: Instant, end: End) {
        self.open(facts, opened).finish(end);
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Live connections from and to a pod.
    pub fn of_pod(&self, pod: NetnsCookie) -> usize {
        self.lock().values().filter(|live| live.facts.pod == Some(pod)).count()
    }

    /// Every live connection, oldest first.
    pub fn all(&self) -> Vec<Arc<Live>> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_by_key(|live| live.id);
        all
    }

    /// Ends the connections for which `verdict` has a reason, and says how many that were.
    pub fn end_where(&self, mut verdict: impl FnMut(&Live) -> Option<End>) -> usize {
        let mut ended = 0;
        for live in self.all() {
            if let Some(end) = verdict(&live) {
                live.end(end);
                ended += 1;
            }
        }
        ended
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Live>>> {
        self.inner.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection on record.
#[derive(Debug)]
pub struct Open {
    connections: Connections,
    live: Arc<Live>,
    end: Option<End>,
}

impl Open {
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Takes the connection off the record and writes its line.
    pub fn finish(mut self, end: End) {
        self.end = Some(end);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.live.id);
        let end = self.end.take().or_else(|| self.live.asked_to_end().cloned()).unwrap_or_else(|| {
            if std::thread::panicking() {
                self.connections.inner.telemetry.panicked();
                End::because("panic", "the agent failed on this connection")
            } else {
                End::because("agent_stopped", "the agent stopped while the connection was alive")
            }
        });
        self.connections.inner.telemetry.closed(&self.live, &end);
    }
}

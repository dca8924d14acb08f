//! More is asked than a worker can hold: who is refused, and when connections are let go.
//!
//! A request takes a share of its client's before anything else is done for it, and gives it back when its answer has been read.
//! What is counted is one worker's, so that workers share no counter.

mod bounds;
mod level;
mod memory;
mod shares;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mesh_core::identity::SpiffeId;
use thiserror::Error;
use tokio::sync::watch;
use tracing::{info, warn};

pub use bounds::Bounds;
pub use level::{Level, follow};
pub use memory::limit;
use shares::{Share, Shares};

/// Why something is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Shed {
    #[error("the process has nearly all the memory that it may have")]
    Memory,
    #[error("the client has its share of what is scarce")]
    Share,
    #[error("there is no room even for those who have less than their share")]
    Bound,
}

impl Shed {
    /// Closed set, used as a log and metric label.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Share => "share",
            Self::Bound => "bound",
        }
    }
}

/// What one worker has taken on. Clones are the same worker's.
#[derive(Clone, Debug)]
pub struct Overload(Arc<Worker>);

#[derive(Debug)]
struct Worker {
    requests: Shares,
    streams: Shares,
    level: watch::Sender<Level>,
    /// Of `level`, for each request to look at.
    is_tight: AtomicBool,
    is_critical: AtomicBool,
    clients: Mutex<Clients>,
    /// Requests that were refused since there was room for all; 0: there is.
    shed: AtomicU64,
}

#[derive(Debug, Default)]
struct Clients {
    known: HashMap<SpiffeId, Weak<Party>>,
    /// How many there are to be before those that are gone are looked for.
    crowd: usize,
}

/// One client, whatever comes from it.
#[derive(Debug)]
pub struct Party {
    worker: Arc<Worker>,
    requests: Share,
    streams: Share,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Request,
    Stream,
}

/// A request or stream of a client, until it is dropped.
#[derive(Debug)]
pub struct Taken {
    party: Arc<Party>,
    what: What,
}

impl Overload {
    pub fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Worker {
            requests: Shares::new(bounds.requests),
            streams: Shares::new(bounds.streams),
            level: watch::Sender::new(Level::Calm),
            is_tight: AtomicBool::new(false),
            is_critical: AtomicBool::new(false),
            clients: Mutex::default(),
            shed: AtomicU64::new(0),
        }))
    }

    /// What is counted for the client of that identity.
    pub fn party(&self, identity: &SpiffeId) -> Arc<Party> {
        let mut clients = self.0.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = clients.known.get(identity).and_then(Weak::upgrade) {
            return known;
        }
        if clients.known.len() >= clients.crowd {
            clients.known.retain(|_, party| party.strong_count() > 0);
            clients.crowd = (2 * clients.known.len()).max(LEAST_CROWD);
        }
        let (requests, streams) = (Share::default(), Share::default());
        let party = Arc::new(Party { worker: self.0.clone(), requests, streams });
        clients.known.insert(identity.clone(), Arc::downgrade(&party));
        party
    }

    /// From here on there is so much memory.
    pub fn set(&self, level: Level) {
        self.0.is_tight.store(level >= Level::Tight, Ordering::Relaxed);
        self.0.is_critical.store(level >= Level::Critical, Ordering::Relaxed);
        self.0.level.send_replace(level);
    }

    /// Whether connections are to end when nothing is under way on them.
    pub fn is_tight(&self) -> bool {
        self.0.is_tight.load(Ordering::Relaxed)
    }

    /// Ready when [`is_tight`](Self::is_tight) is.
    pub async fn tight(&self) {
        // It has a sender for as long as this is.
        let _ = self.0.level.subscribe().wait_for(|level| *level >= Level::Tight).await;
    }
}

impl Party {
    /// # Errors
    /// The request is not to be served.
    pub fn request(self: &Arc<Self>) -> Result<Taken, Shed> {
        let taken = self.take(What::Request);
        if let Err(shed) = taken {
            self.worker.refused(shed);
        }
        taken
    }

    /// # Errors
    /// The stream is not to be served.
    pub fn stream(self: &Arc<Self>) -> Result<Taken, Shed> {
        self.take(What::Stream)
    }

    fn take(self: &Arc<Self>, what: What) -> Result<Taken, Shed> {
        if self.worker.is_critical.load(Ordering::Relaxed) {
            return Err(Shed::Memory);
        }
        let (shares, share) = self.of(what);
        shares.take(share)?;
        Ok(Taken { party: self.clone(), what })
    }

    fn of(&self, what: What) -> (&Shares, &Share) {
        match what {
            What::Request => (&self.worker.requests, &self.requests),
            What::Stream => (&self.worker.streams, &self.streams),
        }
    }
}

impl Worker {
    fn refused(&self, shed: Shed) {
        if self.shed.fetch_add(1, Ordering::Relaxed) == 0 {
            let (requests, bound) = (self.requests.all(), self.requests.bound());
            warn!(requests, bound, reason = shed.reason(), "overload: requests are refused");
        }
    }

    fn given_back(&self) {
        if self.shed.load(Ordering::Relaxed) > 0
            && self.requests.has_plenty()
            && !self.is_critical.load(Ordering::Relaxed)
        {
            let refused = self.shed.swap(0, Ordering::Relaxed);
            info!(refused, "overload is over");
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let (shares, share) = self.party.of(self.what);
        shares.give_back(share);
        self.party.worker.given_back();
    }
}

/// Clients that are known before those that are gone are looked for.
const LEAST_CROWD: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str) -> SpiffeId {
        SpiffeId::new("td", "shop", name).unwrap()
    }

    #[test]
    fn streams_of_one_identity_are_one_client() {
        let overload = Overload::new(Bounds { requests: 8, streams: 8 });
        let (one, same, other) =
            (overload.party(&client("a")), overload.party(&client("a")), overload.party(&client("b")));
        let held: Vec<_> = (0..8).map(|at| if at % 2 == 0 { &one } else { &same }.request().unwrap()).collect();
        assert_eq!(same.request().unwrap_err(), Shed::Share);
        let _modest = other.request().expect("it has less than its share");
        drop(held);
        assert!(one.request().is_ok(), "there is room again");
        assert!(one.stream().is_ok(), "streams are counted apart");
    }

    #[test]
    fn without_memory_nothing_is_taken_on() {
        let overload = Overload::new(Bounds { requests: 8, streams: 8 });
        let party = overload.party(&client("a"));
        for (level, tight, request) in
            [(Level::Critical, true, Err(Shed::Memory)), (Level::Tight, true, Ok(())), (Level::Calm, false, Ok(()))]
        {
            overload.set(level);
            assert_eq!((overload.is_tight(), party.request().map(drop)), (tight, request), "{level:?}");
            assert_eq!(party.stream().map(drop), request, "{level:?}");
        }
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let overload = Overload::new(Bounds { requests: 8, streams: 8 });
        let stays = overload.party(&client("stays"));
        for at in 0..10 * LEAST_CROWD {
            overload.party(&client(&format!("c{at}")));
        }
        assert!(overload.0.clients.lock().unwrap().known.len() <= LEAST_CROWD);
        assert!(Arc::ptr_eq(&stays, &overload.party(&client("stays"))));
    }
}

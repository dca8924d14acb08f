//! Connections to endpoints, kept for the next request.
//!
//! HTTP/1.1: a connection carries one exchange at a time and comes back when the response has been read whole. HTTP/2: one
//! connection carries all.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use mesh_core::l7::destination::Pool;
use mesh_core::service::Service;
use mesh_core::workload::ServiceKey;
use mesh_net::http2::frame::Code;
use thiserror::Error;
use tokio::sync::Notify;

use crate::body::BodyError;
use crate::dial::{Carriage, Dialler, Endpoint, Unreached};
use crate::engine::limits::{Breaker, Limited, Overflow, Taken};
use crate::http1::client::{Connection, Failed, Keeper, Lost};
use crate::http2::client::{self as second, Over};
use crate::message::{Answer, Departing};
use crate::stall::Impatient;

/// How an endpoint is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http1,
    Http2,
}

impl Version {
    fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// What holds for connections to an endpoint.
#[derive(Clone, Debug)]
pub struct Terms {
    pub connect_timeout: Duration,
    pub idle_timeout: Option<Duration>,
    pub max_age: Option<Duration>,
    pub max_requests: Option<u32>,
    /// Without anything taken of what is written to the endpoint.
    pub stream_idle: Duration,
    /// Of the destination as a whole, its other endpoints included; `None`: nothing is counted.
    pub bounds: Option<(Arc<Breaker>, Pool)>,
}

impl Terms {
    fn take(&self, what: Limited) -> Result<Option<Taken>, Overflow> {
        self.bounds.as_ref().map(|(breaker, pool)| breaker.take(what, pool)).transpose()
    }
}

/// Why no response came.
#[derive(Debug, Error)]
pub enum SendError {
    #[error(transparent)]
    Unreached(#[from] Unreached),
    /// The connection was there, and went before anything of the request was sent.
    #[error("the connection was lost before the request was sent: {0}")]
    Unsent(#[source] BodyError),
    /// The endpoint said that it has done nothing with it (RFC 9113, section 8.7).
    #[error("the endpoint refused the stream")]
    RefusedStream,
    #[error("the connection was lost before a response came: {0}")]
    Lost(#[source] BodyError),
    #[error("the response breaks the protocol: {0}")]
    Protocol(#[source] BodyError),
    /// The client broke it off, or its end cannot be told.
    #[error("the request's body: {0}")]
    Request(#[source] BodyError),
    /// There are as many connections, or requests that wait for one, as there may be.
    #[error(transparent)]
    Overflow(#[from] Overflow),
}

/// What connections to an address have in common.
#[derive(Clone, Debug)]
struct Key {
    carriage: Carriage,
    version: Version,
    /// The endpoint's agent was told of it when the connection was made.
    named: Option<ServiceKey>,
}

type Slots = HashMap<SocketAddr, Vec<(Key, Arc<Slot>)>, RandomState>;

/// The connections of one worker.
#[derive(Clone)]
pub struct Upstreams {
    dialler: Dialler,
    slots: Arc<Mutex<Slots>>,
}

#[derive(Default)]
struct Slot {
    idle: Mutex<Vec<Idle>>,
    /// Told when a connection comes back.
    returned: Notify,
    shared: Mutex<Vec<Shared>>,
    /// Of those who dial for connections that many share.
    turn: tokio::sync::Mutex<()>,
    /// Held by each connection, from when it is being opened.
    open: Arc<()>,
}

struct Idle {
    connection: Connection,
    since: Instant,
    life: Life,
}

/// Of a connection, from its first request to its last.
struct Life {
    made: Instant,
    served: u32,
    _room: Room,
}

/// A place among the connections that there may be.
struct Room {
    _taken: Option<Taken>,
    _open: Arc<()>,
}

struct Shared {
    connection: second::Connection,
    life: Life,
}

impl Upstreams {
    pub fn new(dialler: Dialler) -> Self {
        Self { dialler, slots: Arc::default() }
    }

    pub fn dialler(&self) -> &Dialler {
        &self.dialler
    }

    /// Sends a request over a connection that is there or a new one, and yields the response's head; its body comes as it is
    /// read. `service`: see [`Dialler::open`].
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn send(
        &self,
        endpoint: &Endpoint,
        version: Version,
        terms: &Terms,
        client: SocketAddr,
        service: Option<&Service>,
        request: Departing,
    ) -> Result<Answer, SendError> {
        let endpoint = &*endpoint.offering(version.alpn());
        let slot = self.slot(endpoint, version, service);
        match version {
            Version::Http1 => self.send_one(&slot, endpoint, terms, client, service, request).await,
            Version::Http2 => self.send_shared(&slot, endpoint, terms, client, service, request).await,
        }
    }

    /// Of connections like those that are asked for.
    fn slot(&self, endpoint: &Endpoint, version: Version, service: Option<&Service>) -> Arc<Slot> {
        let mut slots = self.lock();
        let there = slots.entry(endpoint.address).or_default();
        let is_it = |key: &Key| {
            key.version == version
                && key.named.as_ref() == service.map(|service| &service.key)
                && key.carriage == endpoint.carriage
        };
        if let Some((_, slot)) = there.iter().find(|(key, _)| is_it(key)) {
            return slot.clone();
        }
        let named = service.map(|service| service.key.clone());
        let slot = Arc::<Slot>::default();
        there.push((Key { carriage: endpoint.carriage.clone(), version, named }, slot.clone()));
        slot
    }

    async fn send_one(
        &self,
        slot: &Arc<Slot>,
        endpoint: &Endpoint,
        terms: &Terms,
        client: SocketAddr,
        service: Option<&Service>,
        request: Departing,
    ) -> Result<Answer, SendError> {
        let (connection, mut life) = loop {
            if let Some(Idle { connection, life, .. }) = slot.take(terms) {
                break (connection, life);
            }
            let _pending = terms.take(Limited::Pending)?;
            let Ok(room) = slot.room(terms) else {
                slot.wait(terms.connect_timeout).await?;
                continue;
            };
            // Rare, and large.
            let opening = self.dialler.open(endpoint, Some(client), service, terms.connect_timeout);
            let io = Box::pin(opening).await?;
            let io = Box::new(Impatient::new(io, terms.stream_idle));
            break (Connection::new(io), Life { made: Instant::now(), served: 0, _room: room });
        };
        life.served += 1;
        let returning = Returning { slot: slot.clone(), life: Some(life) };
        connection.send(request, returning, MOST_HEAD).await.map_err(|Lost { failed, sent }| match failed {
            Failed::Body(error) => SendError::Request(error),
            Failed::Head(_) => SendError::Protocol(failed.into()),
            Failed::Io(_) | Failed::Closed if sent => SendError::Lost(failed.into()),
            Failed::Io(_) | Failed::Closed => SendError::Unsent(failed.into()),
        })
    }

    async fn send_shared(
        &self,
        slot: &Arc<Slot>,
        endpoint: &Endpoint,
        terms: &Terms,
        client: SocketAddr,
        service: Option<&Service>,
        mut request: Departing,
    ) -> Result<Answer, SendError> {
        loop {
            if let Some(connection) = slot.usable(terms) {
                request = match connection.send(request).await {
                    Ok(answer) => return Ok(answer),
                    Err(second::Failed::Unopened(unsent)) => *unsent,
                    // It has done nothing with it (RFC 9113, section 8.7).
                    Err(second::Failed::Over(Over::Reset(Code::REFUSED_STREAM))) => {
                        return Err(SendError::RefusedStream);
                    }
                    Err(second::Failed::Over(over @ Over::Body)) => return Err(SendError::Request(over.into())),
                    Err(second::Failed::Length(wrong)) => return Err(SendError::Protocol(wrong.into())),
                    Err(second::Failed::Over(over)) => return Err(SendError::Lost(over.into())),
                };
                continue;
            }
            // Rare, and large.
            Box::pin(self.share_another(slot, endpoint, terms, client, service)).await?;
        }
    }

    /// Dials for a connection that many share, or waits until one has room.
    async fn share_another(
        &self,
        slot: &Arc<Slot>,
        endpoint: &Endpoint,
        terms: &Terms,
        client: SocketAddr,
        service: Option<&Service>,
    ) -> Result<(), SendError> {
        // One dials, the others wait for it.
        let _turn = slot.turn.lock().await;
        if slot.has_usable(terms) {
            return Ok(());
        }
        let _pending = terms.take(Limited::Pending)?;
        let room = match slot.room(terms) {
            Ok(room) => room,
            Err(overflow) => {
                let Some(busy) = slot.busy() else { return Err(overflow.into()) };
                tokio::time::timeout(terms.connect_timeout, busy.freed()).await.map_err(|_| overflow)?;
                return Ok(());
            }
        };
        let io = self.dialler.open(endpoint, Some(client), service, terms.connect_timeout).await?;
        let connection = second::Connection::start(io, MOST_HEAD as u32, terms.stream_idle);
        slot.shared().push(Shared { connection, life: Life { made: Instant::now(), served: 0, _room: room } });
        Ok(())
    }

    /// Forgets connections that have been idle for too long. To be called now and then.
    pub fn sweep(&self, idle: Duration) {
        let now = Instant::now();
        let is_used = |slot: &Arc<Slot>| {
            let mut unused = slot.idle();
            unused.retain_mut(|one| one.connection.is_alive() && now.duration_since(one.since) < idle);
            let mut shared = slot.shared();
            shared.retain(|one| !one.connection.is_closed());
            !(unused.is_empty() && shared.is_empty() && Arc::strong_count(slot) == 1)
        };
        self.lock().retain(|_, there| {
            there.retain(|(_, slot)| is_used(slot));
            !there.is_empty()
        });
        self.dialler.pool.sweep(now, |_| false);
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For one more connection. The first one here has it also where other workers and endpoints have used up the limit: nobody
    /// would return a connection to who waits for one here.
    fn room(&self, terms: &Terms) -> Result<Room, Overflow> {
        let open = self.open.clone();
        match terms.take(Limited::Connections) {
            Ok(taken) => Ok(Room { _taken: taken, _open: open }),
            // It and the slot's own.
            Err(_) if Arc::strong_count(&open) == 2 => Ok(Room { _taken: None, _open: open }),
            Err(overflow) => Err(overflow),
        }
    }

    /// For a connection that comes back.
    async fn wait(&self, most: Duration) -> Result<(), Overflow> {
        let returned = self.returned.notified();
        tokio::time::timeout(most, returned).await.map_err(|_| Overflow(Limited::Connections))
    }

    fn shared(&self) -> MutexGuard<'_, Vec<Shared>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that takes one more request, which is counted.
    fn usable(&self, terms: &Terms) -> Option<second::Connection> {
        let mut shared = self.shared();
        // What is replaced ends with its last stream.
        shared.retain(|one| !one.is_spent(terms));
        let one = shared.iter_mut().find(|one| one.may_serve(terms))?;
        one.life.served += 1;
        Some(one.connection.clone())
    }

    fn has_usable(&self, terms: &Terms) -> bool {
        self.shared().iter().any(|one| one.may_serve(terms))
    }

    /// A connection that carries as much as it may.
    fn busy(&self) -> Option<second::Connection> {
        self.shared().iter().find(|one| !one.connection.is_closed()).map(|one| one.connection.clone())
    }

    fn take(&self, terms: &Terms) -> Option<Idle> {
        loop {
            let mut idle = self.idle().pop()?;
            let now = Instant::now();
            let over = terms.idle_timeout.is_some_and(|most| now.duration_since(idle.since) >= most)
                || idle.life.is_over(terms, now);
            if !over && idle.connection.is_alive() {
                return Some(idle);
            }
        }
    }
}

impl Life {
    fn is_over(&self, terms: &Terms, now: Instant) -> bool {
        terms.max_age.is_some_and(|most| now.duration_since(self.made) >= most)
            || terms.max_requests.is_some_and(|most| self.served >= most)
    }
}

impl Shared {
    fn may_serve(&self, terms: &Terms) -> bool {
        self.connection.is_free() && !self.life.is_over(terms, Instant::now())
    }

    /// Whether it will never serve again.
    fn is_spent(&self, terms: &Terms) -> bool {
        self.connection.is_closed() || self.life.is_over(terms, Instant::now())
    }
}

/// Brings an HTTP/1.1 connection back once its answer has been read.
struct Returning {
    slot: Arc<Slot>,
    life: Option<Life>,
}

impl Keeper for Returning {
    fn keep(&mut self, connection: Connection) {
        if let Some(life) = self.life.take() {
            self.slot.idle().push(Idle { connection, since: Instant::now(), life });
            self.slot.returned.notify_one();
        }
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        // One that is lost makes room for another.
        if self.life.take().is_some() {
            self.slot.returned.notify_one();
        }
    }
}

/// Largest head of an answer: the reference's.
const MOST_HEAD: usize = 60 << 10;

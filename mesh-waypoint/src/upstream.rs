//! Connections to endpoints, kept for the next request.
//!
//! HTTP/1.1: a connection carries one exchange at a time and comes back when the response has been read whole. HTTP/2: one
//! connection carries all.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_core::l7::destination::Pool;
use mesh_core::service::Service;
use mesh_core::workload::ServiceKey;
use thiserror::Error;
use tokio::sync::Notify;
use tracing::debug;

use crate::body::{Body, BodyError};
use crate::dial::{Carriage, Dialler, Endpoint, Unreached};
use crate::engine::limits::{Breaker, Limited, Overflow, Taken};
use crate::http1::client::{Connection, Failed, Keeper, Lost};
use crate::message::{Answer, Departing};

/// How an endpoint is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    Http1,
    Http2,
}

/// What holds for connections to an endpoint.
#[derive(Clone, Debug)]
pub struct Terms {
    pub connect_timeout: Duration,
    pub idle_timeout: Option<Duration>,
    pub max_age: Option<Duration>,
    pub max_requests: Option<u32>,
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

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    address: SocketAddr,
    carriage: Carriage,
    version: Version,
    /// The endpoint's agent was told of it when the connection was made.
    named: Option<ServiceKey>,
}

/// The connections of one worker.
#[derive(Clone)]
pub struct Upstreams {
    dialler: Dialler,
    slots: Arc<Mutex<HashMap<Key, Arc<Slot>>>>,
}

#[derive(Default)]
struct Slot {
    idle: Mutex<Vec<Idle>>,
    /// Told when a connection comes back.
    returned: Notify,
    shared: tokio::sync::Mutex<Option<Shared>>,
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
    _taken: Option<Taken>,
}

struct Shared {
    sender: http2::SendRequest<Body>,
    made: Instant,
    served: u32,
    _taken: Option<Taken>,
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
        let named = service.map(|service| service.key.clone());
        let key = Key { address: endpoint.address, carriage: endpoint.carriage.clone(), version, named };
        let slot = self.lock().entry(key).or_default().clone();
        match version {
            Version::Http1 => self.send_one(&slot, endpoint, terms, client, service, request).await,
            Version::Http2 => self.send_shared(&slot, endpoint, terms, client, service, request).await,
        }
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
            let Ok(taken) = terms.take(Limited::Connections) else {
                slot.wait(terms.connect_timeout).await?;
                continue;
            };
            let io = self.dialler.open(endpoint, Some(client), service, terms.connect_timeout).await?;
            break (Connection::new(io), Life { made: Instant::now(), served: 0, _taken: taken });
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
        request: Departing,
    ) -> Result<Answer, SendError> {
        let mut request = second(request).ok_or_else(|| SendError::Protocol("no such target".into()))?;
        loop {
            let (mut sender, fresh) = {
                // One dials, the others wait for it.
                let mut shared = slot.shared.lock().await;
                match shared.as_mut().filter(|shared| shared.may_serve(terms)) {
                    Some(shared) => {
                        shared.served += 1;
                        (shared.sender.clone(), false)
                    }
                    None => {
                        let _pending = terms.take(Limited::Pending)?;
                        // The connection that this one replaces ends with its last stream.
                        *shared = None;
                        let taken = terms.take(Limited::Connections)?;
                        let io = self.dialler.open(endpoint, Some(client), service, terms.connect_timeout).await?;
                        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                            .timer(TokioTimer::new())
                            .initial_stream_window_size(1 << 20)
                            .initial_connection_window_size(8 << 20)
                            .max_frame_size(64 << 10)
                            .handshake(TokioIo::new(io))
                            .await
                            .map_err(|error| SendError::Unsent(error.into()))?;
                        tokio::spawn(async move {
                            if let Err(error) = connection.await {
                                debug!(%error, "connection to an endpoint ended");
                            }
                        });
                        *shared =
                            Some(Shared { sender: sender.clone(), made: Instant::now(), served: 1, _taken: taken });
                        (sender, true)
                    }
                }
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let response = response.map(|body| Body::stream(body.map_err(BodyError::from)));
                    return Ok(Answer { response, joined: None });
                }
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if !fresh => {
                        let mut shared = slot.shared.lock().await;
                        if shared.as_ref().is_some_and(|shared| shared.sender.is_closed()) {
                            *shared = None;
                        }
                        request = unsent;
                    }
                    Some(_) => return Err(SendError::Unsent(failed.into_error().into())),
                    None => return Err(lost(failed.into_error())),
                },
            }
        }
    }

    /// Forgets connections that have been idle for too long. To be called now and then.
    pub fn sweep(&self, idle: Duration) {
        let now = Instant::now();
        self.lock().retain(|_, slot| {
            let mut unused = slot.idle();
            unused.retain_mut(|one| one.connection.is_alive() && now.duration_since(one.since) < idle);
            let shared = slot.shared.try_lock().is_ok_and(|shared| shared.is_none());
            !(unused.is_empty() && shared && Arc::strong_count(slot) == 1)
        });
        self.dialler.pool.sweep(now, |_| false);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a connection that comes back.
    async fn wait(&self, most: Duration) -> Result<(), Overflow> {
        let returned = self.returned.notified();
        tokio::time::timeout(most, returned).await.map_err(|_| Overflow(Limited::Connections))
    }

    fn take(&self, terms: &Terms) -> Option<Idle> {
        loop {
            let mut idle = self.idle().pop()?;
            let now = Instant::now();
            let over = terms.idle_timeout.is_some_and(|most| now.duration_since(idle.since) >= most)
                || terms.max_age.is_some_and(|most| now.duration_since(idle.life.made) >= most)
                || terms.max_requests.is_some_and(|most| idle.life.served >= most);
            if !over && idle.connection.is_alive() {
                return Some(idle);
            }
        }
    }
}

impl Shared {
    fn may_serve(&self, terms: &Terms) -> bool {
        !self.sender.is_closed()
            && terms.max_age.is_none_or(|most| self.made.elapsed() < most)
            && terms.max_requests.is_none_or(|most| self.served < most)
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

fn second(request: Departing) -> Option<http::Request<Body>> {
    let Departing { method, authority, target, headers, body, .. } = request;
    let uri = http::Uri::builder().scheme("http").authority(authority).path_and_query(target).build().ok()?;
    let mut request = http::Request::new(body);
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
    *request.version_mut() = http::Version::HTTP_2;
    Some(request)
}

/// What became of a request that may have been sent.
fn lost(error: hyper::Error) -> SendError {
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        if let Some(h2) = inner.downcast_ref::<h2::Error>() {
            if h2.reason() == Some(h2::Reason::REFUSED_STREAM) {
                return SendError::RefusedStream;
            }
            break;
        }
        source = inner.source();
    }
    if error.is_parse() { SendError::Protocol(error.into()) } else { SendError::Lost(error.into()) }
}

/// Largest head of an answer: the reference's.
const MOST_HEAD: usize = 60 << 10;

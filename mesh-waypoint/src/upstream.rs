//! Connections to endpoints, kept for the next request.
//!
//! HTTP/1.1: a connection carries one exchange at a time and comes back when the response has been read whole. HTTP/2: one
//! connection carries all.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_core::l7::destination::Pool;
use mesh_core::service::Service;
use mesh_core::workload::ServiceKey;
use thiserror::Error;
use tokio::sync::Notify;
use tracing::debug;

use crate::body::{Body, BodyError, Watch, Watched};
use crate::dial::{Carriage, Dialler, Endpoint, Unreached};
use crate::engine::limits::{Breaker, Limited, Overflow, Taken};

/// How an endpoint is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    Unsent(#[source] hyper::Error),
    /// The endpoint said that it has done nothing with it (RFC 9113, section 8.7).
    #[error("the endpoint refused the stream")]
    RefusedStream,
    #[error("the connection was lost before a response came: {0}")]
    Lost(#[source] hyper::Error),
    #[error("the response breaks the protocol: {0}")]
    Protocol(#[source] hyper::Error),
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
    sender: http1::SendRequest<Body>,
    since: Instant,
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
        request: Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        let named = service.map(|service| service.key.clone());
        let endpoint = &*endpoint.offering(version.alpn());
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
        mut request: Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        loop {
            let (mut idle, fresh) = match slot.take(terms).await {
                Some(idle) => (idle, false),
                None => {
                    let _pending = terms.take(Limited::Pending)?;
                    let Ok(taken) = terms.take(Limited::Connections) else {
                        slot.wait(terms.connect_timeout).await?;
                        continue;
                    };
                    let io = self.dialler.open(endpoint, Some(client), service, terms.connect_timeout).await?;
                    let (sender, connection) =
                        http1::Builder::new().handshake(TokioIo::new(io)).await.map_err(SendError::Unsent)?;
                    tokio::spawn(async move {
                        if let Err(error) = connection.with_upgrades().await {
                            debug!(%error, "connection to an endpoint ended");
                        }
                    });
                    let now = Instant::now();
                    (Idle { sender, since: now, made: now, served: 0, _taken: taken }, true)
                }
            };
            idle.served += 1;
            match idle.sender.try_send_request(request).await {
                Ok(response) => {
                    let is_upgrade = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
                    let back = Returning { slot: slot.clone(), idle: (!is_upgrade).then_some(idle) };
                    let has_body = !response.body().is_end_stream();
                    return Ok(response.map(|body| match has_body {
                        true => Watched::new(body.map_err(boxed).boxed_unsync(), back).boxed_unsync(),
                        false => {
                            let mut back = back;
                            back.ended();
                            body.map_err(boxed).boxed_unsync()
                        }
                    }));
                }
                Err(mut failed) => match failed.take_message() {
                    // The endpoint had closed an idle connection: nothing has been sent.
                    Some(unsent) if !fresh => request = unsent,
                    Some(_) => return Err(SendError::Unsent(failed.into_error())),
                    None => return Err(lost(failed.into_error())),
                },
            }
        }
    }

    async fn send_shared(
        &self,
        slot: &Arc<Slot>,
        endpoint: &Endpoint,
        terms: &Terms,
        client: SocketAddr,
        service: Option<&Service>,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, SendError> {
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
                            .map_err(SendError::Unsent)?;
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
                Ok(response) => return Ok(response.map(|body| body.map_err(boxed).boxed_unsync())),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if !fresh => {
                        let mut shared = slot.shared.lock().await;
                        if shared.as_ref().is_some_and(|shared| shared.sender.is_closed()) {
                            *shared = None;
                        }
                        request = unsent;
                    }
                    Some(_) => return Err(SendError::Unsent(failed.into_error())),
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
            unused.retain(|one| !one.sender.is_closed() && now.duration_since(one.since) < idle);
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

    async fn take(&self, terms: &Terms) -> Option<Idle> {
        loop {
            let mut idle = self.idle().pop()?;
            let now = Instant::now();
            let over = terms.idle_timeout.is_some_and(|most| now.duration_since(idle.since) >= most)
                || terms.max_age.is_some_and(|most| now.duration_since(idle.made) >= most)
                || terms.max_requests.is_some_and(|most| idle.served >= most);
            if !over && idle.sender.ready().await.is_ok() {
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

/// Brings an HTTP/1.1 connection back once its response has been read.
struct Returning {
    slot: Arc<Slot>,
    idle: Option<Idle>,
}

impl Watch for Returning {
    fn passed(&mut self, _: usize) {}

    fn trailers(&mut self, _: &http::HeaderMap) {}

    fn ended(&mut self) {
        if let Some(mut idle) = self.idle.take()
            && !idle.sender.is_closed()
        {
            idle.since = Instant::now();
            self.slot.idle().push(idle);
        }
        self.slot.returned.notify_one();
    }

    fn failed(&mut self) {
        self.idle = None;
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        // One that is lost makes room for another.
        if self.idle.take().is_some() {
            self.slot.returned.notify_one();
        }
    }
}

fn boxed(error: hyper::Error) -> BodyError {
    error.into()
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
    if error.is_parse() { SendError::Protocol(error) } else { SendError::Lost(error) }
}

//! The dialling end: asks a peer for streams.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, StatusCode};
use mesh_core::identity::SpiffeId;
use thiserror::Error;

use super::early::{Early, Words};
use super::hbone::{self, Driven, Hbone, KeepAlive, Unopened};
use super::head::{self, Baggage, Head};
use super::stream::{Carrier, Stream};
use super::{Config, ConnectionError, lane};
use crate::http2::connection::Role;
use crate::http2::fields::{Fields, Pseudo};
use crate::tls::{ALPN_WEFT, ClientTls};

/// What two peers have agreed on.
pub enum Tunnel<D> {
    /// HBONE: many streams at once; `D` moves its bytes and must be polled until it ends. Its output says why it ended (`Ok`
    /// after an orderly end). Dropping it drops the connection.
    Shared(Connection, D),
    /// One stream after the other.
    Lane(Lane),
}

/// Begins a tunnel of the kind that the handshake agreed on. Nothing is waited for.
pub fn begin(
    tls: ClientTls,
    config: &Config,
) -> Tunnel<impl Future<Output = Result<(), ConnectionError>> + Send + 'static + use<>> {
    if tls.alpn() == ALPN_WEFT {
        return Tunnel::Lane(Lane::new(tls, config));
    }
    let (connection, driver) = Connection::new(tls, config);
    Tunnel::Shared(connection, driver)
}

/// An HBONE connection that streams are opened on. A cheap clone; ends when all clones and streams are gone.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    hbone: Arc<Hbone>,
    peer: SpiffeId,
    max_streams: usize,
    in_use: Arc<AtomicUsize>,
    draining: AtomicBool,
}

impl Connection {
    /// Starts the tunnel: see [`Tunnel::Shared`] for the future.
    pub fn new(
        tls: ClientTls,
        config: &Config,
    ) -> (Self, impl Future<Output = Result<(), ConnectionError>> + Send + 'static + use<>) {
        let tls = tls.into_inner();
        let peer = tls.peer().clone();
        let hbone = Hbone::new(tls, Role::Client, config);
        let shared = Shared {
            hbone: hbone.clone(),
            peer,
            max_streams: config.max_streams as usize,
            in_use: Arc::default(),
            draining: AtomicBool::new(false),
        };
        let driver = drive(Driver(hbone), KeepAlive::new(config));
        (Self { shared: Arc::new(shared) }, driver)
    }

    pub fn peer(&self) -> &SpiffeId {
        &self.shared.peer
    }

    /// Streams that may be opened without waiting: the smaller of the peer's limit and ours, less those in use. 0 once
    /// the connection drains or is closed.
    pub fn available(&self) -> usize {
        if self.is_closed() {
            return 0;
        }
        self.shared.hbone.available().min(self.shared.max_streams.saturating_sub(self.in_use()))
    }

    /// Streams of this connection that someone holds or is opening.
    pub fn in_use(&self) -> usize {
        self.shared.in_use.load(Ordering::Relaxed)
    }

    /// Whether no stream can be opened any more: it ended, or one side is draining it.
    pub fn is_closed(&self) -> bool {
        self.shared.draining.load(Ordering::Relaxed) || self.shared.hbone.is_closed()
    }

    /// Opens no new stream from here on; those that are open finish.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
        self.shared.hbone.unused();
    }

    /// Asks the peer for a stream to `head.authority` and waits for its answer, at most `timeout`. What `client` says
    /// meanwhile, is sent along; see [`ReplyHead::early`].
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(
        &self,
        head: &Head,
        timeout: Duration,
        client: Option<&mut dyn Early>,
    ) -> Result<(ReplyHead, Stream), OpenError> {
        let request = connect_request(head)?;
        if self.shared.draining.load(Ordering::Relaxed) {
            return Err(OpenError::GoAway);
        }
        let mut words = Words::of(client);
        // Boxed: only the opening needs it, and the caller's future lives as long as the stream.
        let exchange = Box::pin(self.exchange(request, &mut words));
        let opened = tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(OpenError::Timeout(timeout)));
        opened.map_err(|error| error.after(&words))
    }

    async fn exchange(&self, request: Fields, words: &mut Words<'_>) -> Result<(ReplyHead, Stream), OpenError> {
        let slot = hbone::Slot::take(self.shared.in_use.clone());
        let mut carried = poll_fn(|cx| self.shared.hbone.poll_open(cx, &request)).await?;
        carried.hold(slot);
        let fields = poll_fn(|cx| {
            carried.say(cx, words);
            carried.poll_reply(cx)
        })
        .await?;
        match fields.pseudo.status {
            Some(StatusCode::OK) => {
                let baggage = head::reply_baggage(head::texts(&fields.headers));
                let early = words.sent();
                Ok((ReplyHead { baggage, early }, Stream::new(Carrier::Hbone(Arc::new(carried)))))
            }
            Some(status) => Err(OpenError::Refused { status: status.as_u16() }),
            None => Err(OpenError::Reset),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.hbone.unused();
    }
}

fn connect_request(head: &Head) -> Result<Fields, OpenError> {
    head::check_authority(&head.authority).map_err(|_| OpenError::Head(head.authority.clone()))?;
    let authority = Some(Bytes::from(head.authority.clone()));
    let pseudo = Pseudo { method: Some(Method::CONNECT), authority, ..Pseudo::default() };
    Ok(Fields { pseudo, headers: head::headers(head.fields()) })
}

/// Ends the connection when nobody drives it any more.
struct Driver(Arc<Hbone>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.close();
    }
}

async fn drive(driver: Driver, mut alive: KeepAlive) -> Result<(), ConnectionError> {
    poll_fn(|cx| {
        loop {
            match driver.0.poll_drive(cx, &mut alive) {
                Poll::Ready(Ok(Driven::Over)) => return Poll::Ready(Ok(())),
                // A server asks for nothing; the connection has refused it.
                Poll::Ready(Ok(Driven::Asked)) => drop(driver.0.next_asked()),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// A lane: a connection that carries one stream after the other (docs/transport.md). Free, so that one may be asked for.
pub struct Lane {
    lane: Box<lane::Lane>,
    peer: Arc<SpiffeId>,
    /// Whoever asks for streams may note here until when it may do so.
    pub until: SystemTime,
}

/// Where a lane goes when its stream has ended in good order and it is free again.
pub trait Berth: Send + Sync + 'static {
    fn back(&self, lane: Lane);
}

impl Lane {
    fn new(tls: ClientTls, config: &Config) -> Self {
        let until = tls.peer_until();
        let tls = tls.into_inner();
        let peer = Arc::new(tls.peer().clone());
        Self { lane: Box::new(lane::Lane::new(tls, config)), peer, until }
    }

    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }

    /// Whether the peer still takes streams, as far as is known without waiting.
    pub fn is_usable(&mut self) -> bool {
        self.lane.is_usable()
    }

    /// Asks the peer for a stream to `head.authority` and waits for its answer, at most `timeout`. What `client` says
    /// meanwhile, is sent along; see [`ReplyHead::early`]. When the stream has ended or was
    /// refused, the lane goes to `berth`; in any other case it is closed.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(
        self,
        head: &Head,
        timeout: Duration,
        client: Option<&mut dyn Early>,
        berth: Arc<dyn Berth>,
    ) -> Result<(ReplyHead, Stream), OpenError> {
        let Self { mut lane, peer, until } = self;
        let mut words = Words::of(client);
        // Boxed: only the opening needs it, and the caller's future lives as long as the stream.
        let exchange = Box::pin(async {
            poll_fn(|cx| Poll::Ready(lane.ask(cx, head, &mut words))).await.map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidInput => OpenError::Head(head.authority.clone()),
                _ => OpenError::ConnectionLost,
            })?;
            let answer = poll_fn(|cx| lane.poll_answer(cx, &mut words)).await;
            let answer = answer.map_err(|_| OpenError::ConnectionLost)?;
            let (status, baggage) = answer.ok_or(OpenError::GoAway)?;
            Ok::<_, OpenError>((status, baggage, lane))
        });
        let answered = tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(OpenError::Timeout(timeout)));
        let (status, baggage, lane) = answered.map_err(|error| error.after(&words))?;
        let home = Home { berth, peer, until };
        if status != lane::OK {
            lane::Berth::back(&home, Some(lane));
            return Err(OpenError::Refused { status });
        }
        let carried = lane::Carried::new(lane, Arc::new(home));
        Ok((ReplyHead { baggage, early: words.sent() }, Stream::new(Carrier::Lane(Arc::new(carried)))))
    }

    /// Tells the peer that no further stream will be asked for, and closes.
    pub fn leave(self) {
        self.lane.leave();
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("peer", &self.peer).finish_non_exhaustive()
    }
}

struct Home {
    berth: Arc<dyn Berth>,
    peer: Arc<SpiffeId>,
    until: SystemTime,
}

impl lane::Berth for Home {
    fn back(&self, lane: Option<Box<lane::Lane>>) {
        if let Some(lane) = lane {
            self.berth.back(Lane { lane, peer: self.peer.clone(), until: self.until });
        }
    }
}

/// What the accepting side said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplyHead {
    pub baggage: Option<Baggage>,
    /// How many bytes of what the client said went along with the question: all, or none. They are the stream's first.
    pub early: usize,
}

/// Why a stream was not opened. All but [`OpenError::Unanswered`] say that nothing of the application's data has been
/// delivered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    #[error("the peer refused the stream with status {status}")]
    Refused { status: u16 },
    #[error("the peer reset the stream before answering")]
    Reset,
    /// The peer did not process the stream (GOAWAY below its number, or REFUSED_STREAM: RFC 9113, section 8.7).
    #[error("the connection is draining; the stream was not processed")]
    GoAway,
    #[error("the connection was lost before an answer")]
    ConnectionLost,
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// What the client had said may have been delivered: not to be repeated.
    #[error("the first bytes were sent and not answered: {0}")]
    Unanswered(Box<OpenError>),
    /// The head cannot be sent: a field has characters that HTTP does not allow.
    #[error("the authority {0:?} cannot be sent")]
    Head(String),
}

impl OpenError {
    /// The same, where the peer may have `words`.
    fn after(self, words: &Words<'_>) -> Self {
        match self {
            Self::Reset | Self::ConnectionLost | Self::Timeout(_) if words.sent() > 0 => {
                Self::Unanswered(Box::new(self))
            }
            other => other,
        }
    }

    /// A closed label for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused { status: 401 } => "tunnel_denied",
            Self::Refused { status: 503 } => "tunnel_unavailable",
            Self::Refused { .. } => "tunnel_refused",
            Self::Reset => "tunnel_reset",
            Self::GoAway => "tunnel_go_away",
            Self::ConnectionLost => "tunnel_connection_lost",
            Self::Timeout(_) => "tunnel_timeout",
            Self::Unanswered(why) => why.reason(),
            Self::Head(_) => "tunnel_head",
        }
    }
}

impl From<Unopened> for OpenError {
    fn from(unopened: Unopened) -> Self {
        match unopened {
            Unopened::Unseen => Self::GoAway,
            Unopened::Reset => Self::Reset,
            Unopened::Lost => Self::ConnectionLost,
        }
    }
}

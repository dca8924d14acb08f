//! The dialling end: opens streams on a connection to one peer.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode, Uri};
use mesh_core::identity::SpiffeId;
use thiserror::Error;

use super::head::{self, Baggage, Head};
use super::keepalive::KeepAlive;
use super::stream::Stream;
use super::{Config, ConnectionError};
use crate::tls::{ClientTls, Peered};

/// A connection that streams are opened on. A cheap clone; ends when all clones and streams are gone.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    shared: Arc<Shared>,
}

struct Shared {
    peer: SpiffeId,
    max_streams: usize,
    in_use: AtomicUsize,
    draining: AtomicBool,
}

impl Connection {
    /// Starts the tunnel. The returned future moves its bytes: it must be polled until it ends, and its output says why
    /// it ended (`Ok` after an orderly end). Dropping it drops the connection.
    ///
    /// # Errors
    /// The connection failed while the preface was written, or not even that within `config.handshake_timeout`.
    pub async fn handshake(
        tls: ClientTls,
        config: &Config,
    ) -> Result<(Self, impl Future<Output = Result<(), ConnectionError>> + Send + 'static + use<>), ConnectionError>
    {
        let tls = tls.into_inner();
        let peer = tls.peer().clone();
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(config.stream_window)
            .initial_connection_window_size(config.connection_window())
            .max_frame_size(config.max_frame)
            .max_header_list_size(config.max_head)
            .max_send_buffer_size(super::SEND_BUFFER)
            .initial_max_send_streams(INITIAL_STREAMS.min(config.max_streams as usize))
            .enable_push(false);
        let (sender, connection) = tokio::time::timeout(config.handshake_timeout, builder.handshake(tls))
            .await
            .map_err(|_| ConnectionError::Timeout(config.handshake_timeout))?
            .map_err(ConnectionError::from_h2)?;
        let shared = Shared {
            peer,
            max_streams: config.max_streams as usize,
            in_use: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
        };
        let driver = drive(connection, config.clone());
        Ok((Self { sender, shared: Arc::new(shared) }, driver))
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
        self.shared.max_streams.min(self.sender.current_max_send_streams()).saturating_sub(self.in_use())
    }

    /// Streams of this connection that someone holds or is opening.
    pub fn in_use(&self) -> usize {
        self.shared.in_use.load(Ordering::Relaxed)
    }

    /// Whether no stream can be opened any more: it ended, or one side is draining it.
    pub fn is_closed(&self) -> bool {
        let no_wake_up = &mut Context::from_waker(Waker::noop());
        self.shared.draining.load(Ordering::Relaxed)
            || matches!(self.sender.clone().poll_ready(no_wake_up), Poll::Ready(Err(_)))
    }

    /// Opens no new stream from here on; those that are open finish.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// Asks the peer for a stream to `head.authority` and waits for its answer, at most `timeout`.
    ///
    /// # Errors
    /// See [`OpenError`]. [`OpenError::GoAway`] is safe to repeat elsewhere.
    pub async fn open(&self, head: &Head, timeout: Duration) -> Result<(ReplyHead, Stream), OpenError> {
        let request = connect_request(head)?;
        if self.shared.draining.load(Ordering::Relaxed) {
            return Err(OpenError::GoAway);
        }
        // Boxed: only the opening needs it, and the caller's future lives as long as the stream.
        let exchange = Box::pin(self.exchange(request));
        tokio::time::timeout(timeout, exchange).await.map_err(|_| OpenError::Timeout(timeout))?
    }

    async fn exchange(&self, request: Request<()>) -> Result<(ReplyHead, Stream), OpenError> {
        let slot = Slot::take(self.shared.clone());
        // What fails before the request is queued was never seen by the peer.
        let mut sender = self.sender.clone().ready().await.map_err(|_| OpenError::GoAway)?;
        let (reply, send) = sender.send_request(request, false).map_err(|_| OpenError::GoAway)?;
        drop(sender);
        let reply = reply.await.map_err(|e| OpenError::from_h2(&e))?;
        if reply.status() != StatusCode::OK {
            return Err(OpenError::Refused { status: reply.status().as_u16() });
        }
        let (parts, recv) = reply.into_parts();
        let baggage = head::reply_baggage(&parts.headers);
        Ok((ReplyHead { baggage }, Stream::new(send, recv, Some(slot))))
    }
}

/// One stream's place among those in use.
pub(super) struct Slot(Arc<Shared>);

impl Slot {
    fn take(shared: Arc<Shared>) -> Self {
        shared.in_use.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

fn connect_request(head: &Head) -> Result<Request<()>, OpenError> {
    let bad = || OpenError::Head(head.authority.clone());
    head::check_authority(&head.authority).map_err(|_| bad())?;
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::try_from(&*head.authority).map_err(|_| bad())?;
    head.write_fields(request.headers_mut());
    Ok(request)
}

async fn drive(mut connection: h2::client::Connection<Peered, Bytes>, config: Config) -> Result<(), ConnectionError> {
    let mut keepalive = connection.ping_pong().map(|ping| KeepAlive::new(ping, &config));
    let mut connection = pin!(connection);
    poll_fn(|cx| {
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(ended.map_err(ConnectionError::from_h2));
        }
        match keepalive.as_mut().map_or(Poll::Pending, |k| k.poll(cx)) {
            Poll::Ready(waited) => Poll::Ready(Err(ConnectionError::Timeout(waited))),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// What the accepting side said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplyHead {
    pub baggage: Option<Baggage>,
}

/// Why a stream was not opened.
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
    /// The head cannot be sent: a field has characters that HTTP does not allow.
    #[error("the authority {0:?} cannot be sent")]
    Head(String),
}

impl OpenError {
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
            Self::Head(_) => "tunnel_head",
        }
    }

    fn from_h2(error: &h2::Error) -> Self {
        match () {
            () if error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM) => Self::GoAway,
            () if error.is_reset() => Self::Reset,
            () if error.is_go_away() && error.is_remote() => Self::GoAway,
            () => Self::ConnectionLost,
        }
    }
}

/// Streams before the peer's SETTINGS say how many: RFC 9113, section 6.5.2 recommends peers to allow no fewer.
const INITIAL_STREAMS: usize = 100;

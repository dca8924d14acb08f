//! The accepting end: yields the streams that one peer asks for.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Response, StatusCode};
use mesh_core::identity::SpiffeId;

use super::head::{self, Baggage, Head};
use super::keepalive::KeepAlive;
use super::stream::{Stream, StreamError};
use super::{Config, ConnectionError};
use crate::tls::{Peered, ServerTls};

/// A connection that a peer opens streams on. Its bytes move only while [`Connection::accept`] is polled.
pub struct Connection {
    peer: SpiffeId,
    /// `None` once it ended.
    open: Option<Box<Open>>,
}

struct Open {
    connection: h2::server::Connection<Peered, Bytes>,
    keepalive: Option<KeepAlive>,
}

impl Connection {
    /// # Errors
    /// No valid HTTP/2 preface within `config.handshake_timeout`.
    pub async fn handshake(tls: ServerTls, config: &Config) -> Result<Self, ConnectionError> {
        let tls = tls.into_inner();
        let peer = tls.peer().clone();
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(config.stream_window)
            .initial_connection_window_size(config.connection_window())
            .max_frame_size(config.max_frame)
            .max_header_list_size(config.max_head)
            .max_concurrent_streams(config.max_streams)
            .max_send_buffer_size(super::SEND_BUFFER)
            .max_concurrent_reset_streams(MAX_RESET_STREAMS)
            .max_pending_accept_reset_streams(MAX_UNSEEN_RESETS)
            .max_local_error_reset_streams(Some(MAX_ERROR_RESETS));
        let handshake = Box::pin(builder.handshake(tls));
        let mut connection = tokio::time::timeout(config.handshake_timeout, handshake)
            .await
            .map_err(|_| ConnectionError::Timeout(config.handshake_timeout))?
            .map_err(ConnectionError::from_h2)?;
        let keepalive = connection.ping_pong().map(|ping| KeepAlive::new(ping, config));
        Ok(Self { peer, open: Some(Box::new(Open { connection, keepalive })) })
    }

    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }

    /// The next stream that the peer asks for; `None` after an orderly end, or after an error was yielded. Cancel-safe.
    /// Requests that are no valid CONNECT are answered with 400 here.
    pub async fn accept(&mut self) -> Option<Result<Request, ConnectionError>> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Request, ConnectionError>>> {
        let Some(open) = &mut self.open else { return Poll::Ready(None) };
        let next = ready!(open.poll_next(cx, &self.peer));
        if !matches!(next, Some(Ok(_))) {
            self.open = None;
        }
        Poll::Ready(next)
    }

    /// Says GOAWAY: the peer opens no more streams, those that are open finish, and [`Connection::accept`], which must
    /// still be called, then yields `None`.
    pub fn drain(&mut self) {
        if let Some(open) = &mut self.open {
            open.connection.graceful_shutdown();
        }
    }
}

impl Open {
    fn poll_next(&mut self, cx: &mut Context<'_>, peer: &SpiffeId) -> Poll<Option<Result<Request, ConnectionError>>> {
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    if let Some(request) = Request::read(request, respond, peer) {
                        return Poll::Ready(Some(Ok(request)));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(ConnectionError::from_h2(error)))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    let silence = ready!(self.keepalive.as_mut().map_or(Poll::Pending, |k| k.poll(cx)));
                    return Poll::Ready(Some(Err(ConnectionError::Timeout(silence))));
                }
            }
        }
    }
}

/// A stream that the peer asks for and nobody has answered. Dropped, it is reset.
pub struct Request {
    head: Head,
    peer: SpiffeId,
    ignored_headers: u32,
    respond: SendResponse<Bytes>,
    recv: RecvStream,
}

impl Request {
    /// `None` for what is no valid CONNECT, which is answered then.
    fn read(request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>, peer: &SpiffeId) -> Option<Self> {
        let (parts, recv) = request.into_parts();
        let authority = parts.uri.authority().map_or("", |a| a.as_str());
        let head = match parts.method {
            Method::CONNECT => Head::from_fields(authority, &parts.headers).ok(),
            _ => None,
        };
        let Some((head, ignored_headers)) = head else {
            answer(&mut respond, Status::BadRequest);
            return None;
        };
        Some(Self { head, peer: peer.clone(), ignored_headers, respond, recv })
    }

    pub fn head(&self) -> &Head {
        &self.head
    }

    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }

    /// Optional headers that were malformed and therefore left out of the head.
    pub fn ignored_headers(&self) -> u32 {
        self.ignored_headers
    }

    /// Answers 200, with the destination's baggage.
    ///
    /// # Errors
    /// The peer reset the stream or the connection is gone.
    pub fn accept(mut self, baggage: Option<&Baggage>) -> Result<Stream, StreamError> {
        let mut reply = Response::new(());
        if let Some(baggage) = baggage {
            head::write_reply_baggage(baggage, reply.headers_mut());
        }
        let send = self.respond.send_response(reply, false).map_err(|e| match e.is_go_away() || e.is_io() {
            true => StreamError::ConnectionLost,
            false => StreamError::Reset,
        })?;
        Ok(Stream::new(send, self.recv, None))
    }

    /// Answers with an error status and ends the stream. Why is said in our log, never to the peer.
    pub fn refuse(mut self, status: Status) {
        answer(&mut self.respond, status);
    }
}

fn answer(respond: &mut SendResponse<Bytes>, status: Status) {
    let mut reply = Response::new(());
    *reply.status_mut() = match status {
        Status::BadRequest => StatusCode::BAD_REQUEST,
        Status::Denied => StatusCode::UNAUTHORIZED,
        Status::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    };
    // A peer that reset the stream needs no answer.
    let _ = respond.send_response(reply, true);
}

/// How a stream is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 400: not CONNECT, or an authority that is not of this workload.
    BadRequest,
    /// 401: policy.
    Denied,
    /// 503: the destination refused the connection, or is not ready.
    Unavailable,
}

impl Status {
    pub fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Denied => 401,
            Self::Unavailable => 503,
        }
    }
}

/// Streams that we reset and still remember, so that late frames for them are no protocol error.
const MAX_RESET_STREAMS: usize = 50;
/// Streams at once that a peer opened and reset before anyone saw them: rapid reset (CVE-2023-44487) costs the peer its
/// connection.
const MAX_UNSEEN_RESETS: usize = 20;
/// Streams that we may have had to reset for the peer's mistakes, a connection's life long.
const MAX_ERROR_RESETS: usize = 100;

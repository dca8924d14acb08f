//! The accepting end: yields the streams that one peer asks for.

use mesh_core::identity::SpiffeId;

use super::head::{Baggage, Head};
use super::stream::{Stream, StreamError};
use super::{Config, ConnectionError};
use crate::tls::ServerTls;

/// A connection that a peer opens streams on. Its bytes move only while [`Connection::accept`] is polled.
pub struct Connection {
    peer: SpiffeId,
}

impl Connection {
    /// # Errors
    /// No valid HTTP/2 preface within `config.handshake_timeout`.
    pub async fn handshake(_tls: ServerTls, _config: &Config) -> Result<Self, ConnectionError> {
        todo!()
    }

    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }

    /// The next stream that the peer asks for; `None` after an orderly end. Cancel-safe. Requests that are no valid
    /// CONNECT are answered with 400 here.
    pub async fn accept(&mut self) -> Option<Result<Request, ConnectionError>> {
        todo!()
    }

    /// Says GOAWAY: the peer opens no more streams, those that are open finish, and [`Connection::accept`], which must
    /// still be called, then yields `None`.
    pub fn drain(&mut self) {
        todo!()
    }
}

/// A stream that the peer asks for and nobody has answered. Dropped, it is reset.
pub struct Request {
    head: Head,
    peer: SpiffeId,
}

impl Request {
    pub fn head(&self) -> &Head {
        &self.head
    }

    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }

    /// Optional headers that were malformed and therefore left out of the head.
    pub fn ignored_headers(&self) -> u32 {
        todo!()
    }

    /// Answers 200, with the destination's baggage.
    ///
    /// # Errors
    /// The peer reset the stream or the connection is gone.
    pub fn accept(self, _baggage: Option<&Baggage>) -> Result<Stream, StreamError> {
        todo!()
    }

    /// Answers with an error status and ends the stream. Why is said in our log, never to the peer.
    pub fn refuse(self, _status: Status) {
        todo!()
    }
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

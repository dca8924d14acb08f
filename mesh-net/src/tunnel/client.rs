//! The dialling end: opens streams on a connection to one peer.

use std::time::Duration;

use mesh_core::identity::SpiffeId;
use thiserror::Error;

use super::head::{Baggage, Head};
use super::stream::Stream;
use super::{Config, ConnectionError};
use crate::tls::ClientTls;

/// A connection that streams are opened on. A cheap clone; ends when all clones and streams are gone.
#[derive(Clone)]
pub struct Connection {
    peer: SpiffeId,
}

impl Connection {
    /// Starts the tunnel. The returned future moves its bytes: it must be polled until it ends, and its output says why
    /// it ended (`Ok` after an orderly end).
    ///
    /// # Errors
    /// The connection failed while the preface was written.
    pub async fn handshake(
        _tls: ClientTls,
        _config: &Config,
    ) -> Result<(Self, impl Future<Output = Result<(), ConnectionError>> + Send + 'static + use<>), ConnectionError> {
        if true {
            todo!()
        }
        Ok((todo!(), async { Ok(()) }))
    }

    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }

    /// Streams that may be opened without waiting: the smaller of the peer's limit and ours, less those in use. 0 once
    /// the connection drains or is closed.
    pub fn available(&self) -> usize {
        todo!()
    }

    /// Streams of this connection that someone holds or is opening.
    pub fn in_use(&self) -> usize {
        todo!()
    }

    /// Whether no stream can be opened any more: it ended, or one side is draining it.
    pub fn is_closed(&self) -> bool {
        todo!()
    }

    /// Opens no new stream from here on; those that are open finish.
    pub fn drain(&self) {
        todo!()
    }

    /// Asks the peer for a stream to `head.authority` and waits for its answer, at most `timeout`.
    ///
    /// # Errors
    /// See [`OpenError`]. [`OpenError::GoAway`] is safe to repeat elsewhere.
    pub async fn open(&self, _head: &Head, _timeout: Duration) -> Result<(ReplyHead, Stream), OpenError> {
        todo!()
    }
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
}

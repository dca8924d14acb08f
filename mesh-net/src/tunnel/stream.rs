//! One byte stream of a tunnel: two halves that end independently, each with flow control.

use bytes::Bytes;
use thiserror::Error;

/// A byte stream to or from the peer's application.
pub struct Stream {
    send: SendHalf,
    recv: RecvHalf,
}

impl Stream {
    pub fn split(self) -> (SendHalf, RecvHalf) {
        (self.send, self.recv)
    }
}

/// The half that sends. Dropped before [`SendHalf::finish`], it resets the stream.
pub struct SendHalf {}

impl SendHalf {
    /// Waits until at least one byte may be sent; yields how many may, at most `max`.
    ///
    /// Credit that is not used is held back from the connection's other streams: ask when bytes are in hand.
    ///
    /// # Errors
    /// The peer reset the stream or the connection is gone.
    pub async fn ready(&mut self, _max: usize) -> Result<usize, StreamError> {
        todo!()
    }

    /// Sends `data`; what exceeds the credit is buffered, without bound: stay within what [`SendHalf::ready`] yielded.
    ///
    /// # Errors
    /// The peer reset the stream or the connection is gone.
    pub fn send(&mut self, _data: Bytes) -> Result<(), StreamError> {
        todo!()
    }

    /// Sends `data` and half-closes in the same frame.
    ///
    /// # Errors
    /// The peer reset the stream or the connection is gone.
    pub fn send_last(&mut self, _data: Bytes) -> Result<(), StreamError> {
        todo!()
    }

    /// Half-closes: the peer's reader sees the end after the bytes sent so far.
    pub fn finish(&mut self) {
        todo!()
    }

    /// Resets the stream, both halves.
    pub fn reset(self) {
        todo!()
    }

    /// Waits until the peer resets the stream or the connection is gone.
    pub async fn closed_by_peer(&mut self) -> StreamError {
        todo!()
    }
}

/// The half that receives. Dropped before the end was seen, it resets the stream.
pub struct RecvHalf {}

impl RecvHalf {
    /// The next bytes, `None` after the peer's half-close. Cancel-safe. Each byte holds the peer's credit until it is
    /// given back with [`RecvHalf::release`].
    ///
    /// # Errors
    /// The peer reset the stream or the connection is gone.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, StreamError> {
        todo!()
    }

    /// Gives `n` received bytes of credit back to the peer. More than was received counts as all.
    pub fn release(&mut self, _n: usize) {
        todo!()
    }
}

/// Why a stream ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StreamError {
    #[error("the peer reset the stream")]
    Reset,
    #[error("the connection was lost")]
    ConnectionLost,
}

impl StreamError {
    /// A closed label for logs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Reset => "stream_reset",
            Self::ConnectionLost => "stream_connection_lost",
        }
    }
}

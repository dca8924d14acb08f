//! One byte stream of a tunnel: two halves that end independently, each with flow control.
//!
//! ```text
//! SendHalf:  open --finish--> finished          open --drop, reset--> RST_STREAM
//! RecvHalf:  open --recv yields None--> ended   open --drop--> RST_STREAM
//! ```

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use thiserror::Error;

use super::client::Slot;

/// A byte stream to or from the peer's application.
pub struct Stream {
    send: SendHalf,
    recv: RecvHalf,
}

impl Stream {
    pub(super) fn new(send: SendStream<Bytes>, recv: RecvStream, slot: Option<Slot>) -> Self {
        let shared = Arc::new(Shared { send: Mutex::new(send), _slot: slot });
        Self {
            send: SendHalf { shared: shared.clone(), finished: false, unsent: Arc::default() },
            recv: RecvHalf { shared, recv, ended: false },
        }
    }

    pub fn split(self) -> (SendHalf, RecvHalf) {
        (self.send, self.recv)
    }
}

struct Shared {
    /// Behind a lock because either half may reset the stream; both usually live in one task.
    send: Mutex<SendStream<Bytes>>,
    _slot: Option<Slot>,
}

impl Shared {
    fn send(&self) -> MutexGuard<'_, SendStream<Bytes>> {
        self.send.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The half that sends. Dropped before [`SendHalf::finish`], it resets the stream.
pub struct SendHalf {
    shared: Arc<Shared>,
    finished: bool,
    /// Shared with every chunk that has not left for the connection yet.
    unsent: Arc<()>,
}

/// A chunk on its way; when the HTTP/2 layer has written it, it drops it.
struct Chunk {
    data: Bytes,
    _unsent: Arc<()>,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl SendHalf {
    /// Waits until at least one byte may be sent; yields how many may, at most `max` (0 counts as 1). Cancel-safe.
    ///
    /// Credit that is not used is held back from the connection's other streams: ask when bytes are in hand.
    ///
    /// # Errors
    /// The peer reset the stream or the connection is gone.
    pub async fn ready(&mut self, max: usize) -> Result<usize, StreamError> {
        poll_fn(|cx| self.poll_ready(cx, max)).await
    }

    /// [`SendHalf::ready`] for a caller with a `Context`. A wake-up that is asked for here replaces the one of
    /// [`SendHalf::poll_closed_by_peer`], so poll both from one task.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<Result<usize, StreamError>> {
        let max = max.clamp(1, MAX_CREDIT);
        let mut send = self.shared.send();
        send.reserve_capacity(max);
        loop {
            let credit = send.capacity().min(max);
            if credit > 0 {
                return Poll::Ready(Ok(credit));
            }
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(why_ended(&mut send))),
            }
        }
    }

    /// Sends `data`; what exceeds the credit is buffered, without bound: stay within what [`SendHalf::ready`] yielded.
    ///
    /// # Errors
    /// The peer reset the stream or the connection is gone.
    pub fn send(&mut self, data: Bytes) -> Result<(), StreamError> {
        let data = Bytes::from_owner(Chunk { data, _unsent: self.unsent.clone() });
        let mut send = self.shared.send();
        send.send_data(data, false).map_err(|_| why_ended(&mut send))
    }

    /// Sends `data` and half-closes in the same frame.
    ///
    /// # Errors
    /// The peer reset the stream or the connection is gone.
    pub fn send_last(&mut self, data: Bytes) -> Result<(), StreamError> {
        self.finished = true;
        let mut send = self.shared.send();
        send.send_data(data, true).map_err(|_| why_ended(&mut send))
    }

    /// Half-closes: the peer's reader sees the end after the bytes sent so far. A second call does nothing.
    pub fn finish(&mut self) {
        if !self.finished {
            // A stream that is gone already needs no end; whoever reads it hears of that.
            let _ = self.send_last(Bytes::new());
        }
    }

    /// Waits until everything sent has left for the connection, `limit` at most. To be called before a reset that must not
    /// overtake what was sent before it: RST_STREAM discards what is still queued.
    pub async fn flush(&self, limit: Duration) {
        let until = tokio::time::Instant::now() + limit;
        while Arc::strong_count(&self.unsent) > 1 && tokio::time::Instant::now() < until {
            tokio::time::sleep(FLUSH_POLL).await;
        }
    }

    /// Resets the stream, both halves.
    pub fn reset(mut self) {
        self.finished = true;
        self.shared.send().send_reset(Reason::CANCEL);
    }

    /// Waits until the peer resets the stream or the connection is gone. Never ends on a stream that both sides
    /// finished. Cancel-safe.
    pub async fn closed_by_peer(&mut self) -> StreamError {
        poll_fn(|cx| self.poll_closed_by_peer(cx)).await
    }

    pub fn poll_closed_by_peer(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        self.shared.send().poll_reset(cx).map(|r| r.map_or(StreamError::ConnectionLost, |_| StreamError::Reset))
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.send().send_reset(Reason::CANCEL);
        }
    }
}

/// Resets are rare and a queue that is not stuck empties within one turn of the connection's task.
const FLUSH_POLL: Duration = Duration::from_millis(1);

/// The half that receives. Dropped before the end was seen, it resets the stream.
pub struct RecvHalf {
    shared: Arc<Shared>,
    recv: RecvStream,
    ended: bool,
}

impl RecvHalf {
    /// The next bytes, `None` after the peer's half-close. Cancel-safe. Each byte holds the peer's credit until it is
    /// given back with [`RecvHalf::release`].
    ///
    /// # Errors
    /// The peer reset the stream or the connection is gone.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, StreamError> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        loop {
            return Poll::Ready(match ready!(self.recv.poll_data(cx)) {
                // RFC 9113 allows empty frames; to a reader they are nothing.
                Some(Ok(data)) if data.is_empty() => continue,
                Some(Ok(data)) => Ok(Some(data)),
                Some(Err(error)) => {
                    self.ended = true;
                    Err(if error.is_reset() { StreamError::Reset } else { StreamError::ConnectionLost })
                }
                None => {
                    self.ended = true;
                    Ok(None)
                }
            });
        }
    }

    /// Gives `n` received bytes of credit back to the peer, who is told once it amounts to half a window. More than
    /// was received counts as all.
    pub fn release(&mut self, n: usize) {
        let credit = self.recv.flow_control();
        let n = n.min(credit.used_capacity());
        if n > 0 {
            // It fails only for more than is used.
            let _ = credit.release_capacity(n);
        }
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        if !self.ended && !self.recv.is_end_stream() {
            self.shared.send().send_reset(Reason::CANCEL);
        }
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

/// The codec's send errors do not say whether the stream or the connection ended; its reset state does.
fn why_ended(send: &mut SendStream<Bytes>) -> StreamError {
    match send.poll_reset(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Err(_)) => StreamError::ConnectionLost,
        Poll::Ready(Ok(_)) | Poll::Pending => StreamError::Reset,
    }
}

/// Credit that one stream may hold at once, in bytes, of what its connection has.
const MAX_CREDIT: usize = 1 << 20;

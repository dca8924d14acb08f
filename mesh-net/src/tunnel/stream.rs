//! One byte stream of a tunnel: two halves that end independently.
//!
//! ```text
//! SendHalf:  open --finish--> finished          open --drop, reset--> the stream is given up
//! RecvHalf:  open --the peer's end--> ended     open --drop--> the stream is given up
//! ```
//!
//! Both ends of a tunnel move bytes without copying them: [`SendHalf::send_from`] lets the caller read into the place where
//! they are sealed, [`RecvHalf::write_to`] shows the caller where they were opened.

use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use super::{hbone, lane};
use crate::tls::budget::Leave;

/// A byte stream to or from the peer's application.
pub struct Stream {
    carrier: Carrier,
}

/// How it is carried. Each half has one.
#[derive(Clone)]
pub(super) enum Carrier {
    Hbone(Arc<hbone::Carried>),
    Lane(Arc<lane::Carried>),
}

macro_rules! carried {
    ($carrier:expr, $each:ident => $what:expr) => {
        match $carrier {
            Carrier::Hbone($each) => $what,
            Carrier::Lane($each) => $what,
        }
    };
}

/// What a reader found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// How much it filled, from the first place on.
    pub bytes: usize,
    /// Nothing follows.
    pub end: bool,
}

impl Stream {
    pub(super) fn new(carrier: Carrier) -> Self {
        Self { carrier }
    }

    pub fn split(self) -> (SendHalf, RecvHalf) {
        let send = SendHalf { carrier: self.carrier.clone(), finished: false };
        (send, RecvHalf { carrier: self.carrier, ended: false })
    }
}

/// The half that sends. Dropped before [`SendHalf::finish`], it gives the stream up.
pub struct SendHalf {
    carrier: Carrier,
    finished: bool,
}

impl SendHalf {
    /// Waits until something may be sent. Cancel-safe. Ask when bytes are in hand: others may wait for the same socket.
    ///
    /// # Errors
    /// The peer gave the stream up or the connection is gone.
    pub async fn ready(&mut self) -> Result<(), StreamError> {
        poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// [`SendHalf::ready`] for a caller with a `Context`. A wake-up that is asked for here replaces the one of
    /// [`SendHalf::closed_by_peer`], so poll both from one task.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        carried!(&self.carrier, c => c.poll_ready(cx))
    }

    /// Lets `read` fill places for up to `most` bytes and sends what it says, with the end of this half if it says that
    /// nothing follows. What `read` fails with comes back as the inner error, and nothing was sent. To be called when
    /// [`SendHalf::ready`] said so.
    ///
    /// # Errors
    /// The peer gave the stream up or the connection is gone.
    pub fn send_from(
        &mut self,
        most: usize,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<Filled>,
    ) -> Result<io::Result<Filled>, StreamError> {
        let sent = carried!(&self.carrier, c => c.send_from(most, read))?;
        self.finished |= sent.as_ref().is_ok_and(|filled| filled.end);
        Ok(sent)
    }

    /// Sends all of `data`, waiting as needed. Not cancel-safe: some of it may have been sent.
    ///
    /// # Errors
    /// The peer gave the stream up or the connection is gone.
    pub async fn send(&mut self, mut data: &[u8]) -> Result<(), StreamError> {
        while !data.is_empty() {
            self.ready().await?;
            let sent = self.send_from(data.len(), |places| {
                let mut bytes = 0;
                for place in places {
                    let some = place.len().min(data.len() - bytes);
                    place[..some].copy_from_slice(&data[bytes..bytes + some]);
                    bytes += some;
                }
                Ok(Filled { bytes, end: false })
            })?;
            data = &data[sent.map_or(0, |filled| filled.bytes)..];
        }
        Ok(())
    }

    /// Half-closes: the peer's reader sees the end after the bytes sent so far. A second call does nothing.
    pub fn finish(&mut self) {
        if !self.finished {
            self.finished = true;
            carried!(&self.carrier, c => c.finish());
        }
    }

    /// Waits until the socket has taken everything sent. To be called before this half is dropped or reset, lest what was sent
    /// is lost.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn flushed(&mut self) -> Result<(), StreamError> {
        poll_fn(|cx| self.poll_flushed(cx)).await
    }

    /// [`SendHalf::flushed`] for a caller with a `Context`.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match &self.carrier {
            Carrier::Lane(lane) => lane.poll_ready(cx),
            Carrier::Hbone(hbone) => hbone.poll_flushed(cx),
        }
    }

    /// [`SendHalf::flushed`] with a limit, before a reset that must not overtake what was sent before it.
    pub async fn flush(&mut self, limit: Duration) {
        // What has not left by then is lost with the stream.
        let _ = tokio::time::timeout(limit, self.flushed()).await;
    }

    /// Gives the stream up, both halves.
    pub fn reset(mut self) {
        self.finished = true;
        carried!(&self.carrier, c => c.reset());
    }

    /// Waits until the peer gives the stream up or the connection is gone, also while nobody receives. Never ends on a
    /// stream that both sides finished. Cancel-safe.
    pub async fn closed_by_peer(&mut self) -> StreamError {
        match &self.carrier {
            Carrier::Hbone(hbone) => poll_fn(|cx| hbone.poll_over(cx)).await,
            Carrier::Lane(lane) => lane.broken().await,
        }
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        if !self.finished {
            carried!(&self.carrier, c => c.reset());
        }
    }
}

/// The half that receives. Dropped before the end was seen, it gives the stream up.
pub struct RecvHalf {
    carrier: Carrier,
    ended: bool,
}

impl RecvHalf {
    /// Waits until something has come: see [`RecvHalf::write_to`]. False after the peer's half-close. Cancel-safe.
    ///
    /// # Errors
    /// The peer gave the stream up or the connection is gone.
    pub async fn ready(&mut self) -> Result<bool, StreamError> {
        poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// [`RecvHalf::ready`] for a caller with a `Context`.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, StreamError>> {
        let arrived = ready!(carried!(&self.carrier, c => c.poll_arrived(cx)));
        self.ended |= !matches!(arrived, Ok(true));
        Poll::Ready(arrived)
    }

    /// Shows `write` what has come, in pieces, and takes away as much as it says to have written: the peer may send as
    /// much more.
    ///
    /// # Errors
    /// Those of `write`; nothing is taken away.
    pub fn write_to(&mut self, write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<usize> {
        carried!(&self.carrier, c => c.write_to(write))
    }

    /// Says that what came is not taken for now, until the returned value is dropped. What it is kept in may be wanted elsewhere.
    pub fn untaken(&mut self) -> Untaken {
        let leave = Leave::largest();
        if let (None, Carrier::Lane(lane)) = (&leave, &self.carrier) {
            lane.put_aside();
        }
        Untaken { _leave: leave }
    }

    /// The next bytes, `None` after the peer's half-close. Cancel-safe.
    ///
    /// # Errors
    /// The peer gave the stream up or the connection is gone.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, StreamError> {
        match self.ready().await? {
            true => Ok(carried!(&self.carrier, c => c.take())),
            false => Ok(None),
        }
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        if !self.ended {
            carried!(&self.carrier, c => c.reset());
        }
    }
}

/// See [`RecvHalf::untaken`].
pub struct Untaken {
    _leave: Option<Leave>,
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

//! One stream, in the hands of whoever reads and writes it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};

use super::arrivals::Over;
use super::{Hbone, Side, State, Unopened};
use crate::http2::fields::Fields;
use crate::http2::frame::{Code, HEAD};
use crate::tls::link::{Link, MOST};
use crate::tunnel::early::{self, Words};
use crate::tunnel::stream::{Filled, StreamError};

/// One stream.
pub(in crate::tunnel) struct Carried {
    shared: Arc<Hbone>,
    stream: u32,
    slot: Option<Slot>,
}

impl Carried {
    pub(super) fn new(shared: Arc<Hbone>, stream: u32) -> Self {
        Self { shared, stream, slot: None }
    }

    /// Counts as one in use for as long as it lives.
    pub(in crate::tunnel) fn hold(&mut self, slot: Slot) {
        self.slot = Some(slot);
    }

    /// The peer's reply, when it has come.
    pub(in crate::tunnel) fn poll_reply(&self, cx: &mut Context<'_>) -> Poll<Result<Box<Fields>, Unopened>> {
        let mut state = self.shared.lock();
        let Some(arrivals) = state.streams.get_mut(&self.stream) else { return Poll::Ready(Err(Unopened::Lost)) };
        match (&arrivals.reply, arrivals.over) {
            (Some(_), _) => Poll::Ready(Ok(arrivals.reply.replace(Box::default()).unwrap_or_default())),
            (None, Some(Over::Reset(Code::REFUSED_STREAM))) => Poll::Ready(Err(Unopened::Unseen)),
            (None, Some(Over::Reset(_))) => Poll::Ready(Err(Unopened::Reset)),
            (None, Some(Over::Lost)) => Poll::Ready(Err(Unopened::Lost)),
            (None, None) => {
                arrivals.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Answers what the peer asked for.
    pub(in crate::tunnel) fn reply(&self, fields: &Fields, end: bool) -> Result<(), StreamError> {
        let mut state = self.shared.lock();
        state.alive(self.stream)?;
        state.http.reply(self.stream, fields, end);
        state.settle();
        Ok(())
    }

    /// Sends what the client has said before the stream is open, if the socket takes it. The peer hands it on once it has
    /// answered (RFC 9113, section 8.5).
    pub(in crate::tunnel) fn say(&self, cx: &mut Context<'_>, words: &mut Words<'_>) {
        let room = self.shared.lock().http.credit(self.stream) >= early::MOST;
        if !room || !matches!(self.poll_ready(cx), Poll::Ready(Ok(()))) {
            return;
        }
        // Whoever waits for the answer hears of a connection that is lost.
        let _ = words.poll(cx, |said| {
            self.send_from(said.len(), |places| {
                places[0][..said.len()].copy_from_slice(said);
                Ok(Filled { bytes: said.len(), end: false })
            })
        });
    }

    pub(in crate::tunnel) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let mut state = self.shared.lock();
        state.alive(self.stream)?;
        let credit = state.http.credit(self.stream) > 0;
        let flushed = state.link.as_ref().is_some_and(Link::is_flushed) || {
            state.settle();
            state.link.as_ref().is_some_and(Link::is_flushed)
        };
        if credit && flushed {
            return Poll::Ready(Ok(()));
        }
        if credit {
            state.queue(self.stream);
        }
        if let Some(arrivals) = state.streams.get_mut(&self.stream) {
            arrivals.sender = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Ready once the socket has taken what was sent on this stream.
    pub(in crate::tunnel) fn poll_flushed(&self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let mut state = self.shared.lock();
        state.settle();
        let flushed = state.link.as_ref().is_some_and(Link::is_flushed);
        let emptied = state.emptied;
        if state.is_over() && !flushed {
            return Poll::Ready(Err(StreamError::ConnectionLost));
        }
        let Some(arrivals) = state.streams.get_mut(&self.stream) else {
            return Poll::Ready(Err(StreamError::ConnectionLost));
        };
        // What others have sent since then waits behind it.
        if flushed || emptied > *arrivals.flushing.get_or_insert(emptied) {
            arrivals.flushing = None;
            return Poll::Ready(Ok(()));
        }
        arrivals.sender = Some(cx.waker().clone());
        state.queue(self.stream);
        Poll::Pending
    }

    pub(in crate::tunnel) fn send_from(
        &self,
        most: usize,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<Filled>,
    ) -> Result<io::Result<Filled>, StreamError> {
        let mut state = self.shared.lock();
        state.alive(self.stream)?;
        state.settle();
        let State { link: Some(link), http, .. } = &mut *state else { return Err(StreamError::ConnectionLost) };
        let most = most.min(http.credit(self.stream));
        let end = Cell::new(false);
        let sent = link.send_from(
            HEAD,
            most,
            |places| {
                let filled = read(places)?;
                end.set(filled.end);
                Ok(filled.bytes)
            },
            |head, length, last| head.copy_from_slice(&http.data_head(self.stream, length, last && end.get())),
        );
        match sent {
            Ok(Ok(bytes)) => {
                if bytes == 0 && end.get() {
                    http.end(self.stream);
                    state.settle();
                }
                if state.link.as_ref().is_some_and(Link::is_flushed) {
                    state.wake_senders();
                } else {
                    state.wake_driver();
                }
                Ok(Ok(Filled { bytes, end: end.get() }))
            }
            Ok(Err(error)) => Ok(Err(error)),
            Err(_) => {
                state.side = Side::Broken;
                state.wake_driver();
                Err(StreamError::ConnectionLost)
            }
        }
    }

    pub(in crate::tunnel) fn finish(&self) {
        let mut state = self.shared.lock();
        state.http.end(self.stream);
        state.settle();
    }

    /// Gives the stream up; what was sent before goes before.
    pub(in crate::tunnel) fn reset(&self) {
        self.give_up(Code::CANCEL);
    }

    /// Says that the request was not looked at.
    pub(in crate::tunnel) fn decline(&self) {
        self.give_up(Code::REFUSED_STREAM);
    }

    fn give_up(&self, code: Code) {
        let mut state = self.shared.lock();
        state.http.reset(self.stream, code);
        if let Some(arrivals) = state.streams.get_mut(&self.stream) {
            arrivals.over.get_or_insert(Over::Reset(code));
            arrivals.wake();
        }
        state.settle();
    }

    /// Ready when the peer gave the stream up or the connection is over.
    pub(in crate::tunnel) fn poll_over(&self, cx: &mut Context<'_>) -> Poll<StreamError> {
        let mut state = self.shared.lock();
        if let Err(error) = state.alive(self.stream) {
            return Poll::Ready(error);
        }
        if let Some(arrivals) = state.streams.get_mut(&self.stream) {
            arrivals.sender = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(in crate::tunnel) fn poll_arrived(&self, cx: &mut Context<'_>) -> Poll<Result<bool, StreamError>> {
        let mut state = self.shared.lock();
        let Some(arrivals) = state.streams.get_mut(&self.stream) else {
            return Poll::Ready(Err(StreamError::ConnectionLost));
        };
        match (arrivals.data.is_empty(), arrivals.ended, arrivals.over) {
            (false, ..) => Poll::Ready(Ok(true)),
            (true, true, _) => Poll::Ready(Ok(false)),
            (true, false, Some(over)) => Poll::Ready(Err(over.into())),
            (true, false, None) => {
                if arrivals.data.capacity() > 0 {
                    // An idle stream keeps nothing.
                    arrivals.data = VecDeque::new();
                }
                arrivals.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    pub(in crate::tunnel) fn write_to(
        &self,
        write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut state = self.shared.lock();
        let Some(arrivals) = state.streams.get_mut(&self.stream) else { return write(&[]) };
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(&arrivals.data) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        let offered: usize = slices[..count].iter().map(|slice| slice.len()).sum();
        let written = write(&slices[..count]);
        let mut left = *written.as_ref().unwrap_or(&0);
        let taken = left;
        while let Some(bytes) = arrivals.data.front_mut().filter(|_| left > 0) {
            let some = left.min(bytes.len());
            bytes.advance(some);
            left -= some;
            if bytes.is_empty() {
                arrivals.data.pop_front();
                arrivals.small = arrivals.small.saturating_sub(1);
            }
        }
        if taken < offered {
            // The reader is stuck. Small pieces are put aside, lest each keeps the block that it was read into.
            let unlooked = arrivals.data.len() - arrivals.small.min(arrivals.data.len());
            let new = arrivals.data.iter_mut().rev().take(unlooked);
            new.filter(|bytes| bytes.len() < SMALL).for_each(|bytes| *bytes = Bytes::copy_from_slice(bytes));
            arrivals.small = arrivals.data.len();
        } else {
            arrivals.small = 0;
        }
        state.http.consumed(self.stream, taken);
        state.settle();
        written
    }

    pub(in crate::tunnel) fn take(&self) -> Option<Bytes> {
        let mut state = self.shared.lock();
        let arrivals = state.streams.get_mut(&self.stream)?;
        let bytes = arrivals.data.pop_front()?;
        arrivals.small = arrivals.small.saturating_sub(1);
        state.http.consumed(self.stream, bytes.len());
        state.settle();
        Some(bytes)
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.http.reset(self.stream, Code::CANCEL);
        state.streams.remove(&self.stream);
        state.settle();
        state.wake_openers();
        state.wake_senders();
        if state.unused || state.http.is_leaving() {
            state.wake_driver();
        }
    }
}

/// One stream's place among those in use.
pub(in crate::tunnel) struct Slot(Arc<AtomicUsize>);

impl Slot {
    pub(in crate::tunnel) fn take(in_use: Arc<AtomicUsize>) -> Self {
        in_use.fetch_add(1, Ordering::Relaxed);
        Self(in_use)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes below which a piece that waits for its reader is copied: what others keep is no more than twice what they are.
const SMALL: usize = 8 << 10;
/// Most pieces that one system call writes.
const SLICES: usize = MOST + 2;

//! A lane: an encrypted connection that carries one stream at a time, and the next one when that has ended. Weft's own
//! transport (docs/transport.md); its streams need no windows, because the connection below has one.
//!
//! ```text
//!            client                          server
//!   free --HEAD-->                                   one stream
//!                              <--REPLY-- (200)
//!        --DATA*, LAST-->      <--DATA*, LAST--      each side ends for itself
//!   free                                             the next stream, over the same keys
//!        --RESET-->   or       <--RESET--            the stream is given up, the connection with it
//! ```

mod frame;

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::early::Words;
use super::head::{Baggage, Head};
use super::stream::{Filled, StreamError};
use super::{Config, ConnectionError};
use crate::tls::Peered;
use crate::tls::link::Link;
use frame::{Event, Kind, Parser};

/// A lane that carries nothing at the moment.
pub(super) struct Lane {
    link: Link,
    parser: Parser,
    /// What came and was not asked for yet.
    arrived: VecDeque<Event>,
    /// We have said that our side of the stream has ended.
    sent_last: bool,
    /// The peer has said so of its own.
    got_last: bool,
    /// Either side has given the stream up.
    reset: bool,
    /// The last stream was refused by us, and the peer may have said something before it knew.
    refused: bool,
    /// The peer takes no further stream.
    leaving: bool,
}

impl Lane {
    pub(super) fn new(tls: Peered, config: &Config) -> Self {
        Self {
            link: tls.into_link(config.key_records),
            parser: Parser::default(),
            arrived: VecDeque::new(),
            sent_last: true,
            got_last: true,
            reset: false,
            refused: false,
            leaving: false,
        }
    }

    /// Whether a stream may still be asked for, as far as is known without waiting.
    pub(super) fn is_usable(&mut self) -> bool {
        if self.leaving {
            return false;
        }
        // A ticket is no event; anything that is one does not belong between streams.
        let no_wake_up = &mut Context::from_waker(Waker::noop());
        matches!(self.poll_event(no_wake_up), Poll::Pending) && !self.leaving
    }

    /// Asks for a stream, and says what the client has said already.
    ///
    /// # Errors
    /// `InvalidInput` for a head that cannot be sent. What becomes of the connection, [`Lane::poll_answer`] tells.
    pub(super) fn ask(&mut self, cx: &mut Context<'_>, head: &Head, words: &mut Words<'_>) -> io::Result<()> {
        let mut asking = frame::head(head).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        (self.sent_last, self.got_last) = (false, false);
        let _ = words.poll(cx, |said| asking.extend(frame::message(Kind::Data, said)));
        self.link.put(&asking)?;
        let _ = self.link.flush();
        Ok(())
    }

    /// The answer to [`Lane::ask`]: its status and baggage; `None` if the peer was leaving and has not seen the question.
    /// What the client says meanwhile is sent.
    pub(super) fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        words: &mut Words<'_>,
    ) -> Poll<Result<Option<Answer>, ConnectionError>> {
        // A socket that is full of nothing but a head empties by itself or never. A peer that takes nothing any more may have said
        // why, and that it is gone is read behind that.
        if matches!(self.link.poll_flush(cx), Poll::Ready(Ok(())))
            && let Poll::Ready(put) = words.poll(cx, |said| self.link.put(&frame::message(Kind::Data, said)))
        {
            put.map_err(ConnectionError::Io)?;
            let _ = self.link.poll_flush(cx);
        }
        match ready!(self.poll_event(cx))? {
            None if self.leaving => Poll::Ready(Ok(None)),
            Some(Event::Reply(bytes)) => {
                let (status, baggage) = frame::read_reply(bytes).map_err(violated)?;
                if status != OK {
                    (self.sent_last, self.got_last) = (true, true);
                }
                Poll::Ready(Ok(Some((status, baggage))))
            }
            Some(_) => Poll::Ready(Err(violated(frame::Violation::Unexpected))),
            None => Poll::Ready(Err(ConnectionError::Io(io::ErrorKind::UnexpectedEof.into()))),
        }
    }

    /// The next stream that the peer asks for; `None` when it is leaving.
    pub(super) fn poll_asked(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ConnectionError>> {
        let _ = self.link.poll_flush(cx).map_err(ConnectionError::Io)?;
        loop {
            match ready!(self.poll_event(cx))? {
                Some(Event::Head(bytes)) => {
                    (self.sent_last, self.got_last, self.refused) = (false, false, false);
                    return Poll::Ready(Ok(Some(bytes)));
                }
                // Said before the peer knew.
                Some(Event::Data(_)) if self.refused => {}
                Some(_) => return Poll::Ready(Err(violated(frame::Violation::Unexpected))),
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// Reads what [`Lane::poll_asked`] yielded; the outer error ends the connection, the inner one the stream.
    pub(super) fn read_head(bytes: Bytes) -> Result<Option<(Head, u32)>, ConnectionError> {
        frame::read_head(bytes).map_err(violated).map(Result::ok)
    }

    /// Answers what the peer asked for. With any status but 200 the stream is over.
    ///
    /// # Errors
    /// Of the connection.
    pub(super) fn answer(&mut self, status: u16, baggage: Option<&Baggage>) -> io::Result<()> {
        self.link.put(&frame::reply(status, baggage))?;
        if status != OK {
            (self.sent_last, self.got_last, self.refused) = (true, true, true);
            self.arrived.clear();
        }
        self.link.flush().map(drop)
    }

    /// Says that no further stream is taken, and ends the connection in good order. Not while it carries one.
    pub(super) fn leave(mut self) {
        let _ = self.link.put(&frame::message(Kind::GoAway, &[]));
        self.link.close();
    }

    /// What comes next; `None` when the peer is leaving or at its end.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Event>, ConnectionError>> {
        loop {
            if let Some(event) = self.arrived.pop_front() {
                return Poll::Ready(Ok(Some(event)));
            }
            if self.leaving || !ready!(self.poll_more(cx))? {
                return Poll::Ready(Ok(None));
            }
        }
    }

    /// Reads from the connection until something has arrived; false at its end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ConnectionError>> {
        if self.arrived.capacity() > 0 && self.arrived.is_empty() {
            // An idle lane keeps nothing.
            self.arrived = VecDeque::new();
        }
        let Self { link, parser, arrived, leaving, .. } = self;
        let mut broken = None;
        let more = ready!(link.poll_receive(cx, |bytes| {
            if broken.is_none() {
                let pushed = parser.push(bytes, |event| match event {
                    Event::GoAway => *leaving = true,
                    event => arrived.push_back(event),
                });
                broken = pushed.err();
            }
        }))
        .map_err(ConnectionError::Io)?;
        match broken {
            Some(violation) if arrived.is_empty() => Poll::Ready(Err(violated(violation))),
            // What came before it is the stream's; the next frame cannot be read, and the connection ends there.
            Some(_) => {
                self.reset = true;
                Poll::Ready(Ok(true))
            }
            None => Poll::Ready(Ok(more)),
        }
    }

    /// Whether the stream has ended on both sides in good order, so that another may begin. The peer may have asked for that
    /// already, behind its last words of this one.
    fn is_free(&self) -> bool {
        let asked = matches!(self.arrived.front(), None | Some(Event::Head(_)));
        self.sent_last && self.got_last && !self.reset && asked
    }
}

fn violated(violation: frame::Violation) -> ConnectionError {
    ConnectionError::Protocol(violation.to_string())
}

/// A status, and who the other side says it is.
pub(super) type Answer = (u16, Option<Baggage>);

/// Where a lane goes when its stream has ended.
pub(super) trait Berth: Send + Sync {
    /// `None`: it cannot be used again.
    fn back(&self, lane: Option<Box<Lane>>);
}

/// A lane with its stream.
pub(super) struct Carried {
    lane: Mutex<Option<Box<Lane>>>,
    tcp: Arc<TcpStream>,
    berth: Arc<dyn Berth>,
}

impl Carried {
    pub(super) fn new(lane: Box<Lane>, berth: Arc<dyn Berth>) -> Self {
        let tcp = lane.link.tcp().clone();
        Self { lane: Mutex::new(Some(lane)), tcp, berth }
    }

    fn lane(&self) -> Guard<'_> {
        Guard(self.lane.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Answers what the peer asked for.
    pub(super) fn answer(&self, status: u16, baggage: Option<&Baggage>) -> Result<(), StreamError> {
        self.lane().answer(status, baggage).map_err(|_| StreamError::ConnectionLost)
    }

    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let mut lane = self.lane();
        if lane.reset {
            return Poll::Ready(Err(StreamError::Reset));
        }
        lane.link.poll_flush(cx).map_err(|_| StreamError::ConnectionLost)
    }

    pub(super) fn send_from(
        &self,
        most: usize,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<Filled>,
    ) -> Result<io::Result<Filled>, StreamError> {
        let mut lane = self.lane();
        let end = Cell::new(false);
        let sent = lane.link.send_from(
            frame::HEAD,
            most,
            |places| {
                let filled = read(places)?;
                end.set(filled.end);
                Ok(filled.bytes)
            },
            |head, length, last| frame::write(head, if last && end.get() { Kind::Last } else { Kind::Data }, length),
        );
        let filled = sent.map_err(|_| StreamError::ConnectionLost)?;
        match filled {
            Ok(0) if end.get() => lane.last(),
            Ok(_) if end.get() => lane.sent_last = true,
            _ => {}
        }
        Ok(filled.map(|bytes| Filled { bytes, end: end.get() }))
    }

    pub(super) fn finish(&self) {
        self.lane().last();
    }

    /// Gives the stream up. What was sent before and has not left yet goes first, if the socket takes it at once.
    pub(super) fn reset(&self) {
        let mut lane = self.lane();
        let over = lane.sent_last && lane.got_last;
        if !lane.reset && !over {
            lane.reset = true;
            let _ = lane.link.put(&frame::message(Kind::Reset, &[])).and_then(|()| lane.link.flush());
        }
    }

    /// Resolves when the connection is broken, though nobody reads from it.
    pub(super) async fn broken(&self) -> StreamError {
        loop {
            match self.tcp.ready(Interest::ERROR).await {
                Ok(ready) if !ready.is_error() => {}
                _ => return StreamError::ConnectionLost,
            }
        }
    }

    pub(super) fn poll_arrived(&self, cx: &mut Context<'_>) -> Poll<Result<bool, StreamError>> {
        let mut lane = self.lane();
        if lane.got_last && lane.arrived.is_empty() {
            return Poll::Ready(Ok(false));
        }
        loop {
            match lane.arrived.front() {
                Some(Event::Data(_)) => return Poll::Ready(Ok(true)),
                Some(Event::Last) => {
                    lane.arrived.pop_front();
                    lane.got_last = true;
                    return Poll::Ready(Ok(false));
                }
                Some(Event::Reset) => {
                    lane.reset = true;
                    return Poll::Ready(Err(StreamError::Reset));
                }
                // Out of place, or out of order behind what cannot be read.
                Some(_) => {
                    lane.reset = true;
                    return Poll::Ready(Err(StreamError::ConnectionLost));
                }
                None if lane.reset => return Poll::Ready(Err(StreamError::ConnectionLost)),
                None => match ready!(lane.poll_more(cx)) {
                    Ok(true) => {}
                    Ok(false) | Err(_) => {
                        lane.reset = true;
                        return Poll::Ready(Err(StreamError::ConnectionLost));
                    }
                },
            }
        }
    }

    pub(super) fn write_to(&self, write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<usize> {
        let mut lane = self.lane();
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, event) in slices.iter_mut().zip(&lane.arrived) {
            let Event::Data(bytes) = event else { break };
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        let written = write(&slices[..count])?;
        let mut left = written;
        while left > 0 {
            let Some(Event::Data(bytes)) = lane.arrived.front_mut() else { break };
            let some = left.min(bytes.len());
            bytes::Buf::advance(bytes, some);
            left -= some;
            if bytes.is_empty() {
                lane.arrived.pop_front();
            }
        }
        Ok(written)
    }

    /// Keeps what has come in memory of its own, and no more of it than it takes.
    pub(super) fn put_aside(&self) {
        for event in &mut self.lane().arrived {
            if let Event::Data(bytes) = event {
                *bytes = Bytes::copy_from_slice(bytes);
            }
        }
    }

    pub(super) fn take(&self) -> Option<Bytes> {
        match self.lane().arrived.pop_front() {
            Some(Event::Data(bytes)) => Some(bytes),
            _ => None,
        }
    }
}

impl Lane {
    fn last(&mut self) {
        if !self.sent_last && !self.reset {
            self.sent_last = true;
            // Should it fail, whoever reads hears of that.
            let _ = self.link.put(&frame::message(Kind::Last, &[])).and_then(|()| self.link.flush());
        }
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        let Some(mut lane) = self.lane.get_mut().unwrap_or_else(PoisonError::into_inner).take() else { return };
        if lane.is_free() {
            if lane.link.is_flushed() {
                return self.berth.back(Some(lane));
            }
            // Its last words are on their way still, and nobody else hands them to the socket.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                let berth = self.berth.clone();
                runtime.spawn(async move {
                    let flushed = tokio::time::timeout(LAST_WORDS, poll_fn(|cx| lane.link.poll_flush(cx))).await;
                    berth.back(matches!(flushed, Ok(Ok(()))).then_some(lane));
                });
                return;
            }
        }
        if !lane.reset {
            let _ = lane.link.put(&frame::message(Kind::Reset, &[]));
        }
        lane.link.close();
        if !lane.link.is_flushed() {
            // It could not be said, so the socket says it.
            let _ = SockRef::from(&*self.tcp).set_linger(Some(Duration::ZERO));
        }
        self.berth.back(None);
    }
}

/// The lane is there until the last half of its stream is dropped.
struct Guard<'a>(MutexGuard<'a, Option<Box<Lane>>>);

impl std::ops::Deref for Guard<'_> {
    type Target = Lane;

    fn deref(&self) -> &Lane {
        self.0.as_ref().expect("taken by drop only")
    }
}

impl std::ops::DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut Lane {
        self.0.as_mut().expect("taken by drop only")
    }
}

/// How long what was sent may take to reach the socket when nobody waits for it.
const LAST_WORDS: Duration = Duration::from_secs(60);
/// The one status with which a stream begins.
pub(super) const OK: u16 = 200;
/// Most pieces that one system call writes: those of a batch, and one cut in two.
const SLICES: usize = crate::tls::link::MOST + 2;

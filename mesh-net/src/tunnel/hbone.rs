//! HBONE: many streams over one encrypted connection, each an HTTP/2 CONNECT (RFC 9113, section 8.5). What every peer
//! understands.
//!
//! Whoever has data sends it at once if the socket takes it, and waits in a queue if not. One task a connection, its
//! driver, receives, hands out what came and empties what waits.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use tokio::time::{Instant, Sleep};

use super::stream::{Filled, StreamError};
use super::{Config, ConnectionError};
use crate::http2::connection::{Connection, Event, NotOpened, Role, Violation};
use crate::http2::fields::Fields;
use crate::http2::frame::{Code, HEAD};
use crate::tls::Peered;
use crate::tls::link::{BATCH, Link};

/// A connection with its streams.
pub(super) struct Hbone(Mutex<State>);

struct State {
    /// `None` once the connection is over.
    link: Option<Link>,
    http: Connection,
    streams: HashMap<u32, Arrivals>,
    /// Requests of the peer that nobody has taken.
    asked: VecDeque<(u32, Box<Fields>)>,
    /// Streams with data for a socket that is full.
    waiting: VecDeque<u32>,
    /// Those who wait for a stream to end, so that they may open theirs.
    openers: Vec<Waker>,
    driver: Option<Waker>,
    /// Something came since this was last looked at.
    heard: bool,
    /// Nobody will open a stream any more.
    unused: bool,
}

/// What came on a stream and was not taken, and who waits for more.
#[derive(Default)]
struct Arrivals {
    reply: Option<Box<Fields>>,
    data: VecDeque<Bytes>,
    /// How many of the first pieces have been put aside if they are small.
    small: usize,
    ended: bool,
    over: Option<Over>,
    reader: Option<Waker>,
    sender: Option<Waker>,
}

/// How a stream came to an early end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Reset(Code),
    Lost,
}

impl From<Over> for StreamError {
    fn from(over: Over) -> Self {
        match over {
            Over::Reset(_) => Self::Reset,
            Over::Lost => Self::ConnectionLost,
        }
    }
}

/// Why no stream came of an attempt to open one.
pub(super) enum Unopened {
    /// The peer has not processed it.
    Unseen,
    Reset,
    Lost,
}

impl Arrivals {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.sender.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl Hbone {
    pub(super) fn new(tls: Peered, role: Role, config: &Config) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            link: Some(tls.into_link(config.key_records)),
            http: Connection::new(role, config.limits()),
            streams: HashMap::new(),
            asked: VecDeque::new(),
            waiting: VecDeque::new(),
            openers: Vec::new(),
            driver: None,
            heard: false,
            unused: false,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Streams that may be opened without waiting.
    pub(super) fn available(&self) -> usize {
        let state = self.lock();
        if state.link.is_some() { state.http.available() } else { 0 }
    }

    pub(super) fn is_closed(&self) -> bool {
        let state = self.lock();
        state.link.is_none() || state.http.is_leaving()
    }

    pub(super) fn is_greeted(&self) -> bool {
        self.lock().http.is_greeted()
    }

    /// Opens no further stream, and tells the peer to do the same.
    pub(super) fn drain(&self) {
        let mut state = self.lock();
        state.http.go_away(Code::NO_ERROR);
        state.settle();
        state.wake_driver();
    }

    /// Lets the driver end the connection once its streams have ended.
    pub(super) fn unused(&self) {
        let mut state = self.lock();
        state.unused = true;
        state.wake_driver();
    }

    /// Asks for a stream, waiting while as many are open as the peer takes.
    pub(super) fn poll_open(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        fields: &Fields,
    ) -> Poll<Result<Carried, Unopened>> {
        let mut state = self.lock();
        if state.link.is_none() {
            return Poll::Ready(Err(Unopened::Unseen));
        }
        match state.http.open(fields, false) {
            Ok(stream) => {
                state.streams.insert(stream, Arrivals::default());
                state.settle();
                drop(state);
                Poll::Ready(Ok(Carried { shared: self.clone(), stream, slot: None }))
            }
            Err(NotOpened::Leaving) => Poll::Ready(Err(Unopened::Unseen)),
            Err(NotOpened::Full) => {
                state.openers.push(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The next stream that the peer asks for, of those that have come.
    pub(super) fn next_asked(self: &Arc<Self>) -> Option<(Carried, Box<Fields>)> {
        let (stream, fields) = self.lock().asked.pop_front()?;
        Some((Carried { shared: self.clone(), stream, slot: None }, fields))
    }

    /// Moves the connection's bytes. Ready when it is over (`Ok` after an orderly end), or, with `Ok`, when the peer has
    /// asked for a stream: see [`Hbone::next_asked`].
    pub(super) fn poll_drive(
        &self,
        cx: &mut Context<'_>,
        alive: &mut KeepAlive,
    ) -> Poll<Result<Driven, ConnectionError>> {
        let mut state = self.lock();
        let result = state.drive(cx, alive);
        match result {
            Poll::Ready(Ok(Driven::Asked)) => {}
            Poll::Ready(_) => state.close(),
            Poll::Pending => match &mut state.driver {
                Some(driver) => driver.clone_from(cx.waker()),
                None => state.driver = Some(cx.waker().clone()),
            },
        }
        result
    }

    /// Ends the connection with all that it carries: nobody drives it any more.
    pub(super) fn close(&self) {
        self.lock().close();
    }
}

/// Why [`Hbone::poll_drive`] came back.
pub(super) enum Driven {
    Asked,
    Over,
}

impl State {
    fn drive(&mut self, cx: &mut Context<'_>, alive: &mut KeepAlive) -> Poll<Result<Driven, ConnectionError>> {
        loop {
            self.settle();
            let Some(link) = &mut self.link else { return Poll::Ready(Ok(Driven::Over)) };
            if link.poll_flush(cx).map_err(ConnectionError::Io)?.is_ready() {
                self.wake_senders();
            }
            if !self.asked.is_empty() {
                return Poll::Ready(Ok(Driven::Asked));
            }
            let Self { link: Some(link), http, .. } = self else { unreachable!("looked at above") };
            let no_more = self.unused || http.is_leaving();
            if no_more && http.streams() == 0 && self.streams.is_empty() {
                http.go_away(Code::NO_ERROR);
                self.settle();
                return Poll::Ready(Ok(Driven::Over));
            }
            let mut events = Vec::new();
            let mut broken = None;
            let received = link.poll_receive(cx, |bytes| {
                if broken.is_none() {
                    broken = http.receive(bytes, |event| events.push(event)).err();
                }
            });
            self.heard |= !events.is_empty() || received.is_ready();
            for event in events {
                self.happened(event);
            }
            if let Some(violation) = broken {
                self.settle();
                return Poll::Ready(Err(violated(violation)));
            }
            match received {
                Poll::Ready(Ok(true)) => {
                    self.settle();
                    if !self.asked.is_empty() {
                        return Poll::Ready(Ok(Driven::Asked));
                    }
                    // Those whose data has come have their turn before more is read.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(false)) if self.http.streams() == 0 => return Poll::Ready(Ok(Driven::Over)),
                Poll::Ready(Ok(false)) => {
                    return Poll::Ready(Err(ConnectionError::Io(io::ErrorKind::UnexpectedEof.into())));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(ConnectionError::Io(error))),
                Poll::Pending => {
                    let http = &mut self.http;
                    match alive.poll(cx, &mut self.heard, || http.ping(0)) {
                        Poll::Ready(silence) => return Poll::Ready(Err(ConnectionError::Timeout(silence))),
                        Poll::Pending if self.hand_over() => {}
                        Poll::Pending => return Poll::Pending,
                    }
                }
            }
        }
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Head { stream, fields, end } => match self.streams.get_mut(&stream) {
                // A word before the answer (RFC 9110, section 15.2).
                Some(_) if fields.pseudo.status.is_some_and(|status| status.is_informational()) => {}
                Some(arrivals) if arrivals.reply.is_none() => {
                    arrivals.reply = Some(fields);
                    arrivals.ended = end;
                    arrivals.wake();
                }
                // What follows a message says nothing to a tunnel.
                Some(arrivals) => {
                    arrivals.ended |= end;
                    arrivals.wake();
                }
                None => {
                    let arrivals = Arrivals { reply: Some(Box::default()), ended: end, ..Arrivals::default() };
                    self.streams.insert(stream, arrivals);
                    self.asked.push_back((stream, fields));
                }
            },
            Event::Data { stream, bytes } => {
                if let Some(arrivals) = self.streams.get_mut(&stream) {
                    arrivals.data.push_back(bytes);
                    if let Some(reader) = arrivals.reader.take() {
                        reader.wake();
                    }
                }
            }
            Event::End { stream } => {
                if let Some(arrivals) = self.streams.get_mut(&stream) {
                    arrivals.ended = true;
                    arrivals.wake();
                }
            }
            Event::Reset { stream, code } => {
                if let Some(arrivals) = self.streams.get_mut(&stream) {
                    arrivals.over = Some(Over::Reset(code));
                    arrivals.wake();
                }
                self.wake_openers();
            }
            Event::Credit { stream: 0 } => {
                for arrivals in self.streams.values_mut() {
                    arrivals.sender.take().into_iter().for_each(Waker::wake);
                }
                self.wake_openers();
            }
            Event::Credit { stream } => {
                let sender = self.streams.get_mut(&stream).and_then(|arrivals| arrivals.sender.take());
                sender.into_iter().for_each(Waker::wake);
            }
            Event::GoAway { .. } => self.wake_openers(),
            Event::Pong(_) => {}
        }
    }

    /// Hands the link what the connection owes; whether there was something.
    fn hand_over(&mut self) -> bool {
        let Some(output) = self.http.take_output() else { return false };
        if let Some(link) = &mut self.link
            && link.put(&output).is_err()
        {
            self.close();
        }
        true
    }

    /// Hands the link what the connection owes, and the socket what it takes.
    fn settle(&mut self) {
        self.hand_over();
        if let Some(link) = &mut self.link
            && !link.is_flushed()
        {
            // The driver hears of an error when it next looks.
            if !matches!(link.flush(), Ok(true)) {
                self.wake_driver();
            }
        }
    }

    fn wake_driver(&mut self) {
        self.driver.take().into_iter().for_each(Waker::wake);
    }

    fn wake_openers(&mut self) {
        self.openers.drain(..).for_each(Waker::wake);
    }

    /// Lets some of those send who found the socket full, in their order.
    fn wake_senders(&mut self) {
        for stream in self.waiting.drain(..self.waiting.len().min(AT_ONCE)) {
            let sender = self.streams.get_mut(&stream).and_then(|arrivals| arrivals.sender.take());
            sender.into_iter().for_each(Waker::wake);
        }
    }

    fn close(&mut self) {
        if let Some(mut link) = self.link.take() {
            link.close();
        }
        for arrivals in self.streams.values_mut() {
            arrivals.over.get_or_insert(Over::Lost);
            arrivals.wake();
        }
        self.wake_openers();
        self.wake_driver();
    }
}

fn violated(violation: Violation) -> ConnectionError {
    ConnectionError::Protocol(violation.to_string())
}

/// One stream.
pub(super) struct Carried {
    shared: Arc<Hbone>,
    stream: u32,
    slot: Option<Slot>,
}

/// One stream's place among those in use.
pub(super) struct Slot(Arc<AtomicUsize>);

impl Slot {
    pub(super) fn take(in_use: Arc<AtomicUsize>) -> Self {
        in_use.fetch_add(1, Ordering::Relaxed);
        Self(in_use)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Carried {
    /// Counts as one in use for as long as it lives.
    pub(super) fn hold(&mut self, slot: Slot) {
        self.slot = Some(slot);
    }

    /// The peer's reply, when it has come.
    pub(super) fn poll_reply(&self, cx: &mut Context<'_>) -> Poll<Result<Box<Fields>, Unopened>> {
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
    pub(super) fn reply(&self, fields: &Fields, end: bool) -> Result<(), StreamError> {
        let mut state = self.shared.lock();
        state.alive(self.stream)?;
        state.http.reply(self.stream, fields, end);
        state.settle();
        Ok(())
    }

    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
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
            if !state.waiting.contains(&self.stream) {
                state.waiting.push_back(self.stream);
            }
            state.wake_driver();
        }
        if let Some(arrivals) = state.streams.get_mut(&self.stream) {
            arrivals.sender = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(super) fn send_from(
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
                state.close();
                Err(StreamError::ConnectionLost)
            }
        }
    }

    pub(super) fn finish(&self) {
        let mut state = self.shared.lock();
        state.http.end(self.stream);
        state.settle();
    }

    /// Gives the stream up; what was sent before goes before.
    pub(super) fn reset(&self) {
        self.give_up(Code::CANCEL);
    }

    /// Says that the request was not looked at.
    pub(super) fn decline(&self) {
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
    pub(super) fn poll_over(&self, cx: &mut Context<'_>) -> Poll<StreamError> {
        let mut state = self.shared.lock();
        if let Err(error) = state.alive(self.stream) {
            return Poll::Ready(error);
        }
        if let Some(arrivals) = state.streams.get_mut(&self.stream) {
            arrivals.sender = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(super) fn poll_arrived(&self, cx: &mut Context<'_>) -> Poll<Result<bool, StreamError>> {
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

    pub(super) fn write_to(&self, write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<usize> {
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

    pub(super) fn take(&self) -> Option<Bytes> {
        let mut state = self.shared.lock();
        let arrivals = state.streams.get_mut(&self.stream)?;
        let bytes = arrivals.data.pop_front()?;
        arrivals.small = arrivals.small.saturating_sub(1);
        state.http.consumed(self.stream, bytes.len());
        state.settle();
        Some(bytes)
    }
}

impl State {
    fn alive(&self, stream: u32) -> Result<(), StreamError> {
        match self.streams.get(&stream).map(|arrivals| arrivals.over) {
            Some(None) if self.link.is_some() => Ok(()),
            Some(Some(over)) => Err(over.into()),
            _ => Err(StreamError::ConnectionLost),
        }
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

/// Asks a silent peer for a sign of life, and gives it up when none comes.
pub(super) struct KeepAlive {
    timer: Pin<Box<Sleep>>,
    /// A PING is out and `timer` is its deadline.
    waiting: bool,
    interval: std::time::Duration,
    timeout: std::time::Duration,
}

impl KeepAlive {
    pub(super) fn new(config: &Config) -> Self {
        let (interval, timeout) = (config.ping_interval, config.ping_timeout);
        Self { timer: Box::pin(tokio::time::sleep(interval)), waiting: false, interval, timeout }
    }

    /// Ready with the time waited once the peer missed its deadline.
    fn poll(&mut self, cx: &mut Context<'_>, heard: &mut bool, ping: impl FnOnce()) -> Poll<std::time::Duration> {
        let mut ping = Some(ping);
        while self.timer.as_mut().poll(cx).is_ready() {
            let heard = std::mem::take(heard);
            let pause = match (heard, self.waiting) {
                (true, _) => {
                    self.waiting = false;
                    self.interval
                }
                (false, true) => return Poll::Ready(self.timeout),
                (false, false) => {
                    self.waiting = true;
                    ping.take().into_iter().for_each(|ping| ping());
                    self.timeout
                }
            };
            self.timer.as_mut().reset(Instant::now() + pause);
        }
        Poll::Pending
    }
}

/// Streams that try at once when a full socket takes more.
const AT_ONCE: usize = 4;
/// Bytes below which a piece that waits for its reader is copied: what others keep is no more than twice what they are.
const SMALL: usize = 8 << 10;
/// Most pieces that one system call writes.
const SLICES: usize = BATCH + 2;

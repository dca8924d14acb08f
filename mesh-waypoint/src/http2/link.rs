//! A connection with its streams, shared by the task that moves its bytes and by those that it carries.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use mesh_net::header_list::HeaderList;
use mesh_net::http2::connection::{Connection, Event, Limits, NotOpened, Role, Violation};
use mesh_net::http2::fields::{Fields, Pseudo};
use mesh_net::http2::frame::{Code, DEFAULT_MAX_FRAME};
use thiserror::Error;

use super::patience::Waits;
use super::stream::{Next, Over, Stream};
use crate::inlet;
use crate::io::ByteStream;
use crate::outbox::Outbox;

/// See the module's description.
pub(super) struct Link {
    state: Mutex<State>,
    /// How long a stream may take nothing of what is to be sent on it.
    patience: Duration,
}

struct State {
    http: Connection,
    out: Outbox,
    streams: HashMap<u32, Stream, RandomState>,
    /// Requests of the peer that nobody has taken.
    asked: Vec<Asked>,
    /// Streams with data for a socket that is full.
    waiting: VecDeque<u32>,
    /// Those who wait for a stream to end, so that they may open theirs.
    openers: Vec<Waker>,
    /// `None` while it is going to look anyway.
    driver: Option<Waker>,
    /// Nobody moves its bytes any more.
    over: bool,
    /// Nobody will open a stream any more.
    unused: bool,
    /// The peer was told to open none.
    draining: bool,
    /// Reads so far.
    reads: u64,
}

/// A request's head, and whether that is all of it.
pub(super) struct Asked {
    pub(super) stream: u32,
    pub(super) fields: Box<Fields>,
    pub(super) end: bool,
}

/// Why a connection ended.
#[derive(Debug, Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(#[from] Violation),
}

/// Bytes that wait for the socket before nothing more is read: a peer that asks and never listens.
const STUCK: usize = 1 << 20;
/// Streams that go on when the socket takes something again.
const AT_ONCE: usize = 16;

impl Link {
    pub(super) fn new(role: Role, limits: Limits, patience: Duration) -> Arc<Self> {
        let state = State {
            http: Connection::new(role, limits),
            out: Outbox::default(),
            streams: HashMap::default(),
            asked: Vec::new(),
            waiting: VecDeque::new(),
            openers: Vec::new(),
            driver: None,
            over: false,
            unused: false,
            draining: false,
            reads: 0,
        };
        Arc::new(Self { state: Mutex::new(state), patience })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// Moves the connection's bytes; ready when it is over. `asked` gets what the peer asks for.
    pub(super) fn poll_drive<S: ByteStream>(
        &self,
        cx: &mut Context<'_>,
        io: &mut S,
        mut asked: impl FnMut(Asked),
    ) -> Poll<Result<(), Broken>> {
        let mut state = self.lock();
        let driven = state.drive(cx, io);
        for one in std::mem::take(&mut state.asked) {
            asked(one);
        }
        match driven {
            Poll::Ready(_) => state.close(),
            Poll::Pending => state.driver = Some(cx.waker().clone()),
        }
        driven
    }

    /// Ends all that it carries.
    pub(super) fn close(&self) {
        self.lock().close();
    }

    /// Tells the peer that no stream will be taken, once it has had time to hear that it should open none.
    pub(super) fn drain(&self) {
        let mut state = self.lock();
        state.draining = true;
        state.http.announce_leaving();
        state.wake_driver();
    }

    /// Lets the connection end with its last stream.
    pub(super) fn unused(&self) {
        let mut state = self.lock();
        state.unused = true;
        state.wake_driver();
    }

    pub(super) fn waits(&self) -> Waits {
        let state = self.lock();
        match state.http.begun_head() {
            Some(behind) => Waits::Head(behind),
            None if state.streams.is_empty() => Waits::Request,
            None => Waits::No,
        }
    }

    /// Streams that may be opened now.
    pub(super) fn available(&self) -> usize {
        let state = self.lock();
        if state.over { 0 } else { state.http.available() }
    }

    pub(super) fn is_over(&self) -> bool {
        let state = self.lock();
        state.over || state.http.is_leaving()
    }

    /// Waits until a stream may be opened, or none will be.
    pub(super) fn poll_available(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.over || state.http.is_leaving() || state.http.available() > 0 {
            return Poll::Ready(());
        }
        state.openers.push(cx.waker().clone());
        Poll::Pending
    }

    /// # Errors
    /// None may be opened now, or ever.
    pub(super) fn open(&self, pseudo: &Pseudo, headers: &HeaderList, end: bool) -> Result<u32, NotOpened> {
        let mut state = self.lock();
        if state.over {
            return Err(NotOpened::Leaving);
        }
        let stream = state.http.open_with(pseudo, headers, end)?;
        state.streams.insert(stream, Stream::default());
        state.wake_driver();
        Ok(stream)
    }

    /// The peer's answer, when it has come.
    pub(super) fn poll_head(&self, cx: &mut Context<'_>, stream: u32) -> Poll<Result<Box<Fields>, Over>> {
        let mut state = self.lock();
        state.streams.get_mut(&stream).map_or(Poll::Ready(Err(Over::Lost)), |own| own.poll_head(cx))
    }

    /// The whole of a body that has come already, if nothing follows it.
    pub(super) fn whole(&self, stream: u32) -> Option<Bytes> {
        let mut state = self.lock();
        state.streams.get_mut(&stream)?.whole()
    }

    pub(super) fn poll_next(&self, cx: &mut Context<'_>, stream: u32) -> Poll<Result<Next, Over>> {
        let mut state = self.lock();
        let Some(own) = state.streams.get_mut(&stream) else { return Poll::Ready(Err(Over::Lost)) };
        let next = ready!(own.poll_next(cx))?;
        if let Next::Data(data) = &next {
            state.http.consumed(stream, data.len());
            if state.http.has_output() {
                state.wake_driver();
            }
        }
        Poll::Ready(Ok(next))
    }

    /// Whether the peer has said all.
    pub(super) fn is_ended(&self, stream: u32) -> bool {
        let state = self.lock();
        state.streams.get(&stream).is_none_or(Stream::is_ended)
    }

    /// Ready when the peer has given the stream up.
    pub(super) fn poll_over(&self, cx: &mut Context<'_>, stream: u32) -> Poll<Over> {
        let mut state = self.lock();
        state.streams.get_mut(&stream).map_or(Poll::Ready(Over::Lost), |own| own.poll_over(cx))
    }

    /// An answer's head, or, with `end`, what follows a message.
    pub(super) fn send_head(&self, stream: u32, fields: &Fields, end: bool) {
        let mut state = self.lock();
        state.http.reply(stream, fields, end);
        state.wake_driver();
    }

    pub(super) fn send_trailers(&self, stream: u32, headers: HeaderList) {
        self.send_head(stream, &Fields { pseudo: Pseudo::default(), headers }, true);
    }

    /// Sends all of `data`, and the end if `end` says so.
    pub(super) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        stream: u32,
        data: &mut Bytes,
        end: bool,
    ) -> Poll<Result<(), Over>> {
        let mut state = self.lock();
        let state = &mut *state;
        loop {
            let Some(own) = state.streams.get_mut(&stream) else { return Poll::Ready(Err(Over::Lost)) };
            if let Some(over) = own.over() {
                return Poll::Ready(Err(over));
            }
            if data.is_empty() {
                if end {
                    state.http.end(stream);
                    state.wake_driver();
                }
                return Poll::Ready(Ok(()));
            }
            let some = state.http.credit(stream).min(data.len()).min(DEFAULT_MAX_FRAME as usize);
            if some == 0 {
                own.hold(cx);
                return Poll::Pending;
            }
            if state.out.is_full() {
                if own.queue(cx) {
                    state.waiting.push_back(stream);
                }
                return Poll::Pending;
            }
            let is_last = end && some == data.len();
            state.settle();
            let head = state.http.data_head(stream, some, is_last);
            state.out.put(&head);
            state.out.put_bytes(data.split_to(some));
            state.wake_driver();
            if is_last {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// What was being sent cannot be sent whole.
    pub(super) fn give_up(&self, stream: u32, over: Over) {
        let mut state = self.lock();
        state.http.reset(stream, Code::CANCEL);
        if let Some(own) = state.streams.get_mut(&stream) {
            own.break_off(over);
        }
        state.wake_openers();
        state.wake_driver();
    }

    /// Whoever had the stream is done with it.
    pub(super) fn leave(&self, stream: u32, code: Code) {
        let mut state = self.lock();
        if let Some(mut own) = state.streams.remove(&stream) {
            // Who still reads or sends beside it learns that nobody needs that any more.
            own.wake();
        }
        state.http.reset(stream, code);
        state.wake_openers();
        if state.http.has_output() || state.unused || state.http.is_leaving() {
            state.wake_driver();
        }
    }
}

impl State {
    fn drive<S: ByteStream>(&mut self, cx: &mut Context<'_>, io: &mut S) -> Poll<Result<(), Broken>> {
        self.settle();
        if !self.out.is_empty() {
            let _ = self.out.poll_write(cx, io)?;
        }
        if self.out.is_empty() && !self.waiting.is_empty() {
            self.wake_senders();
            // If none of them has anything to say after all, it is the turn of the others.
            cx.waker().wake_by_ref();
        }
        let _ = Pin::new(&mut *io).poll_flush(cx)?;
        if (self.unused || self.http.is_leaving()) && self.http.streams() == 0 && self.streams.is_empty() {
            return self.farewell(cx, io);
        }
        if self.out.len() > STUCK {
            return Poll::Pending;
        }
        match inlet::poll_bytes(io, cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Ready(Ok(bytes)) if bytes.is_empty() => match self.streams.is_empty() {
                true => Poll::Ready(Ok(())),
                false => Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())),
            },
            Poll::Ready(Ok(bytes)) => {
                self.reads += 1;
                let mut events = Vec::new();
                let received = self.http.receive(bytes, |event| events.push(event));
                for event in events {
                    self.happened(event);
                }
                if let Err(violation) = received {
                    self.settle();
                    // What does not leave at once is lost.
                    let _ = self.out.poll_write(cx, io);
                    let _ = Pin::new(io).poll_shutdown(cx);
                    return Poll::Ready(Err(violation.into()));
                }
                // Those whose data has come have their turn before more is read, and one write takes what all of them say.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn farewell<S: ByteStream>(&mut self, cx: &mut Context<'_>, io: &mut S) -> Poll<Result<(), Broken>> {
        self.http.go_away(Code::NO_ERROR);
        self.settle();
        ready!(self.out.poll_write(cx, io))?;
        Pin::new(io).poll_shutdown(cx).map_err(Broken::Io)
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Head { stream, fields, end } => match self.streams.get_mut(&stream) {
                Some(own) => own.headed(fields, end),
                None => {
                    self.streams.insert(stream, Stream::asked(end));
                    self.asked.push(Asked { stream, fields, end });
                }
            },
            Event::Data { stream, bytes } => self.at(stream, |own, read| own.came(bytes, read)),
            Event::End { stream } => self.at(stream, |own, _| own.end()),
            Event::Reset { stream, code } => {
                self.at(stream, |own, _| own.reset(code));
                self.wake_openers();
            }
            Event::Credit { stream: 0 } => {
                for own in self.streams.values_mut() {
                    own.wake_sender();
                }
                self.wake_openers();
            }
            Event::Credit { stream } => self.at(stream, |own, _| {
                own.wake_sender();
            }),
            Event::GoAway { .. } => self.wake_openers(),
            // It has heard that we leave: what it opened before is here.
            Event::Pong(_) if self.draining => self.http.go_away(Code::NO_ERROR),
            Event::Pong(_) => {}
        }
    }

    /// `happens`, with the number of the read, to a stream that somebody still has.
    fn at(&mut self, stream: u32, happens: impl FnOnce(&mut Stream, u64)) {
        if let Some(own) = self.streams.get_mut(&stream) {
            happens(own, self.reads);
        }
    }

    /// What the connection owes goes before what comes next.
    fn settle(&mut self) {
        let Self { http, out, .. } = self;
        http.drain_output(|owed| out.put(owed));
    }

    fn wake_driver(&mut self) {
        self.driver.take().into_iter().for_each(Waker::wake);
    }

    fn wake_openers(&mut self) {
        self.openers.drain(..).for_each(Waker::wake);
    }

    fn wake_senders(&mut self) {
        let mut woken = 0;
        while woken < AT_ONCE
            && let Some(stream) = self.waiting.pop_front()
        {
            // Those that are gone leave their turn to others.
            if self.streams.get_mut(&stream).is_some_and(Stream::turn) {
                woken += 1;
            }
        }
    }

    fn close(&mut self) {
        self.over = true;
        self.streams.values_mut().for_each(|own| own.break_off(Over::Lost));
        self.wake_openers();
    }
}

//! HBONE: many streams over one encrypted connection, each an HTTP/2 CONNECT (RFC 9113, section 8.5). What every peer
//! understands.
//!
//! Whoever has data sends it at once if the socket takes it, and waits in a queue if not. One task a connection, its
//! driver, receives, hands out what came and empties what waits.

mod carried;
mod arrivals;
mod keep_alive;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::stream::StreamError;
use super::{Config, ConnectionError};
use crate::http2::connection::{Connection, Event, NotOpened, Role, Violation};
use crate::http2::fields::Fields;
use crate::http2::frame::Code;
use crate::tls::Peered;
use crate::tls::link::Link;
use arrivals::{Arrivals, Over};
pub(super) use carried::{Carried, Slot};
pub(super) use keep_alive::KeepAlive;

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
    side: Side,
    /// How often the socket has taken all that waited for it.
    emptied: u64,
}

/// Our side of a connection. Whatever it is, what the peer says is read until its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Open,
    /// The socket takes nothing any more. The peer may have been leaving, and then it has said which streams it has not looked at.
    Broken,
    /// We have said that nothing follows, and wait for the peer's end: to close a socket with something unread tears up what is on
    /// its way to the peer (RFC 1122, section 4.2.2.13).
    Ended,
}

/// Why no stream came of an attempt to open one.
pub(super) enum Unopened {
    /// The peer has not processed it.
    Unseen,
    Reset,
    Lost,
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
            side: Side::Open,
            emptied: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Streams that may be opened without waiting.
    pub(super) fn available(&self) -> usize {
        let state = self.lock();
        if state.is_over() { 0 } else { state.http.available() }
    }

    pub(super) fn is_closed(&self) -> bool {
        let state = self.lock();
        state.is_over() || state.http.is_leaving()
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
        if state.is_over() {
            return Poll::Ready(Err(Unopened::Unseen));
        }
        match state.http.open(fields, false) {
            Ok(stream) => {
                state.streams.insert(stream, Arrivals::default());
                state.settle();
                drop(state);
                Poll::Ready(Ok(Carried::new(self.clone(), stream)))
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
        Some((Carried::new(self.clone(), stream), fields))
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
            if self.side == Side::Open {
                match link.poll_flush(cx) {
                    Poll::Ready(Ok(())) => {
                        self.emptied += 1;
                        self.wake_senders();
                    }
                    Poll::Ready(Err(_)) => self.side = Side::Broken,
                    Poll::Pending => {}
                }
            }
            if !self.asked.is_empty() {
                return Poll::Ready(Ok(Driven::Asked));
            }
            let http = &mut self.http;
            let no_more = self.unused || http.is_leaving();
            if no_more && http.streams() == 0 && self.streams.is_empty() && self.side != Side::Ended {
                http.go_away(Code::NO_ERROR);
                self.settle();
                let Some(link) = self.link.as_mut().filter(|_| self.side == Side::Open) else {
                    return Poll::Ready(Ok(Driven::Over));
                };
                if link.is_flushed() {
                    link.part();
                    (self.side, self.heard) = (Side::Ended, false);
                    alive.part();
                }
            }
            let Self { link: Some(link), http, .. } = self else { unreachable!("looked at above") };
            let mut events = Vec::new();
            let mut broken = None;
            let received = link.poll_receive(cx, |bytes| {
                if broken.is_none() {
                    broken = http.receive(bytes, |event| events.push(event)).err();
                }
            });
            // After our end the peer's is all that counts.
            self.heard |= self.side != Side::Ended && (!events.is_empty() || received.is_ready());
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
                Poll::Ready(_) if self.side == Side::Ended => return Poll::Ready(Ok(Driven::Over)),
                Poll::Ready(Ok(false)) => {
                    return Poll::Ready(Err(ConnectionError::Io(io::ErrorKind::UnexpectedEof.into())));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(ConnectionError::Io(error))),
                Poll::Pending => {
                    let http = &mut self.http;
                    match alive.poll(cx, &mut self.heard, || http.ping(0)) {
                        Poll::Ready(_) if self.side == Side::Ended => return Poll::Ready(Ok(Driven::Over)),
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
            && self.side == Side::Open
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
            && self.side == Side::Open
            && !link.is_flushed()
        {
            match link.flush() {
                Ok(true) => self.emptied += 1,
                // The driver hears of an error when it next looks.
                _ => self.wake_driver(),
            }
        }
    }

    /// Wakes a stream's sender once the socket has taken what waits for it.
    fn queue(&mut self, stream: u32) {
        if !self.waiting.contains(&stream) {
            self.waiting.push_back(stream);
        }
        self.wake_driver();
    }

    /// Whether no stream can be opened.
    fn is_over(&self) -> bool {
        self.side != Side::Open || self.link.is_none()
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

    fn alive(&self, stream: u32) -> Result<(), StreamError> {
        match self.streams.get(&stream).map(|arrivals| arrivals.over) {
            Some(None) if self.link.is_some() => Ok(()),
            Some(Some(over)) => Err(over.into()),
            _ => Err(StreamError::ConnectionLost),
        }
    }
}

fn violated(violation: Violation) -> ConnectionError {
    ConnectionError::Protocol(violation.to_string())
}

/// Streams that try at once when a full socket takes more.
const AT_ONCE: usize = 4;

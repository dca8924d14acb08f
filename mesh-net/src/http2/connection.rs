//! One HTTP/2 connection: its streams, windows and settings.
//!
//! ```text
//! bytes --receive--> Event*                what is owed meanwhile (SETTINGS, PING, windows) --take_output--> bytes
//! open, reply, reset, go_away, ping -----------------------------------------------------> take_output
//! credit(stream) --> data_head(stream, n) --> nine bytes, to be sent before n bytes of data
//! consumed(stream, n): a reader took n bytes, so the peer may send as many more
//! ```
//!
//! A stream's window is what its reader has taken; the connection's own is given back at once, so that readers that are
//! stuck slow no other. Windows begin small and grow with what readers take, so that a peer cannot make us hold much for
//! streams that nobody reads.

use bytes::Bytes;
use thiserror::Error;

use self::receive::State;
use self::sections::Section;
use self::streams::Streams;
use super::fields::{Fields, Pseudo};
use super::frame::{self, Code, Head, kind, setting};
use super::hpack::decoder::Decoder;
use super::hpack::encoder::Encoder;
use crate::header_list::HeaderList;

mod receive;
mod control;
mod sections;
mod windows;
mod streams;

/// What one side allows the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that a peer may send on a new stream before its reader takes some.
    pub first_window: u32,
    /// Bytes to which that grows with what its reader takes.
    pub stream_window: u32,
    /// Bytes by which all windows of a connection may have grown together.
    pub growth: u32,
    /// Largest payload of a frame.
    pub max_frame: u32,
    /// Streams at once: what a server lets in, and what a client opens at most.
    pub max_streams: u32,
    /// Largest field section, counted as section 6.5.2 does.
    pub max_head: u32,
}

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request, a reply (also one with a status of 1xx that announces another), or what follows a message, which has no
    /// pseudo-fields and always ends it. `end`: the peer's side of the stream is over.
    Head { stream: u32, fields: Box<Fields>, end: bool },
    /// Some bytes; never none.
    Data { stream: u32, bytes: Bytes },
    /// The peer's side of a stream is over.
    End { stream: u32 },
    /// The stream is over on both sides: the peer gave it up, or broke its rules.
    Reset { stream: u32, code: Code },
    /// More may be sent on a stream, or, for 0, on any.
    Credit { stream: u32 },
    /// The peer takes no streams above `last`.
    GoAway { last: u32, code: Code },
    /// The answer to [`Connection::ping`].
    Pong(u64),
}

/// The peer broke the protocol: the connection is over, and [`Connection::take_output`] has its farewell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{what} ({code})")]
pub struct Violation {
    pub code: Code,
    pub what: &'static str,
}

const fn violation(code: Code, what: &'static str) -> Violation {
    Violation { code, what }
}

/// Why no stream was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// As many are open as the peer takes.
    Full,
    /// One side is leaving, or numbers have run out.
    Leaving,
}

/// See the module's description.
pub struct Connection {
    role: Role,
    limits: Limits,
    state: State,
    section: Option<Section>,
    streams: Streams,
    /// The next stream of ours.
    next: u32,
    /// The last stream of the peer's.
    last: u32,
    send_window: i64,
    receive_left: u32,
    /// Bytes by which streams' windows have grown.
    grown: u32,
    peer: Peer,
    decoder: Decoder,
    encoder: Encoder,
    output: Vec<u8>,
    /// We said GOAWAY.
    leaving: bool,
    /// The peer said GOAWAY.
    peer_leaving: bool,
    /// The peer's SETTINGS have come.
    greeted: bool,
    /// What was of no use, one after the other: see [`USELESS`].
    useless: u32,
    /// Streams that the peer reset or spoiled, less those that ended well: see [`RESETS`].
    resets: u32,
}

/// What the peer said of itself.
struct Peer {
    max_streams: u32,
    initial_window: u32,
}

impl Connection {
    /// Begins a connection: [`Connection::take_output`] has what is to be said first.
    pub fn new(role: Role, limits: Limits) -> Self {
        let mut this = Self {
            role,
            limits,
            state: if role == Role::Server { State::Preface(0) } else { State::between() },
            section: None,
            streams: Streams::default(),
            next: 1,
            last: 0,
            send_window: frame::DEFAULT_WINDOW.into(),
            receive_left: CONNECTION_WINDOW,
            grown: 0,
            peer: Peer {
                // RFC 9113, section 6.5.2 recommends peers to allow no fewer.
                max_streams: 100,
                initial_window: frame::DEFAULT_WINDOW,
            },
            decoder: Decoder::new(),
            encoder: Encoder::new(),
            output: Vec::new(),
            leaving: false,
            peer_leaving: false,
            greeted: false,
            useless: 0,
            resets: 0,
        };
        let mut settings = vec![
            (setting::INITIAL_WINDOW_SIZE, limits.first_window),
            (setting::MAX_FRAME_SIZE, limits.max_frame),
            (setting::MAX_HEADER_LIST_SIZE, limits.max_head),
        ];
        match role {
            Role::Client => {
                this.output.extend_from_slice(frame::PREFACE);
                settings.push((setting::ENABLE_PUSH, 0));
            }
            Role::Server => settings.push((setting::MAX_CONCURRENT_STREAMS, limits.max_streams)),
        }
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| name.to_be_bytes().into_iter().chain(value.to_be_bytes()))
            .collect();
        this.put(kind::SETTINGS, 0, 0, &payload);
        this.put(kind::WINDOW_UPDATE, 0, 0, &(CONNECTION_WINDOW - frame::DEFAULT_WINDOW).to_be_bytes());
        this
    }

    /// What is to be sent besides data, if anything; to be sent in this order, before data that is sent later.
    pub fn take_output(&mut self) -> Option<Vec<u8>> {
        (!self.output.is_empty()).then(|| std::mem::take(&mut self.output))
    }

    /// [`Connection::take_output`] for a caller that copies it: the memory is used again.
    pub fn drain_output(&mut self, take: impl FnOnce(&[u8])) {
        if self.has_output() {
            take(&self.output);
            self.output.clear();
        }
    }

    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether the peer's SETTINGS have come.
    pub fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// Whether the peer has begun what it has to end before anything else, its first words or a field section; behind which of
    /// its streams.
    pub fn begun_head(&self) -> Option<u32> {
        let is_head = matches!(&self.state, State::Payload { head, .. } if head.kind == kind::HEADERS);
        (is_head || self.section.is_some() || !self.greeted).then_some(self.last)
    }

    /// Streams that are open.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Streams that may be opened now; 0 once either side is leaving.
    pub fn available(&self) -> usize {
        let most = self.peer.max_streams.min(self.limits.max_streams) as usize;
        match self.leaving || self.peer_leaving || self.next > frame::MAX_WINDOW {
            true => 0,
            false => most.saturating_sub(self.streams.len()),
        }
    }

    /// Whether no stream will be opened any more.
    pub fn is_leaving(&self) -> bool {
        self.leaving || self.peer_leaving || matches!(self.state, State::Over) || self.next > frame::MAX_WINDOW
    }

    /// Asks for a stream.
    ///
    /// # Errors
    /// See [`NotOpened`].
    pub fn open(&mut self, fields: &Fields, end: bool) -> Result<u32, NotOpened> {
        self.open_with(&fields.pseudo, &fields.headers, end)
    }

    /// [`Connection::open`] for a caller that shares its headers.
    ///
    /// # Errors
    /// See [`NotOpened`].
    pub fn open_with(&mut self, pseudo: &Pseudo, headers: &HeaderList, end: bool) -> Result<u32, NotOpened> {
        if self.is_leaving() {
            return Err(NotOpened::Leaving);
        }
        if self.available() == 0 {
            return Err(NotOpened::Full);
        }
        let stream = self.next;
        self.next += 2;
        self.streams.insert(stream, self.stream(end, false));
        self.section(stream, pseudo, headers, end);
        Ok(stream)
    }

    /// Answers on a stream that the peer opened, or, with `end`, adds what follows a message, on either side. Nothing for a
    /// stream that is gone.
    pub fn reply(&mut self, stream: u32, fields: &Fields, end: bool) {
        match self.streams.get_mut(&stream) {
            Some(own) if !own.local_end => own.local_end = end,
            _ => return,
        }
        self.section(stream, &fields.pseudo, &fields.headers, end);
        self.retire(stream);
    }

    /// Ends our side of a stream.
    pub fn end(&mut self, stream: u32) {
        if self.streams.get(&stream).is_some_and(|own| !own.local_end) {
            let head = self.data_head(stream, 0, true);
            self.output.extend_from_slice(&head);
        }
    }

    /// Gives a stream up. Nothing for one that is gone.
    pub fn reset(&mut self, stream: u32, code: Code) {
        if self.forget(stream) {
            self.put(kind::RST_STREAM, 0, stream, &code.0.to_be_bytes());
        }
    }

    /// Tells the peer to open no further streams; those that are open go on.
    pub fn go_away(&mut self, code: Code) {
        if !self.leaving {
            self.leaving = true;
            let payload = [self.last.to_be_bytes(), code.0.to_be_bytes()].concat();
            self.put(kind::GOAWAY, 0, 0, &payload);
        }
    }

    /// Tells the peer that it should open no further streams, and takes those that it opens before it hears of it: to be followed by
    /// [`Connection::go_away`] at the answer to the PING that goes with it (RFC 9113, section 6.8).
    pub fn announce_leaving(&mut self) {
        if !self.leaving {
            let payload = [frame::MAX_WINDOW.to_be_bytes(), Code::NO_ERROR.0.to_be_bytes()].concat();
            self.put(kind::GOAWAY, 0, 0, &payload);
            self.ping(0);
        }
    }

    /// Asks for a sign of life.
    pub fn ping(&mut self, payload: u64) {
        self.put(kind::PING, 0, 0, &payload.to_be_bytes());
    }

    fn put(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let head = Head { length: payload.len() as u32, kind, flags, stream };
        self.output.extend_from_slice(&head.write());
        self.output.extend_from_slice(payload);
    }
}

const BAD_SIZE: Violation = violation(Code::FRAME_SIZE_ERROR, "a frame of a size that cannot be");

/// Bytes that a peer may have on its way over all streams: the connection's window is given back as data comes.
const CONNECTION_WINDOW: u32 = 64 << 20;
/// Longest payload besides data, and longest field section as it travels.
const LONGEST_PAYLOAD: usize = 64 << 10;
/// Frames that a field section may come in.
const MOST_FRAMES: u32 = 32;
/// Frames to no purpose, without data or a stream that ends well between them. PING and SETTINGS are not counted: a silent
/// connection lives by them, and who does not read our answers is stopped by that.
const USELESS: u32 = 1_000;
/// Streams that a peer may give up beyond those that end well.
const RESETS: u32 = 200;

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

use std::collections::HashMap;

use bytes::{Buf, Bytes};
use thiserror::Error;

use super::fields::{Decoded, Fields, Reader, Writer};
use super::frame::{self, Code, HEAD, Head, flag, kind, setting};

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
    /// A request, a reply, or what follows a message. `end`: the peer's side of the stream is over.
    Head { stream: u32, fields: Fields, end: bool },
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

struct Stream {
    /// Bytes that we may send. Below zero after the peer made all windows smaller.
    send_window: i64,
    /// Bytes that the peer may still send.
    receive_left: u32,
    /// Bytes that the peer may send in all before the reader takes some.
    receive_window: u32,
    /// Bytes that the reader took and the peer was not told of.
    taken: u32,
    /// We send no more.
    local_end: bool,
    /// The peer sends no more.
    remote_end: bool,
    /// A reply or a request has come.
    begun: bool,
}

/// See the module's description.
pub struct Connection {
    role: Role,
    limits: Limits,
    state: State,
    section: Option<Section>,
    streams: HashMap<u32, Stream>,
    /// The next stream of ours.
    next: u32,
    /// The last stream of the peer's.
    last: u32,
    send_window: i64,
    receive_left: u32,
    /// Bytes by which streams' windows have grown.
    grown: u32,
    peer: Peer,
    reader: Reader,
    writer: Writer,
    output: Vec<u8>,
    /// We said GOAWAY.
    leaving: bool,
    /// The peer said GOAWAY.
    peer_leaving: bool,
    /// The peer's SETTINGS have come.
    greeted: bool,
    /// What was of no use, one after the other: see [`USELESS`].
    useless: u32,
    /// Streams that the peer reset, less those that ended well: see [`RESETS`].
    resets: u32,
}

/// What the peer said of itself.
struct Peer {
    max_streams: u32,
    initial_window: u32,
}

/// What of the peer's bytes is being read.
enum State {
    /// The client's first words; so many have come.
    Preface(usize),
    Head {
        begun: [u8; HEAD],
        count: usize,
    },
    /// The payload of a DATA frame. `pad` is unknown until its byte has come.
    Data {
        stream: u32,
        left: usize,
        pad: usize,
        padded: bool,
        end: bool,
        /// Whether the stream takes it.
        wanted: bool,
    },
    /// Any other payload.
    Payload {
        head: Head,
        begun: Vec<u8>,
    },
    Over,
}

/// A field section whose end has not come.
struct Section {
    stream: u32,
    end: bool,
    block: Vec<u8>,
    frames: u32,
}

impl State {
    fn between() -> Self {
        Self::Head { begun: [0; HEAD], count: 0 }
    }
}

impl Connection {
    /// Begins a connection: [`Connection::take_output`] has what is to be said first.
    pub fn new(role: Role, limits: Limits) -> Self {
        let mut this = Self {
            role,
            limits,
            state: if role == Role::Server { State::Preface(0) } else { State::between() },
            section: None,
            streams: HashMap::new(),
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
            reader: Reader::new(),
            writer: Writer::new(),
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

    /// Whether the peer's SETTINGS have come.
    pub fn is_greeted(&self) -> bool {
        self.greeted
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
    pub fn open<'a>(
        &mut self,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        end: bool,
    ) -> Result<u32, NotOpened> {
        if self.is_leaving() {
            return Err(NotOpened::Leaving);
        }
        if self.available() == 0 {
            return Err(NotOpened::Full);
        }
        let stream = self.next;
        self.next += 2;
        self.streams.insert(stream, self.stream(end, false));
        self.section(stream, fields, end);
        Ok(stream)
    }

    /// Answers on a stream that the peer opened, or adds what follows a message. Nothing for a stream that is gone.
    pub fn reply<'a>(&mut self, stream: u32, fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>, end: bool) {
        match self.streams.get_mut(&stream) {
            Some(own) if !own.local_end => own.local_end = end,
            _ => return,
        }
        self.section(stream, fields, end);
        self.retire(stream);
    }

    /// Bytes of data that may be sent on a stream now; 0 for one that is gone.
    pub fn credit(&self, stream: u32) -> usize {
        match self.streams.get(&stream) {
            Some(own) if !own.local_end => own.send_window.min(self.send_window).max(0) as usize,
            _ => 0,
        }
    }

    /// What goes before `length` bytes of data, which are no more than the credit; `end`: they are the last.
    pub fn data_head(&mut self, stream: u32, length: usize, end: bool) -> [u8; HEAD] {
        let length = length as u32;
        if let Some(own) = self.streams.get_mut(&stream) {
            own.send_window -= i64::from(length);
            own.local_end |= end;
            self.send_window -= i64::from(length);
        }
        if end {
            self.retire(stream);
        }
        Head { length, kind: kind::DATA, flags: if end { flag::END_STREAM } else { 0 }, stream }.write()
    }

    /// Ends our side of a stream.
    pub fn end(&mut self, stream: u32) {
        if self.streams.get(&stream).is_some_and(|own| !own.local_end) {
            let head = self.data_head(stream, 0, true);
            self.output.extend_from_slice(&head);
        }
    }

    /// A reader took `bytes` of a stream's data.
    pub fn consumed(&mut self, stream: u32, bytes: usize) {
        let Some(own) = self.streams.get_mut(&stream) else { return };
        own.taken = own.taken.saturating_add(bytes as u32);
        if own.remote_end || own.taken < own.receive_window / 2 {
            return;
        }
        let room = self.limits.growth - self.grown;
        let more = own.receive_window.min(self.limits.stream_window.saturating_sub(own.receive_window)).min(room);
        own.receive_window += more;
        self.grown += more;
        let update = own.taken + more;
        own.receive_left += update;
        own.taken = 0;
        self.put(kind::WINDOW_UPDATE, 0, stream, &update.to_be_bytes());
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

    /// Asks for a sign of life.
    pub fn ping(&mut self, payload: u64) {
        self.put(kind::PING, 0, 0, &payload.to_be_bytes());
    }

    /// Takes what came from the peer, and says what it means.
    ///
    /// # Errors
    /// The connection is over: send what [`Connection::take_output`] has, and close. Events before it hold.
    pub fn receive(&mut self, mut bytes: Bytes, mut each: impl FnMut(Event)) -> Result<(), Violation> {
        let result = self.parse(&mut bytes, &mut each);
        if let Err(violation) = result {
            self.leaving = false;
            self.go_away(violation.code);
            self.state = State::Over;
        }
        result
    }

    fn parse(&mut self, bytes: &mut Bytes, each: &mut impl FnMut(Event)) -> Result<(), Violation> {
        loop {
            match &mut self.state {
                State::Over => return Ok(()),
                State::Preface(count) => {
                    let some = bytes.split_to(bytes.len().min(frame::PREFACE.len() - *count));
                    if some != frame::PREFACE[*count..*count + some.len()] {
                        return Err(violation(Code::PROTOCOL_ERROR, "no HTTP/2 preface"));
                    }
                    *count += some.len();
                    if *count < frame::PREFACE.len() {
                        return Ok(());
                    }
                    self.state = State::between();
                }
                State::Head { begun, count } => {
                    let some = bytes.split_to(bytes.len().min(HEAD - *count));
                    begun[*count..*count + some.len()].copy_from_slice(&some);
                    *count += some.len();
                    if *count < HEAD {
                        return Ok(());
                    }
                    let head = Head::read(*begun);
                    self.state = self.begin(head)?;
                }
                State::Data { stream, left, pad, padded, end, wanted } => {
                    if *padded && *left > 0 {
                        if bytes.is_empty() {
                            return Ok(());
                        }
                        *pad = bytes.get_u8().into();
                        *left -= 1;
                        *padded = false;
                        if *pad > *left {
                            return Err(violation(Code::PROTOCOL_ERROR, "more padding than frame"));
                        }
                    }
                    let data = bytes.split_to(bytes.len().min(*left - *pad));
                    *left -= data.len();
                    if !data.is_empty() && *wanted {
                        each(Event::Data { stream: *stream, bytes: data });
                    }
                    if *left == *pad {
                        let some = bytes.len().min(*left);
                        bytes.advance(some);
                        (*left, *pad) = (*left - some, *pad - some);
                    }
                    if *left > 0 {
                        return Ok(());
                    }
                    let (stream, end, wanted) = (*stream, *end, *wanted);
                    self.state = State::between();
                    if end && wanted {
                        self.remote_end(stream);
                        each(Event::End { stream });
                    }
                }
                State::Payload { head, begun } => {
                    let some = bytes.split_to(bytes.len().min(head.length as usize - begun.len()));
                    begun.extend_from_slice(&some);
                    if begun.len() < head.length as usize {
                        return Ok(());
                    }
                    let (head, payload) = (*head, std::mem::take(begun));
                    self.state = State::between();
                    self.frame(head, payload, each)?;
                }
            }
            if bytes.is_empty() && !self.is_complete() {
                return Ok(());
            }
        }
    }

    /// Whether what is being read needs no further byte.
    fn is_complete(&self) -> bool {
        match &self.state {
            State::Data { left, .. } => *left == 0,
            State::Payload { head, begun } => begun.len() == head.length as usize,
            State::Preface(_) | State::Head { .. } | State::Over => false,
        }
    }

    /// What comes after a frame's head.
    fn begin(&mut self, head: Head) -> Result<State, Violation> {
        let length = head.length as usize;
        if head.length > self.limits.max_frame {
            return Err(violation(Code::FRAME_SIZE_ERROR, "a frame is longer than we take"));
        }
        if !self.greeted && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return Err(violation(Code::PROTOCOL_ERROR, "the first frame is not SETTINGS"));
        }
        match &self.section {
            Some(section) if head.kind != kind::CONTINUATION || head.stream != section.stream => {
                return Err(violation(Code::PROTOCOL_ERROR, "a field section was interrupted"));
            }
            None if head.kind == kind::CONTINUATION => {
                return Err(violation(Code::PROTOCOL_ERROR, "CONTINUATION of nothing"));
            }
            _ => {}
        }
        if head.kind == kind::DATA {
            return self.begin_data(head);
        }
        let begun = self.section.as_ref().map_or(0, |section| section.block.len());
        if length + begun > LONGEST_PAYLOAD {
            return Err(violation(Code::ENHANCE_YOUR_CALM, "a field section or another message is too long"));
        }
        Ok(State::Payload { head, begun: Vec::with_capacity(length) })
    }

    fn begin_data(&mut self, head: Head) -> Result<State, Violation> {
        let (stream, length, end) = (head.stream, head.length, head.has(flag::END_STREAM));
        let padded = head.has(flag::PADDED);
        if padded && length == 0 {
            return Err(violation(Code::FRAME_SIZE_ERROR, "no room for the padding's length"));
        }
        if length == 0 && !end {
            self.was_useless()?;
        }
        // The connection's window is given back at once: streams that are stuck hold no other back.
        self.receive_left = self
            .receive_left
            .checked_sub(length)
            .ok_or(violation(Code::FLOW_CONTROL_ERROR, "more data than the connection's window"))?;
        if self.receive_left < CONNECTION_WINDOW / 2 {
            let update = CONNECTION_WINDOW - self.receive_left;
            self.receive_left = CONNECTION_WINDOW;
            self.put(kind::WINDOW_UPDATE, 0, 0, &update.to_be_bytes());
        }
        let idle = self.is_idle(stream);
        let wanted = match self.streams.get_mut(&stream) {
            Some(own) if own.remote_end => {
                return Err(violation(Code::STREAM_CLOSED, "data behind a stream's end"));
            }
            Some(own) if !own.begun => {
                return Err(violation(Code::PROTOCOL_ERROR, "data before a reply"));
            }
            Some(own) => {
                own.receive_left = own
                    .receive_left
                    .checked_sub(length)
                    .ok_or(violation(Code::FLOW_CONTROL_ERROR, "more data than a stream's window"))?;
                if length > 0 {
                    self.useless = 0;
                }
                true
            }
            None if idle || stream == 0 => {
                return Err(violation(Code::PROTOCOL_ERROR, "data on a stream that never was"));
            }
            // It was on its way when the stream ended.
            None => false,
        };
        Ok(State::Data { stream, left: length as usize, pad: 0, padded, end, wanted })
    }

    /// A whole frame other than DATA.
    fn frame(&mut self, head: Head, payload: Vec<u8>, each: &mut impl FnMut(Event)) -> Result<(), Violation> {
        match head.kind {
            kind::HEADERS => self.headers(head, payload, each),
            kind::CONTINUATION => {
                let mut section = self.section.take().expect("checked when the frame began");
                section.block.extend_from_slice(&payload);
                section.frames += 1;
                if section.frames > MOST_FRAMES {
                    return Err(violation(Code::ENHANCE_YOUR_CALM, "a field section in too many pieces"));
                }
                self.section_grew(section, head.has(flag::END_HEADERS), each)
            }
            kind::SETTINGS => self.settings(head, &payload, each),
            kind::PING => self.pinged(head, &payload, each),
            kind::WINDOW_UPDATE => self.window_update(head, &payload, each),
            kind::RST_STREAM => self.was_reset(head, &payload, each),
            kind::GOAWAY => {
                let [a, b, c, d, e, f, g, h, ..] = payload[..] else { return Err(BAD_SIZE) };
                if head.stream != 0 {
                    return Err(violation(Code::PROTOCOL_ERROR, "GOAWAY on a stream"));
                }
                self.peer_leaving = true;
                let last = u32::from_be_bytes([a & 0x7f, b, c, d]);
                // Streams of ours above it were not seen.
                let unseen: Vec<u32> =
                    self.streams.keys().copied().filter(|stream| self.is_ours(*stream) && *stream > last).collect();
                for stream in unseen {
                    self.forget(stream);
                    each(Event::Reset { stream, code: Code::REFUSED_STREAM });
                }
                each(Event::GoAway { last, code: Code(u32::from_be_bytes([e, f, g, h])) });
                Ok(())
            }
            kind::PRIORITY if head.length != 5 => Err(BAD_SIZE),
            kind::PRIORITY if head.stream == 0 => Err(violation(Code::PROTOCOL_ERROR, "PRIORITY of no stream")),
            kind::PUSH_PROMISE => Err(violation(Code::PROTOCOL_ERROR, "a push, which nobody asked for")),
            // PRIORITY says nothing any more, and kinds that nobody knows are passed over (section 4.1).
            _ => self.was_useless(),
        }
    }

    fn headers(&mut self, head: Head, payload: Vec<u8>, each: &mut impl FnMut(Event)) -> Result<(), Violation> {
        if head.stream == 0 {
            return Err(violation(Code::PROTOCOL_ERROR, "HEADERS of no stream"));
        }
        let mut block = &payload[..];
        let mut pad = 0;
        if head.has(flag::PADDED) {
            let (length, rest) = block.split_first().ok_or(BAD_SIZE)?;
            (pad, block) = (usize::from(*length), rest);
        }
        if head.has(flag::PRIORITY) {
            let (priority, rest) = block.split_at_checked(5).ok_or(BAD_SIZE)?;
            if u32::from_be_bytes([priority[0] & 0x7f, priority[1], priority[2], priority[3]]) == head.stream {
                return Err(violation(Code::PROTOCOL_ERROR, "a stream that depends on itself"));
            }
            block = rest;
        }
        let length = block.len().checked_sub(pad).ok_or(violation(Code::PROTOCOL_ERROR, "more padding than frame"))?;
        let section = Section {
            stream: head.stream,
            end: head.has(flag::END_STREAM),
            block: block[..length].to_vec(),
            frames: 1,
        };
        self.section_grew(section, head.has(flag::END_HEADERS), each)
    }

    fn section_grew(&mut self, section: Section, whole: bool, each: &mut impl FnMut(Event)) -> Result<(), Violation> {
        if !whole {
            self.section = Some(section);
            return Ok(());
        }
        let Section { stream, end, block, .. } = section;
        // Read in any case: what follows builds on it.
        let decoded = self.reader.read(&block, self.limits.max_head as usize);
        let decoded = decoded.map_err(|_| violation(Code::COMPRESSION_ERROR, "a field section is no HPACK"))?;
        let (ours, idle) = (self.is_ours(stream), self.is_idle(stream));
        match self.streams.get_mut(&stream) {
            Some(own) if own.remote_end => {
                return Err(violation(Code::STREAM_CLOSED, "HEADERS behind a stream's end"));
            }
            // What follows a message ends it.
            Some(own) if own.begun && !end && self.role == Role::Server => {
                self.break_off(stream, each);
                return Ok(());
            }
            Some(own) => own.begun = true,
            None if !ours && idle => {
                if self.role == Role::Client {
                    return Err(violation(Code::PROTOCOL_ERROR, "a server opened a stream"));
                }
                self.last = stream;
                if self.leaving {
                    // It will learn that it was not seen from our GOAWAY.
                    return Ok(());
                }
                if self.streams.len() >= self.limits.max_streams as usize {
                    self.was_useless()?;
                    self.put(kind::RST_STREAM, 0, stream, &Code::REFUSED_STREAM.0.to_be_bytes());
                    return Ok(());
                }
                self.streams.insert(stream, self.stream(false, true));
            }
            None if idle => {
                return Err(violation(Code::PROTOCOL_ERROR, "HEADERS on a stream that nobody opened"));
            }
            // It was on its way when we gave the stream up.
            None => return self.was_useless(),
        }
        match decoded {
            Decoded::Fields(fields) => {
                each(Event::Head { stream, fields, end });
                if end {
                    self.remote_end(stream);
                }
            }
            Decoded::Malformed => {
                self.was_useless()?;
                self.break_off(stream, each);
            }
        }
        Ok(())
    }

    fn settings(&mut self, head: Head, payload: &[u8], each: &mut impl FnMut(Event)) -> Result<(), Violation> {
        if head.stream != 0 {
            return Err(violation(Code::PROTOCOL_ERROR, "SETTINGS on a stream"));
        }
        if head.has(flag::ACK) {
            return if payload.is_empty() { Ok(()) } else { Err(BAD_SIZE) };
        }
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(BAD_SIZE);
        }
        for [a, b, value @ ..] in settings {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                setting::HEADER_TABLE_SIZE => self.writer.resize(value),
                setting::ENABLE_PUSH if value > 1 || (value == 1 && self.role == Role::Client) => {
                    return Err(violation(Code::PROTOCOL_ERROR, "a setting that cannot be"));
                }
                setting::MAX_CONCURRENT_STREAMS => self.peer.max_streams = value,
                setting::INITIAL_WINDOW_SIZE => {
                    if value > frame::MAX_WINDOW {
                        return Err(violation(Code::FLOW_CONTROL_ERROR, "a window that cannot be"));
                    }
                    let more = i64::from(value) - i64::from(self.peer.initial_window);
                    self.peer.initial_window = value;
                    for own in self.streams.values_mut() {
                        own.send_window += more;
                        if own.send_window > frame::MAX_WINDOW.into() {
                            return Err(violation(Code::FLOW_CONTROL_ERROR, "a window that cannot be"));
                        }
                    }
                }
                // We send no longer ones than every peer takes.
                setting::MAX_FRAME_SIZE if !(frame::DEFAULT_MAX_FRAME..=frame::MAX_MAX_FRAME).contains(&value) => {
                    return Err(violation(Code::PROTOCOL_ERROR, "a setting that cannot be"));
                }
                _ => {}
            }
        }
        self.greeted = true;
        self.put(kind::SETTINGS, flag::ACK, 0, &[]);
        // Windows and the number of streams may have grown.
        each(Event::Credit { stream: 0 });
        Ok(())
    }

    fn pinged(&mut self, head: Head, payload: &[u8], each: &mut impl FnMut(Event)) -> Result<(), Violation> {
        let payload = <[u8; 8]>::try_from(payload).map_err(|_| BAD_SIZE)?;
        if head.stream != 0 {
            return Err(violation(Code::PROTOCOL_ERROR, "PING on a stream"));
        }
        if head.has(flag::ACK) {
            each(Event::Pong(u64::from_be_bytes(payload)));
            return Ok(());
        }
        self.put(kind::PING, flag::ACK, 0, &payload);
        Ok(())
    }

    fn window_update(&mut self, head: Head, payload: &[u8], each: &mut impl FnMut(Event)) -> Result<(), Violation> {
        let [a, b, c, d] = payload[..] else { return Err(BAD_SIZE) };
        let more = i64::from(u32::from_be_bytes([a & 0x7f, b, c, d]));
        let stream = head.stream;
        if stream == 0 {
            self.send_window += more;
            if more == 0 {
                return Err(violation(Code::PROTOCOL_ERROR, "a window that grows by nothing"));
            }
            if self.send_window > frame::MAX_WINDOW.into() {
                return Err(violation(Code::FLOW_CONTROL_ERROR, "a window that cannot be"));
            }
            each(Event::Credit { stream: 0 });
            return Ok(());
        }
        let idle = self.is_idle(stream);
        match self.streams.get_mut(&stream) {
            Some(own) => {
                own.send_window += more;
                if more == 0 || own.send_window > frame::MAX_WINDOW.into() {
                    let code = if more == 0 { Code::PROTOCOL_ERROR } else { Code::FLOW_CONTROL_ERROR };
                    self.reset(stream, code);
                    each(Event::Reset { stream, code });
                    return self.was_useless();
                }
                each(Event::Credit { stream });
                Ok(())
            }
            None if idle => Err(violation(Code::PROTOCOL_ERROR, "credit for a stream that never was")),
            None => self.was_useless(),
        }
    }

    fn was_reset(&mut self, head: Head, payload: &[u8], each: &mut impl FnMut(Event)) -> Result<(), Violation> {
        let [a, b, c, d] = payload[..] else { return Err(BAD_SIZE) };
        let stream = head.stream;
        if stream == 0 || self.is_idle(stream) {
            return Err(violation(Code::PROTOCOL_ERROR, "a reset of a stream that never was"));
        }
        if !self.forget(stream) {
            return self.was_useless();
        }
        each(Event::Reset { stream, code: Code(u32::from_be_bytes([a, b, c, d])) });
        // Opened and given up, again and again, costs us more than the peer (CVE-2023-44487).
        self.resets += 1;
        match self.role == Role::Server && self.resets > RESETS {
            true => Err(violation(Code::ENHANCE_YOUR_CALM, "too many streams were given up")),
            false => Ok(()),
        }
    }

    /// Counts what a peer sent in vain.
    fn was_useless(&mut self) -> Result<(), Violation> {
        self.useless += 1;
        match self.useless > USELESS {
            true => Err(violation(Code::ENHANCE_YOUR_CALM, "much that is of no use, one after the other")),
            false => Ok(()),
        }
    }

    /// Gives up a stream on which the peer broke the rules.
    fn break_off(&mut self, stream: u32, each: &mut impl FnMut(Event)) {
        self.reset(stream, Code::PROTOCOL_ERROR);
        each(Event::Reset { stream, code: Code::PROTOCOL_ERROR });
    }

    fn stream(&self, local_end: bool, begun: bool) -> Stream {
        Stream {
            send_window: self.peer.initial_window.into(),
            receive_left: self.limits.first_window,
            receive_window: self.limits.first_window,
            taken: 0,
            local_end,
            remote_end: false,
            begun,
        }
    }

    fn is_ours(&self, stream: u32) -> bool {
        (stream % 2 == 1) == (self.role == Role::Client)
    }

    /// Whether nobody has opened it yet.
    fn is_idle(&self, stream: u32) -> bool {
        if self.is_ours(stream) { stream >= self.next } else { stream > self.last }
    }

    fn remote_end(&mut self, stream: u32) {
        if let Some(own) = self.streams.get_mut(&stream) {
            own.remote_end = true;
        }
        self.retire(stream);
    }

    /// Forgets a stream that is over on both sides.
    fn retire(&mut self, stream: u32) {
        if self.streams.get(&stream).is_some_and(|own| own.local_end && own.remote_end) {
            self.forget(stream);
            self.resets = self.resets.saturating_sub(1);
            self.useless = 0;
        }
    }

    fn forget(&mut self, stream: u32) -> bool {
        let Some(own) = self.streams.remove(&stream) else { return false };
        self.grown -= own.receive_window - self.limits.first_window;
        true
    }

    fn section<'a>(&mut self, stream: u32, fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>, end: bool) {
        let block = self.writer.write(fields);
        let mut pieces = block.chunks(frame::DEFAULT_MAX_FRAME as usize);
        let first = pieces.next().unwrap_or_default();
        let mut flags = if end { flag::END_STREAM } else { 0 };
        let mut kind = kind::HEADERS;
        let mut piece = first;
        loop {
            let next = pieces.next();
            flags |= if next.is_none() { flag::END_HEADERS } else { 0 };
            self.put(kind, flags, stream, piece);
            match next {
                Some(next) => (piece, kind, flags) = (next, kind::CONTINUATION, 0),
                None => return,
            }
        }
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

//! From bytes to frames. A frame that has come whole is read where it lies.

use bytes::{Buf, Bytes};

use super::{BAD_SIZE, Connection, Event, LONGEST_PAYLOAD, Violation, violation};
use crate::http2::frame::{self, Code, HEAD, Head, flag, kind};

/// What of the peer's bytes is being read.
pub(super) enum State {
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
    /// Any other payload, as far as it has come.
    Payload {
        head: Head,
        begun: Vec<u8>,
    },
    Over,
}

impl State {
    pub(super) fn between() -> Self {
        Self::Head { begun: [0; HEAD], count: 0 }
    }
}

impl Connection {
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
                    let some = bytes.len().min(frame::PREFACE.len() - *count);
                    if bytes[..some] != frame::PREFACE[*count..*count + some] {
                        return Err(violation(Code::PROTOCOL_ERROR, "no HTTP/2 preface"));
                    }
                    bytes.advance(some);
                    *count += some;
                    if *count < frame::PREFACE.len() {
                        return Ok(());
                    }
                    self.state = State::between();
                }
                State::Head { begun, count } => {
                    let some = bytes.len().min(HEAD - *count);
                    begun[*count..*count + some].copy_from_slice(&bytes[..some]);
                    bytes.advance(some);
                    *count += some;
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
                        // It counts (section 6.9.1), and no reader takes it.
                        let (stream, padding) = (*stream, *pad + 1);
                        self.consumed(stream, padding);
                        continue;
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
                    let (head, length) = (*head, head.length as usize);
                    let some = bytes.len().min(length - begun.len());
                    if some < length {
                        begun.reserve_exact(length - begun.len());
                        begun.extend_from_slice(&bytes[..some]);
                        bytes.advance(some);
                        if begun.len() < length {
                            return Ok(());
                        }
                        let payload = std::mem::take(begun);
                        self.state = State::between();
                        self.frame(head, &payload, each)?;
                    } else {
                        self.state = State::between();
                        self.frame(head, &bytes[..length], each)?;
                        bytes.advance(length);
                    }
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
        Ok(State::Payload { head, begun: Vec::new() })
    }

    /// A whole frame other than DATA.
    fn frame(&mut self, head: Head, payload: &[u8], each: &mut impl FnMut(Event)) -> Result<(), Violation> {
        match head.kind {
            kind::HEADERS => self.headers(head, payload, each),
            kind::CONTINUATION => self.continuation(head, payload, each),
            kind::SETTINGS => self.settings(head, payload, each),
            kind::PING => self.pinged(head, payload, each),
            kind::WINDOW_UPDATE => self.window_update(head, payload, each),
            kind::RST_STREAM => self.was_reset(head, payload, each),
            kind::GOAWAY => self.told_to_leave(head, payload, each),
            kind::PRIORITY if head.length != 5 => Err(BAD_SIZE),
            kind::PRIORITY if head.stream == 0 => Err(violation(Code::PROTOCOL_ERROR, "PRIORITY of no stream")),
            kind::PUSH_PROMISE => Err(violation(Code::PROTOCOL_ERROR, "a push, which nobody asked for")),
            // PRIORITY says nothing any more, and kinds that nobody knows are passed over (section 4.1).
            _ => self.was_useless(),
        }
    }
}

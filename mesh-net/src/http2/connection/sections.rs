//! Field sections, in the frames that they come and go in (RFC 9113, sections 4.3 and 8.1).

use http::StatusCode;

use super::{BAD_SIZE, Connection, Event, MOST_FRAMES, Role, Violation, violation};
use crate::header_list::HeaderList;
use crate::http2::fields::Pseudo;
use crate::http2::frame::{self, Code, HEAD, Head, flag, kind};
use crate::http2::hpack::decoder::Decoded;

/// A field section whose end has not come.
pub(super) struct Section {
    pub(super) stream: u32,
    end: bool,
    pub(super) block: Vec<u8>,
    frames: u32,
}

impl Connection {
    pub(super) fn headers(
        &mut self,
        head: Head,
        payload: &[u8],
        each: &mut impl FnMut(Event),
    ) -> Result<(), Violation> {
        if head.stream == 0 {
            return Err(violation(Code::PROTOCOL_ERROR, "HEADERS of no stream"));
        }
        let mut block = payload;
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
        let (block, end) = (&block[..length], head.has(flag::END_STREAM));
        if head.has(flag::END_HEADERS) {
            return self.arrived(head.stream, block, end, each);
        }
        self.section = Some(Section { stream: head.stream, end, block: block.to_vec(), frames: 1 });
        Ok(())
    }

    pub(super) fn continuation(
        &mut self,
        head: Head,
        payload: &[u8],
        each: &mut impl FnMut(Event),
    ) -> Result<(), Violation> {
        let mut section = self.section.take().expect("checked when the frame began");
        section.block.extend_from_slice(payload);
        section.frames += 1;
        if section.frames > MOST_FRAMES {
            return Err(violation(Code::ENHANCE_YOUR_CALM, "a field section in too many pieces"));
        }
        if head.has(flag::END_HEADERS) {
            return self.arrived(section.stream, &section.block, section.end, each);
        }
        self.section = Some(section);
        Ok(())
    }

    /// A whole section.
    fn arrived(&mut self, stream: u32, block: &[u8], end: bool, each: &mut impl FnMut(Event)) -> Result<(), Violation> {
        // Read in any case: what follows builds on it.
        let decoded = self.decoder.decode(block, self.limits.max_head as usize);
        let decoded = decoded.map_err(|_| violation(Code::COMPRESSION_ERROR, "a field section is no HPACK"))?;
        let (ours, idle) = (self.is_ours(stream), self.is_idle(stream));
        let begun = match self.streams.get(&stream) {
            Some(own) if own.remote_end => {
                return Err(violation(Code::STREAM_CLOSED, "HEADERS behind a stream's end"));
            }
            Some(own) => own.begun,
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
                self.streams.insert(stream, self.stream(false, false));
                false
            }
            None if idle => {
                return Err(violation(Code::PROTOCOL_ERROR, "HEADERS on a stream that nobody opened"));
            }
            // It was on its way when we gave the stream up.
            None => return self.was_useless(),
        };
        match decoded {
            Decoded::Fields(fields) if fits(&fields.pseudo, self.role, begun, end) => {
                if is_before_the_answer(&fields.pseudo) {
                    self.was_useless()?;
                } else if let Some(own) = self.streams.get_mut(&stream) {
                    own.begun = true;
                }
                each(Event::Head { stream, fields, end });
                if end {
                    self.remote_end(stream);
                }
            }
            _ => self.break_off(stream, each)?,
        }
        Ok(())
    }

    /// Writes a section into the output, in as many frames as it needs.
    pub(super) fn section(&mut self, stream: u32, pseudo: &Pseudo, headers: &HeaderList, end: bool) {
        let at = self.output.len();
        self.output.extend_from_slice(&[0; HEAD]);
        self.encoder.encode(pseudo, headers, &mut self.output);
        let length = self.output.len() - at - HEAD;
        let most = frame::DEFAULT_MAX_FRAME as usize;
        let rest = if length > most { self.output.split_off(at + HEAD + most) } else { Vec::new() };
        let ends = |last: bool| if last { flag::END_HEADERS } else { 0 };
        let head = Head {
            length: length.min(most) as u32,
            kind: kind::HEADERS,
            flags: ends(rest.is_empty()) | if end { flag::END_STREAM } else { 0 },
            stream,
        };
        self.output[at..at + HEAD].copy_from_slice(&head.write());
        let mut pieces = rest.chunks(most).peekable();
        while let Some(piece) = pieces.next() {
            self.put(kind::CONTINUATION, ends(pieces.peek().is_none()), stream, piece);
        }
    }
}

/// Whether a section is one that may come to `role` where it stands: a request; a reply, before which there may be others
/// that announce it; or, when one has `begun`, what follows and ends the message.
fn fits(pseudo: &Pseudo, role: Role, begun: bool, end: bool) -> bool {
    match (begun, role) {
        (true, _) => end && pseudo.is_none(),
        (false, Role::Server) => pseudo.status.is_none(),
        // There is no other protocol to switch to (section 8.6).
        (false, Role::Client) => {
            pseudo.status.is_some_and(|status| status != StatusCode::SWITCHING_PROTOCOLS)
                && !pseudo.is_asking()
                && !(end && is_before_the_answer(pseudo))
        }
    }
}

fn is_before_the_answer(pseudo: &Pseudo) -> bool {
    pseudo.status.is_some_and(|status| status.is_informational())
}

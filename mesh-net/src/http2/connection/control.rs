//! Frames that speak of the connection or end something: SETTINGS, PING, GOAWAY, RST_STREAM (RFC 9113, section 6); and what a
//! peer may send in vain.

use super::{BAD_SIZE, Connection, Event, RESETS, Role, USELESS, Violation, violation};
use crate::http2::frame::{self, Code, Head, flag, kind, setting};

impl Connection {
    pub(super) fn settings(
        &mut self,
        head: Head,
        payload: &[u8],
        each: &mut impl FnMut(Event),
    ) -> Result<(), Violation> {
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
                setting::HEADER_TABLE_SIZE => self.encoder.resize(value),
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

    pub(super) fn pinged(&mut self, head: Head, payload: &[u8], each: &mut impl FnMut(Event)) -> Result<(), Violation> {
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

    pub(super) fn told_to_leave(
        &mut self,
        head: Head,
        payload: &[u8],
        each: &mut impl FnMut(Event),
    ) -> Result<(), Violation> {
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

    pub(super) fn was_reset(
        &mut self,
        head: Head,
        payload: &[u8],
        each: &mut impl FnMut(Event),
    ) -> Result<(), Violation> {
        let [a, b, c, d] = payload[..] else { return Err(BAD_SIZE) };
        let stream = head.stream;
        if stream == 0 || self.is_idle(stream) {
            return Err(violation(Code::PROTOCOL_ERROR, "a reset of a stream that never was"));
        }
        if !self.forget(stream) {
            return self.was_useless();
        }
        each(Event::Reset { stream, code: Code(u32::from_be_bytes([a, b, c, d])) });
        self.came_to_nothing()
    }

    /// Counts a stream that the peer gave up, or made us give up: opened for nothing, again and again, it costs us more than the
    /// peer (CVE-2023-44487, CVE-2025-8671).
    pub(super) fn came_to_nothing(&mut self) -> Result<(), Violation> {
        self.resets += 1;
        match self.role == Role::Server && self.resets > RESETS {
            true => Err(violation(Code::ENHANCE_YOUR_CALM, "too many streams were given up")),
            false => Ok(()),
        }
    }

    /// Counts what a peer sent in vain.
    pub(super) fn was_useless(&mut self) -> Result<(), Violation> {
        self.useless += 1;
        match self.useless > USELESS {
            true => Err(violation(Code::ENHANCE_YOUR_CALM, "much that is of no use, one after the other")),
            false => Ok(()),
        }
    }
}

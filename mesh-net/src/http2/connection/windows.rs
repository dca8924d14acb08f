//! How much may be sent, by us and by the peer (RFC 9113, section 5.2).

use super::receive::State;
use super::{BAD_SIZE, CONNECTION_WINDOW, Connection, Event, Violation, violation};
use crate::http2::frame::{self, Code, HEAD, Head, flag, kind};

impl Connection {
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

    pub(super) fn begin_data(&mut self, head: Head) -> Result<State, Violation> {
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

    pub(super) fn window_update(
        &mut self,
        head: Head,
        payload: &[u8],
        each: &mut impl FnMut(Event),
    ) -> Result<(), Violation> {
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
                    self.was_useless()?;
                    return self.came_to_nothing();
                }
                each(Event::Credit { stream });
                Ok(())
            }
            None if idle => Err(violation(Code::PROTOCOL_ERROR, "credit for a stream that never was")),
            None => self.was_useless(),
        }
    }
}

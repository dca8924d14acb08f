//! The streams of a connection: which there are, whose, and when they are over.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::{Connection, Event, Role, Violation};
use crate::http2::frame::Code;

pub(super) type Streams = HashMap<u32, Stream, RandomState>;

pub(super) struct Stream {
    /// Bytes that we may send. Below zero after the peer made all windows smaller.
    pub(super) send_window: i64,
    /// Bytes that the peer may still send.
    pub(super) receive_left: u32,
    /// Bytes that the peer may send in all before the reader takes some.
    pub(super) receive_window: u32,
    /// Bytes that the reader took and the peer was not told of.
    pub(super) taken: u32,
    /// We send no more.
    pub(super) local_end: bool,
    /// The peer sends no more.
    pub(super) remote_end: bool,
    /// A request has come, or a reply that is not one before the answer (RFC 9110, section 15.2).
    pub(super) begun: bool,
}

impl Connection {
    /// Gives up a stream on which the peer broke the rules.
    pub(super) fn break_off(&mut self, stream: u32, each: &mut impl FnMut(Event)) -> Result<(), Violation> {
        self.reset(stream, Code::PROTOCOL_ERROR);
        each(Event::Reset { stream, code: Code::PROTOCOL_ERROR });
        self.was_useless()?;
        self.came_to_nothing()
    }

    pub(super) fn stream(&self, local_end: bool, begun: bool) -> Stream {
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

    pub(super) fn is_ours(&self, stream: u32) -> bool {
        (stream % 2 == 1) == (self.role == Role::Client)
    }

    /// Whether nobody has opened it yet.
    pub(super) fn is_idle(&self, stream: u32) -> bool {
        if self.is_ours(stream) { stream >= self.next } else { stream > self.last }
    }

    pub(super) fn remote_end(&mut self, stream: u32) {
        if let Some(own) = self.streams.get_mut(&stream) {
            own.remote_end = true;
        }
        self.retire(stream);
    }

    /// Forgets a stream that is over on both sides.
    pub(super) fn retire(&mut self, stream: u32) {
        if self.streams.get(&stream).is_some_and(|own| own.local_end && own.remote_end) {
            self.forget(stream);
            self.resets = self.resets.saturating_sub(1);
            self.useless = 0;
        }
    }

    pub(super) fn forget(&mut self, stream: u32) -> bool {
        let Some(own) = self.streams.remove(&stream) else { return false };
        self.grown -= own.receive_window - self.limits.first_window;
        true
    }
}

//! What has come on a stream and waits for its reader.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;

use crate::http2::fields::Fields;
use crate::http2::frame::Code;
use crate::tunnel::stream::StreamError;

/// What came on a stream and was not taken, and who waits for more.
#[derive(Default)]
pub(super) struct Arrivals {
    pub(super) reply: Option<Box<Fields>>,
    pub(super) data: VecDeque<Bytes>,
    /// How many of the first pieces have been put aside if they are small.
    pub(super) small: usize,
    pub(super) ended: bool,
    pub(super) over: Option<Over>,
    pub(super) reader: Option<Waker>,
    pub(super) sender: Option<Waker>,
    /// How often the socket had taken everything when its last words were waited for.
    pub(super) flushing: Option<u64>,
}

impl Arrivals {
    pub(super) fn wake(&mut self) {
        for waker in [self.reader.take(), self.sender.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

/// How a stream came to an early end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
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

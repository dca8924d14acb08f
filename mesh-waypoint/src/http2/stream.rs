//! One stream of a connection: what came on it and was not taken, and who waits for more.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use mesh_net::http2::fields::Fields;
use mesh_net::http2::frame::Code;
use thiserror::Error;

use super::inbox::Inbox;

/// See the module's description.
#[derive(Default)]
pub(super) struct Stream {
    head: Option<Box<Fields>>,
    data: Inbox,
    trailers: Option<HeaderMap>,
    ended: bool,
    over: Option<Over>,
    reader: Option<Waker>,
    sender: Option<Waker>,
    /// It is among those that wait for the socket.
    waits: bool,
}

/// How a stream came to an early end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Over {
    #[error("the stream was reset: {0}")]
    Reset(Code),
    #[error("the connection was lost")]
    Lost,
    /// Of ours.
    #[error("the body broke off")]
    Body,
    /// The peer takes no more of what is sent.
    #[error("the peer does not read")]
    Unread,
}

/// What comes next on a stream.
pub(super) enum Next {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
}

impl Stream {
    /// Of a peer's request, of which that may be all.
    pub(super) fn asked(ended: bool) -> Self {
        Self { ended, ..Self::default() }
    }

    /// The peer's answer, or what follows its message.
    pub(super) fn headed(&mut self, mut fields: Box<Fields>, end: bool) {
        match fields.pseudo.status {
            // A word before the answer (RFC 9110, section 15.2).
            Some(status) if status.is_informational() => return,
            Some(_) => self.head = Some(fields),
            None => self.trailers = Some(std::mem::take(&mut fields.headers).into()),
        }
        self.ended = end;
        wake(&mut self.reader);
    }

    /// What the read of that number brought.
    pub(super) fn came(&mut self, bytes: Bytes, read: u64) {
        self.data.put(bytes, read);
        wake(&mut self.reader);
    }

    pub(super) fn end(&mut self) {
        self.ended = true;
        wake(&mut self.reader);
    }

    /// It is over for this reason, whatever was said before.
    pub(super) fn reset(&mut self, code: Code) {
        self.over = Some(Over::Reset(code));
        self.wake();
    }

    /// It is over, for this reason if there was none before.
    pub(super) fn break_off(&mut self, over: Over) {
        self.over.get_or_insert(over);
        self.wake();
    }

    pub(super) fn wake(&mut self) {
        wake(&mut self.reader);
        wake(&mut self.sender);
    }

    /// Whether somebody had something to send.
    pub(super) fn wake_sender(&mut self) -> bool {
        wake(&mut self.sender)
    }

    /// The socket takes something again; as [`wake_sender`](Self::wake_sender).
    pub(super) fn turn(&mut self) -> bool {
        self.waits = false;
        self.wake_sender()
    }

    /// Lets `cx` wait for its turn at the socket; whether nobody has waited there for this stream.
    pub(super) fn queue(&mut self, cx: &Context<'_>) -> bool {
        set(&mut self.sender, cx);
        !std::mem::replace(&mut self.waits, true)
    }

    /// Lets `cx` wait until the peer takes more.
    pub(super) fn hold(&mut self, cx: &Context<'_>) {
        set(&mut self.sender, cx);
    }

    pub(super) fn over(&self) -> Option<Over> {
        self.over
    }

    pub(super) fn poll_head(&mut self, cx: &Context<'_>) -> Poll<Result<Box<Fields>, Over>> {
        match (self.head.take(), self.over) {
            (Some(head), _) => Poll::Ready(Ok(head)),
            (None, Some(over)) => Poll::Ready(Err(over)),
            (None, None) => {
                set(&mut self.reader, cx);
                Poll::Pending
            }
        }
    }

    /// The whole of a body that has come already, if nothing follows it.
    pub(super) fn whole(&mut self) -> Option<Bytes> {
        if !self.ended || self.trailers.is_some() || self.data.pieces() > 1 {
            return None;
        }
        Some(self.data.take().unwrap_or_default())
    }

    pub(super) fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Result<Next, Over>> {
        if let Some(data) = self.data.take() {
            return Poll::Ready(Ok(Next::Data(data)));
        }
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Ok(Next::Trailers(trailers)));
        }
        match (self.ended, self.over) {
            (true, _) => Poll::Ready(Ok(Next::End)),
            (false, Some(over)) => Poll::Ready(Err(over)),
            (false, None) => {
                set(&mut self.reader, cx);
                Poll::Pending
            }
        }
    }

    /// Whether the peer has said all, and all of it was taken.
    pub(super) fn is_ended(&self) -> bool {
        self.ended && self.data.is_empty() && self.trailers.is_none()
    }

    /// Ready when the peer has given it up.
    pub(super) fn poll_over(&mut self, cx: &Context<'_>) -> Poll<Over> {
        match self.over {
            Some(over) => Poll::Ready(over),
            None => {
                set(&mut self.sender, cx);
                Poll::Pending
            }
        }
    }
}

fn set(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

/// Whether somebody waited.
fn wake(place: &mut Option<Waker>) -> bool {
    place.take().map(Waker::wake).is_some()
}

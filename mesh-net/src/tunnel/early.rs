//! What a client says before its stream is open. It goes along with the question, so that a request need not wait for the
//! answer.
//!
//! Whoever is told that the peer has not delivered it may ask elsewhere and say it again, so the client's side keeps it until
//! then. Who cannot know that ([`OpenError::Unanswered`](super::client::OpenError::Unanswered)) must not.

use std::task::{Context, Poll};

/// A client that may have said something.
pub trait Early: Send {
    /// The client's first words, at most [`MOST`] bytes, once there are any; the same whenever it is asked. Ready with none if
    /// there will never be any.
    fn poll_said(&mut self, cx: &mut Context<'_>) -> Poll<&[u8]>;
}

/// Most bytes that go along: those of nearly all requests, and half a record.
pub const MOST: usize = 8 << 10;

/// A client's first words on their way to one peer.
pub(super) struct Words<'a> {
    /// `None` once they have been sent, or when there are none to come.
    client: Option<&'a mut dyn Early>,
    sent: usize,
}

impl<'a> Words<'a> {
    pub(super) fn of(client: Option<&'a mut dyn Early>) -> Self {
        Self { client, sent: 0 }
    }

    /// How many bytes the peer may have.
    pub(super) fn sent(&self) -> usize {
        self.sent
    }

    /// Hands them to `send` once they are there, and counts them as sent.
    pub(super) fn poll<T>(&mut self, cx: &mut Context<'_>, send: impl FnOnce(&[u8]) -> T) -> Poll<T> {
        let Some(client) = self.client.take() else { return Poll::Pending };
        match client.poll_said(cx) {
            Poll::Ready([]) => Poll::Pending,
            Poll::Ready(said) => {
                self.sent = said.len();
                Poll::Ready(send(said))
            }
            Poll::Pending => {
                self.client = Some(client);
                Poll::Pending
            }
        }
    }
}

//! How long a connection waits for its client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::limits::Limits;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// Streams are open, and have clocks of their own.
    No,
    /// For a request, with nothing under way.
    Request,
    /// For the rest of what the client began to say, behind the stream of that number.
    Head(u32),
}

/// A clock that is set when the wait changes, and looked at now and then: requests do not touch the timer.
pub(super) struct Patience {
    idle: Duration,
    head: Duration,
    waits: Waits,
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Patience {
    pub(super) fn new(limits: &Limits) -> Self {
        let Limits { idle_timeout: idle, head_timeout: head, .. } = *limits;
        let timer = Box::pin(tokio::time::sleep(idle.min(head)));
        Self { idle, head, waits: Waits::No, since: Instant::now(), timer }
    }

    /// Ready when what is waited for has taken too long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, waits: Waits) -> Poll<Waits> {
        if waits != self.waits {
            (self.waits, self.since) = (waits, Instant::now());
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let limit = match waits {
                Waits::No => Duration::MAX,
                Waits::Request => self.idle,
                Waits::Head(_) => self.head,
            };
            let now = Instant::now();
            let left = limit.saturating_sub(now - self.since);
            if left.is_zero() {
                self.since = now;
                return Poll::Ready(waits);
            }
            self.timer.as_mut().reset(now + left.min(self.idle).min(self.head));
        }
    }
}

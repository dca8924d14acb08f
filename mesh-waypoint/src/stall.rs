//! Peers that stop in the middle: of what they say, or of what they are told.

mod writer;

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use thiserror::Error;
use tokio::time::{Instant, Sleep};

pub use writer::Impatient;

/// Nothing moved for as long as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("nothing moved for {0:?}")]
pub struct Stalled(pub Duration);

/// Measures one wait after the other, and costs nothing where there is none.
#[derive(Debug)]
pub struct Clock {
    most: Duration,
    /// When the wait began that goes on.
    since: Option<Instant>,
    /// Kept from one wait to the next: it goes off too early rather than being set for each.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    /// Waits may last for `most`.
    pub fn new(most: Duration) -> Self {
        Self { most, since: None, timer: None }
    }

    /// Something moved, though not all that is waited for.
    pub fn moved(&mut self) {
        self.since = None;
    }

    /// What `polled` is, or [`Stalled`] when it has been pending for too long, each time that it was polled.
    pub fn judge<T>(&mut self, cx: &mut Context<'_>, polled: Poll<T>) -> Poll<Result<T, Stalled>> {
        if let Poll::Ready(ready) = polled {
            self.since = None;
            return Poll::Ready(Ok(ready));
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let end = since + self.most;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= end {
                return Poll::Ready(Err(Stalled(self.most)));
            }
            timer.as_mut().reset(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};
    use std::pin::pin;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_time() {
        let mut clock = Clock::new(Duration::from_secs(10));
        for _ in 0..5 {
            let mut soon = pin!(tokio::time::sleep(Duration::from_secs(9)));
            let judged = poll_fn(|cx| {
                let polled = soon.as_mut().poll(cx);
                clock.judge(cx, polled)
            });
            assert_eq!(judged.await, Ok(()));
        }
        let (began, mut never) = (Instant::now(), pin!(pending::<()>()));
        let judged = poll_fn(|cx| {
            let polled = never.as_mut().poll(cx);
            clock.judge(cx, polled)
        });
        assert_eq!(judged.await, Err(Stalled(Duration::from_secs(10))));
        assert_eq!(began.elapsed().as_secs(), 10);
    }
}

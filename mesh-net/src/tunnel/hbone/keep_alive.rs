//! Whether a peer that says nothing is still there.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::tunnel::Config;

/// Asks a silent peer for a sign of life, and gives it up when none comes.
pub(in crate::tunnel) struct KeepAlive {
    timer: Pin<Box<Sleep>>,
    /// A PING is out and `timer` is its deadline.
    waiting: bool,
    interval: Duration,
    timeout: Duration,
}

impl KeepAlive {
    pub(in crate::tunnel) fn new(config: &Config) -> Self {
        let (interval, timeout) = (config.ping_interval, config.ping_timeout);
        Self { timer: Box::pin(tokio::time::sleep(interval)), waiting: false, interval, timeout }
    }

    /// From now on the peer has [`PARTING`] to end its side.
    pub(super) fn part(&mut self) {
        (self.waiting, self.timeout) = (true, PARTING);
        self.timer.as_mut().reset(Instant::now() + PARTING);
    }

    /// Ready with the time waited once the peer missed its deadline.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, heard: &mut bool, ping: impl FnOnce()) -> Poll<Duration> {
        let mut ping = Some(ping);
        while self.timer.as_mut().poll(cx).is_ready() {
            let heard = std::mem::take(heard);
            let pause = match (heard, self.waiting) {
                (true, _) => {
                    self.waiting = false;
                    self.interval
                }
                (false, true) => return Poll::Ready(self.timeout),
                (false, false) => {
                    self.waiting = true;
                    ping.take().into_iter().for_each(|ping| ping());
                    self.timeout
                }
            };
            self.timer.as_mut().reset(Instant::now() + pause);
        }
        Poll::Pending
    }
}

/// How long a peer may take to end its side of a connection that has ended on ours.
const PARTING: Duration = Duration::from_secs(2);

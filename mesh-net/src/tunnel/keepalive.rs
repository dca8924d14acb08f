//! Asks a silent peer for a sign of life: a PING every interval, answered in time or the connection is dead.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep};

use super::Config;

pub(super) struct KeepAlive {
    ping: PingPong,
    timer: Pin<Box<Sleep>>,
    /// Whether a PING is out and `timer` is its deadline.
    waiting: bool,
    interval: Duration,
    timeout: Duration,
}

impl KeepAlive {
    pub(super) fn new(ping: PingPong, config: &Config) -> Self {
        let (interval, timeout) = (config.ping_interval, config.ping_timeout);
        Self { ping, timer: Box::pin(tokio::time::sleep(interval)), waiting: false, interval, timeout }
    }

    /// Ready with the time waited once the peer missed its deadline.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        loop {
            if !self.waiting {
                ready!(self.timer.as_mut().poll(cx));
                // An error means that the connection is ending; its own poll says so.
                if self.ping.send_ping(Ping::opaque()).is_err() {
                    return Poll::Pending;
                }
                self.waiting = true;
                self.timer.as_mut().reset(Instant::now() + self.timeout);
            }
            match self.ping.poll_pong(cx) {
                Poll::Ready(Ok(_)) => {
                    self.waiting = false;
                    self.timer.as_mut().reset(Instant::now() + self.interval);
                }
                Poll::Ready(Err(_)) => return Poll::Pending,
                Poll::Pending => {
                    ready!(self.timer.as_mut().poll(cx));
                    return Poll::Ready(self.timeout);
                }
            }
        }
    }
}

//! What a client may make us hold, and for how long.

use std::time::Duration;

/// For each client.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the next request on a connection that waits: as long as the reference lets one wait, since clients that find a kept
    /// connection closed under a request see a failure.
    pub idle_timeout: Duration,
    /// For a request's head, from its first byte to its last.
    pub head_timeout: Duration,
    /// Without anything said of a body that is waited for, or anything taken of what is written: by a client or an endpoint.
    pub stream_idle: Duration,
    /// Largest request head, in bytes.
    pub max_head: usize,
    pub max_streams: u32,
    /// Body that is kept for another try, in bytes.
    pub replay: usize,
    /// How long bytes may take to come by which an unnamed port's protocol is told.
    pub sniff_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(3600),
            head_timeout: Duration::from_secs(60),
            stream_idle: Duration::from_secs(300),
            max_head: 60 << 10,
            max_streams: 256,
            replay: 64 << 10,
            sniff_timeout: Duration::from_millis(500),
        }
    }
}

//! HBONE: many byte streams between two workloads over one mutual-TLS connection (HTTP/2 CONNECT, RFC 9113, section 8.5).
//!
//! The codec is an implementation detail: nothing of it shows in this module's types, so that it can be replaced.

use std::io;
use std::time::Duration;

use thiserror::Error;

pub mod client;
pub mod server;
pub mod stream;
pub mod head;
mod keepalive;

/// Limits and windows of a tunnel connection, either end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes a peer may send on one stream before its reader takes some.
    pub stream_window: u32,
    /// Largest DATA frame that a peer may send, in bytes.
    pub max_frame: u32,
    /// Streams at once on a connection: what a server lets in, and what a client opens at most.
    pub max_streams: u32,
    /// Largest request or reply head, in bytes as RFC 9113, section 6.5.2 counts them.
    pub max_head: u32,
    /// Silence after which the peer is asked for a sign of life.
    pub ping_interval: Duration,
    /// Time to answer; then the connection is closed as dead.
    pub ping_timeout: Duration,
    /// Time for the HTTP/2 preface and first SETTINGS.
    pub handshake_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stream_window: 4 << 20,
            max_frame: 1 << 20,
            max_streams: 200,
            max_head: 16 << 10,
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// Bytes that a peer may have on its way over all streams. It exceeds what readers that are stuck can hold, so one
    /// of them never slows another stream: a connection's window is given back only as its streams' bytes are.
    ///
    /// HTTP/2 ends at 2^31 - 1 (RFC 9113, section 6.9.1); with more than 507 streams of 4 MiB the promise is weaker.
    pub(crate) fn connection_window(&self) -> u32 {
        self.max_streams.saturating_mul(self.stream_window).saturating_add(SPARE_WINDOW).min((1 << 31) - 1)
    }
}

/// Connection window beyond what streams can fill, in bytes.
const SPARE_WINDOW: u32 = 16 << 20;

/// Bytes of one stream that wait for the connection's writer.
const SEND_BUFFER: usize = 1 << 20;

/// Why a tunnel connection ended, or never began.
#[derive(Debug, Error)]
pub enum ConnectionError {
    #[error("the tunnel's peer was silent for {0:?}")]
    Timeout(Duration),
    #[error("the tunnel's peer broke the protocol: {0}")]
    Protocol(String),
    /// The peer closed it with an error code of its own.
    #[error("the tunnel's peer gave up: {0}")]
    Remote(String),
    #[error("the tunnel's connection: {0}")]
    Io(#[source] io::Error),
}

impl ConnectionError {
    /// A closed label for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "tunnel_timeout",
            Self::Protocol(_) => "tunnel_protocol",
            Self::Remote(_) => "tunnel_remote",
            Self::Io(_) => "tunnel_io",
        }
    }

    fn from_h2(error: h2::Error) -> Self {
        let reason = || error.reason().map_or_else(|| error.to_string(), |r| r.description().to_owned());
        match () {
            () if error.is_io() => Self::Io(error.into_io().unwrap_or_else(|| io::ErrorKind::Other.into())),
            () if error.is_remote() => Self::Remote(reason()),
            () => Self::Protocol(reason()),
        }
    }
}

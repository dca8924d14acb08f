//! Byte streams between two workloads over mutual TLS, in one of two ways that the handshake agrees on: HBONE, which every peer
//! understands, or lanes, between agents of Weft (docs/transport.md).
//!
//! Nothing of either shows in this module's types.

use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::http2::connection::Limits;
use crate::tls::KEY_LIMIT;

pub mod client;
pub mod server;
pub mod stream;
mod hbone;
mod lane;
pub mod early;
pub mod head;

/// Limits and windows of a tunnel connection, either end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes that a peer may send on a new stream before its reader takes some.
    pub first_window: u32,
    /// Bytes to which that grows with what its reader takes.
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
    /// Records that a key of ours seals before it is renewed: 64 to 2^24 ([`KEY_LIMIT`]).
    pub key_records: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            first_window: 256 << 10,
            stream_window: 4 << 20,
            max_frame: 1 << 20,
            max_streams: 200,
            max_head: 16 << 10,
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            handshake_timeout: Duration::from_secs(10),
            key_records: KEY_LIMIT,
        }
    }
}

impl Config {
    fn limits(&self) -> Limits {
        Limits {
            first_window: self.first_window,
            stream_window: self.stream_window.max(self.first_window),
            growth: GROWTH,
            max_frame: self.max_frame,
            max_streams: self.max_streams,
            max_head: self.max_head,
        }
    }
}

/// Bytes by which the windows of a connection's streams may have grown together: with 200 streams of 256 KiB, a peer makes us
/// hold no more than 82 MiB for readers that are stuck.
const GROWTH: u32 = 32 << 20;

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
}

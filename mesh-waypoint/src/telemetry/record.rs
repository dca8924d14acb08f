//! What is known of an exchange, or of a connection of bytes, when it is over.

use http::HeaderValue;
use mesh_core::service::Service;
use mesh_core::workload::Workload;
use std::borrow::Cow;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::expression::Headers;
use super::trace::Begun;
use crate::client::Client;

#[derive(Clone, Debug)]
pub struct Record {
    pub client: Arc<Client>,
    pub service: Option<Arc<Service>>,
    pub destination: Option<Arc<Workload>>,
    pub upstream: Option<SocketAddr>,
    pub asked: SocketAddr,
    pub began: Instant,
    /// The same by the calendar.
    pub began_at: SystemTime,
    /// Known when it is over.
    pub took: Duration,
    /// `HTTP/1.1` and the like; `-` for bytes.
    pub protocol: &'static str,
    pub texts: Texts,
    /// Kept only where somebody asks for them at the end ([`super::Rules::asks_for_headers`]).
    pub headers: Option<Box<Headers>>,
    /// `None`: it is part of no trace, as far as the waypoint is concerned.
    pub trace: Option<Begun>,
    pub is_grpc: bool,
    pub status: u16,
    pub grpc_status: Option<GrpcStatus>,
    /// The reference's two-letter words for what went wrong; `-` for nothing.
    pub flags: &'static str,
    /// What decided on the status.
    pub details: Cow<'static, str>,
    pub failure: String,
    pub route: Option<Arc<str>>,
    pub received: u64,
    pub sent: u64,
    pub attempts: u32,
}

impl Record {
    pub fn new(client: Arc<Client>, asked: SocketAddr, protocol: &'static str) -> Self {
        Self {
            client,
            service: None,
            destination: None,
            upstream: None,
            asked,
            began: Instant::now(),
            began_at: SystemTime::now(),
            took: Duration::ZERO,
            protocol,
            texts: Texts::default(),
            headers: None,
            trace: None,
            is_grpc: false,
            status: 0,
            grpc_status: None,
            flags: "-",
            details: Cow::Borrowed(""),
            failure: String::new(),
            route: None,
            received: 0,
            sent: 0,
            attempts: 0,
        }
    }

    /// Takes the gRPC status from `grpc-status` of a response's headers or trailers, if it is there.
    pub fn hear(&mut self, status: Option<&HeaderValue>) {
        if let Some(value) = status {
            self.grpc_status = Some(GrpcStatus::read(value.as_bytes()));
        }
    }
}

/// A status of gRPC as it was answered. Whatever is no number is one thing: each value is a series of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GrpcStatus(pub i32);

impl GrpcStatus {
    const INVALID: Self = Self(-1);

    fn read(value: &[u8]) -> Self {
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u8>().ok());
        number.map_or(Self::INVALID, |number| Self(number.into()))
    }
}

/// What of a request is told as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Method,
    /// With the query.
    Path,
    Authority,
    RequestId,
    UserAgent,
    ForwardedFor,
}

/// The words of one request, in one piece of memory that later requests use again.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    bytes: String,
    at: [(usize, usize); 6],
}

impl Texts {
    pub fn set(&mut self, word: Word, text: &str) {
        let begin = self.bytes.len();
        self.bytes.push_str(text);
        self.at[word as usize] = (begin, self.bytes.len());
    }

    /// Bytes that are no UTF-8 are replaced (U+FFFD).
    pub fn set_bytes(&mut self, word: Word, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.set(word, text),
            Err(_) => self.set(word, &String::from_utf8_lossy(bytes)),
        }
    }

    /// Empty: it is not known.
    pub fn get(&self, word: Word) -> &str {
        let (begin, end) = self.at[word as usize];
        self.bytes.get(Range { start: begin, end }).unwrap_or_default()
    }

    /// Bytes that its memory has room for.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.at = Default::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kept_apart_and_the_last_one_said_holds() {
        let mut texts = Texts::default();
        texts.set(Word::Method, "GET");
        texts.set(Word::Path, "/a?b");
        texts.set_bytes(Word::UserAgent, b"x\xff");
        texts.set(Word::Path, "/c");
        assert_eq!(texts.get(Word::Method), "GET");
        assert_eq!(texts.get(Word::Path), "/c");
        assert_eq!(texts.get(Word::UserAgent), "x\u{fffd}");
        assert_eq!(texts.get(Word::Authority), "");
        texts.clear();
        assert_eq!(texts.get(Word::Path), "");
    }

    #[test]
    fn a_status_of_grpc_is_a_number_or_one_other_thing() {
        for (value, status) in [("0", 0), ("14", 14), ("", -1), ("ok", -1), ("-3", -1), ("99999", -1)] {
            assert_eq!(GrpcStatus::read(value.as_bytes()), GrpcStatus(status), "{value:?}");
        }
    }
}

//! One field, as far as the rules of messages speak of it alone (RFC 9113, section 8.2).

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};

/// What a value is of.
#[derive(Clone, Debug)]
pub(super) enum Name {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
    Header(HeaderName),
    /// What no message may have: upper case, characters that are no token's, pseudo-fields that nobody knows, and what
    /// speaks of a connection. Of so many bytes.
    Unfit(usize),
}

impl Name {
    pub(super) fn read(name: &[u8]) -> Self {
        match name {
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            b":protocol" => Self::Protocol,
            b":status" => Self::Status,
            _ if OF_CONNECTIONS.contains(&name) => Self::Unfit(name.len()),
            _ => HeaderName::from_lowercase(name).map_or(Self::Unfit(name.len()), Self::Header),
        }
    }

    /// Its bytes.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Path => 5,
            Self::Method | Self::Scheme | Self::Status => 7,
            Self::Protocol => 9,
            Self::Authority => 10,
            Self::Header(name) => name.as_str().len(),
            Self::Unfit(length) => *length,
        }
    }
}

/// A name with its value.
#[derive(Clone, Debug)]
pub(super) enum Field {
    Method(Method),
    Scheme(Bytes),
    Authority(Bytes),
    Path(Bytes),
    Protocol(Bytes),
    Status(StatusCode),
    Header(HeaderName, HeaderValue),
    /// Against the rules, by its name or by its value.
    Unfit(Name),
}

impl Field {
    pub(super) fn new(name: Name, value: Bytes) -> Self {
        if is_blank(value.first()) || is_blank(value.last()) {
            return Self::Unfit(name);
        }
        match name {
            Name::Header(name) => match HeaderValue::from_maybe_shared(value) {
                Ok(value) if name == header::TE && value != TRAILERS => Self::Unfit(Name::Header(name)),
                Ok(value) => Self::Header(name, value),
                Err(_) => Self::Unfit(Name::Header(name)),
            },
            Name::Method => Method::from_bytes(&value).map_or(Self::Unfit(name), Self::Method),
            Name::Status => StatusCode::from_bytes(&value).map_or(Self::Unfit(name), Self::Status),
            Name::Unfit(_) => Self::Unfit(name),
            _ if value.iter().any(u8::is_ascii_control) => Self::Unfit(name),
            Name::Scheme => Self::Scheme(value),
            Name::Authority => Self::Authority(value),
            Name::Path => Self::Path(value),
            Name::Protocol => Self::Protocol(value),
        }
    }

    pub(super) fn name(&self) -> Name {
        match self {
            Self::Method(_) => Name::Method,
            Self::Scheme(_) => Name::Scheme,
            Self::Authority(_) => Name::Authority,
            Self::Path(_) => Name::Path,
            Self::Protocol(_) => Name::Protocol,
            Self::Status(_) => Name::Status,
            Self::Header(name, _) => Name::Header(name.clone()),
            Self::Unfit(name) => name.clone(),
        }
    }
}

fn is_blank(byte: Option<&u8>) -> bool {
    matches!(byte, Some(b' ' | b'\t'))
}

/// All that `te` may say (section 8.2.2).
const TRAILERS: &str = "trailers";
const OF_CONNECTIONS: [&[u8]; 5] =
    [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"];

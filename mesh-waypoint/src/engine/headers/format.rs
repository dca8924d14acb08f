//! Format strings: text with what is known of the exchange between `%` signs.
//!
//! `%REQ(name?other):length%` and `%RESP(..)%` are headers (the first line), `:path`, `:method`, `:authority` and `:scheme` the
//! request line; `%PROTOCOL%`, `%RESPONSE_CODE%` (0 before there is one), `%DOWNSTREAM_REMOTE_ADDRESS%` and
//! `.._WITHOUT_PORT%`, `%DOWNSTREAM_PEER_URI_SAN%` and `%START_TIME%` stand for themselves. What is absent is empty.

use std::borrow::Cow;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue};
use mesh_net::header_list::HeaderList;

use crate::engine::head::{Field, Fields, Request};

#[derive(Clone, Debug)]
pub enum Format {
    Text(HeaderValue),
    Parts(Vec<Part>),
}

#[derive(Clone, Debug)]
pub enum Part {
    Text(Box<[u8]>),
    Request { names: Vec<RequestName>, longest: usize },
    Response { names: Vec<HeaderName>, longest: usize },
    Protocol,
    Code,
    ClientAddress { port: bool },
    ClientIdentity,
    Received,
}

#[derive(Clone, Debug)]
pub enum RequestName {
    /// With the query.
    Path,
    Field(Field),
}

/// What values are made of.
#[derive(Debug)]
pub struct Facts<'a, F: ?Sized = HeaderList, R: ?Sized = HeaderList> {
    /// `None` for what is bound to its request already ([`Format::bound`]).
    pub request: Option<&'a Request<'a, F>>,
    /// Status and headers, once there are any.
    pub response: Option<(u16, &'a R)>,
    /// Headers of the message at hand that are not there any more.
    pub removed: &'a [&'a HeaderName],
}

impl<F: ?Sized, R: ?Sized> Clone for Facts<'_, F, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: ?Sized, R: ?Sized> Copy for Facts<'_, F, R> {}

impl<'a, F: ?Sized> Facts<'a, F> {
    pub fn of_request(request: &'a Request<'a, F>) -> Self {
        Self { request: Some(request), response: None, removed: &[] }
    }
}

impl<'a, R: ?Sized> Facts<'a, HeaderList, R> {
    pub fn of_response(status: u16, headers: &'a R, removed: &'a [&'a HeaderName]) -> Self {
        Self { request: None, response: Some((status, headers)), removed }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFormat {
    #[error("a % begins what does not end; a % sign is written %%")]
    Open,
    #[error("%{0}% is not known")]
    Unknown(String),
    #[error("no header is called {0:?}")]
    Name(String),
    #[error("{0:?} cannot stand in a header")]
    Text(String),
}

impl Format {
    pub fn new(text: &str) -> Result<Self, BadFormat> {
        let bad = || BadFormat::Text(text.to_owned());
        let value = HeaderValue::from_bytes(text.as_bytes()).map_err(|_| bad())?;
        let mut parts = Vec::new();
        let mut plain = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('%') {
            plain.extend_from_slice(before.as_bytes());
            if let Some(behind) = behind.strip_prefix('%') {
                plain.push(b'%');
                rest = behind;
                continue;
            }
            // A name in parentheses may not have a `%`, so the next one is the end.
            let (command, behind) = behind.split_once('%').ok_or(BadFormat::Open)?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain).into()));
            }
            parts.push(Part::new(command)?);
            rest = behind;
        }
        if parts.is_empty() && plain.is_empty() {
            return Ok(Self::Text(value));
        }
        plain.extend_from_slice(rest.as_bytes());
        if parts.is_empty() {
            return Ok(Self::Text(HeaderValue::from_bytes(&plain).map_err(|_| bad())?));
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain.into()));
        }
        Ok(Self::Parts(parts))
    }

    /// `None` when it comes to nothing.
    pub fn value<F: Fields + ?Sized, R: Fields + ?Sized>(&self, facts: &Facts<'_, F, R>) -> Option<HeaderValue> {
        let parts = match self {
            Self::Text(value) => return (!value.is_empty()).then(|| value.clone()),
            Self::Parts(parts) => parts,
        };
        let mut out = Vec::new();
        for part in parts {
            part.write(facts, &mut out);
        }
        if out.is_empty() { None } else { HeaderValue::from_bytes(&out).ok() }
    }
}

impl Format {
    /// With all that is known of the request put in, so that a reply needs nothing of it any more.
    pub fn bound<F: Fields + ?Sized>(&self, request: &Request<'_, F>) -> Cow<'_, Self> {
        let Self::Parts(parts) = self else { return Cow::Borrowed(self) };
        let is_of_reply = |part: &Part| matches!(part, Part::Text(_) | Part::Response { .. } | Part::Code);
        if parts.iter().all(is_of_reply) {
            return Cow::Borrowed(self);
        }
        let bound = parts.iter().map(|part| {
            if is_of_reply(part) {
                return part.clone();
            }
            let mut text = Vec::new();
            part.write(&Facts::of_request(request), &mut text);
            Part::Text(text.into())
        });
        Cow::Owned(Self::Parts(bound.collect()))
    }
}

impl Part {
    fn new(command: &str) -> Result<Self, BadFormat> {
        let unknown = || BadFormat::Unknown(command.to_owned());
        let Some((name, rest)) = command.split_once('(') else {
            return match command {
                "PROTOCOL" => Ok(Self::Protocol),
                "RESPONSE_CODE" => Ok(Self::Code),
                "DOWNSTREAM_REMOTE_ADDRESS" => Ok(Self::ClientAddress { port: true }),
                "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Ok(Self::ClientAddress { port: false }),
                "DOWNSTREAM_PEER_URI_SAN" => Ok(Self::ClientIdentity),
                "START_TIME" => Ok(Self::Received),
                _ => Err(unknown()),
            };
        };
        let (names, rest) = rest.split_once(')').ok_or_else(unknown)?;
        let longest = match rest.strip_prefix(':') {
            Some(digits) => digits.parse().map_err(|_| unknown())?,
            None if rest.is_empty() => usize::MAX,
            None => return Err(unknown()),
        };
        let names = names.splitn(2, '?');
        let bad = |name: &str| BadFormat::Name(name.to_owned());
        match name {
            "REQ" => {
                let request_name = |name: &str| {
                    if name.eq_ignore_ascii_case(":path") {
                        return Ok(RequestName::Path);
                    }
                    Field::new(name).map(RequestName::Field).ok_or_else(|| bad(name))
                };
                Ok(Self::Request { names: names.map(request_name).collect::<Result<_, _>>()?, longest })
            }
            "RESP" => {
                let header = |name: &str| HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad(name));
                Ok(Self::Response { names: names.map(header).collect::<Result<_, _>>()?, longest })
            }
            _ => Err(unknown()),
        }
    }

    fn write<F: Fields + ?Sized, R: Fields + ?Sized>(&self, facts: &Facts<'_, F, R>, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => out.extend_from_slice(text),
            Self::Response { names, longest } => {
                let Some((_, headers)) = facts.response else { return };
                let left = names.iter().filter(|name| !facts.removed.contains(name));
                if let Some(value) = left.into_iter().find_map(|name| headers.first(name)) {
                    out.extend_from_slice(&value[..value.len().min(*longest)]);
                }
            }
            Self::Code => append(out, facts.response.map_or(0, |(status, _)| status)),
            _ => {
                if let Some(request) = facts.request {
                    self.write_request(request, facts.removed, out);
                }
            }
        }
    }

    fn write_request<F: Fields + ?Sized>(&self, request: &Request<'_, F>, removed: &[&HeaderName], out: &mut Vec<u8>) {
        let Request { head, client, received } = request;
        match self {
            Self::Request { names, longest } => {
                let is_gone = |name: &RequestName| matches!(name, RequestName::Field(Field::Named(name)) if removed.contains(&name));
                let start = out.len();
                for name in names.iter().filter(|name| !is_gone(name)) {
                    match name {
                        RequestName::Path => out.extend_from_slice(head.target().as_bytes()),
                        RequestName::Field(field) => {
                            out.extend_from_slice(head.field(field).next().unwrap_or_default());
                        }
                    }
                    if out.len() > start {
                        break;
                    }
                }
                out.truncate(start.saturating_add(*longest));
            }
            Self::Protocol => out.extend_from_slice(head.protocol.as_bytes()),
            Self::ClientAddress { port } => match client.address {
                Some(address) if *port => append(out, address),
                Some(address) => append(out, address.ip()),
                None => {}
            },
            Self::ClientIdentity => out.extend_from_slice(client.identity.unwrap_or_default().as_bytes()),
            Self::Received => append(out, rfc3339(*received)),
            Self::Text(_) | Self::Response { .. } | Self::Code => {}
        }
    }
}

fn append(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    // Writing to memory does not fail.
    let _ = write!(out, "{value}");
}

/// To the millisecond, in UTC. Days become a date as in Howard Hinnant's `civil_from_days`.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, milliseconds) = (since.as_secs(), since.subsec_millis());
    let shifted = seconds / 86_400 + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

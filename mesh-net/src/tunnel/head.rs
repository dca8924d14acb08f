//! What a stream is for: the head of its CONNECT request, and the strict parsers of its fields.
//!
//! Only the authority decides anything; a bad one is refused. The other fields are names for logs and metrics, so a bad
//! one is left out and counted. All of them come from a peer that is authenticated, not trusted.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use http::{HeaderName, HeaderValue};
use mesh_core::workload::WorkloadKind;
use thiserror::Error;

use crate::header_list::HeaderList;

/// A request for a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// `podIP:port`, or `hostname:port` at waypoints and gateways.
    pub authority: String,
    pub baggage: Option<Baggage>,
    pub forwarded: Option<Forwarded>,
    /// W3C trace context, version 00.
    pub traceparent: Option<String>,
}

impl Head {
    pub fn to(authority: impl Into<String>) -> Self {
        Self { authority: authority.into(), baggage: None, forwarded: None, traceparent: None }
    }

    /// Reads a request's fields; yields the head and how many optional fields were left out as malformed. Fields of other
    /// names are passed over.
    pub(super) fn from_fields<'a>(
        authority: &str,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<(Self, u32), InvalidHead> {
        check_authority(authority)?;
        let (mut baggage, mut forwarded, mut traceparent) = (Seen::Not, Seen::Not, Seen::Not);
        for (name, value) in fields {
            match name {
                BAGGAGE => baggage.see(value, Baggage::parse),
                FORWARDED => forwarded.see(value, Forwarded::parse),
                TRACEPARENT => traceparent.see(value, |text| check_traceparent(text).map(|()| text.to_owned())),
                _ => {}
            }
        }
        let ignored = baggage.is_malformed() + forwarded.is_malformed() + traceparent.is_malformed();
        let (baggage, forwarded, traceparent) = (baggage.good(), forwarded.good(), traceparent.good());
        Ok((Self { authority: authority.to_owned(), baggage, forwarded, traceparent }, ignored))
    }

    /// The optional fields, by name; one that is no text of this protocol is left out.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static [u8], String)> {
        let traceparent = self.traceparent.clone().filter(|text| check_traceparent(text).is_ok());
        let fields = [
            (BAGGAGE, self.baggage.as_ref().map(Baggage::encode)),
            (FORWARDED, self.forwarded.as_ref().map(Forwarded::encode)),
            (TRACEPARENT, traceparent),
        ];
        fields.into_iter().filter_map(|(name, text)| Some((name, text?)))
    }
}

/// Names and values as [`Head::from_fields`] reads them.
pub(super) fn texts(headers: &HeaderList) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
}

/// Fields as HTTP/2 sends them; what it has no way to say is left out.
pub(super) fn headers(fields: impl IntoIterator<Item = (&'static [u8], String)>) -> HeaderList {
    let header = |(name, text)| Some((HeaderName::from_lowercase(name).ok()?, HeaderValue::try_from(text).ok()?));
    fields.into_iter().filter_map(header).collect()
}

/// A field that is to appear once and parse.
enum Seen<T> {
    Not,
    Good(T),
    Malformed,
}

impl<T> Seen<T> {
    fn see(&mut self, value: &[u8], parse: impl Fn(&str) -> Result<T, InvalidHead>) {
        let visible = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
        let text = std::str::from_utf8(value).ok().filter(|_| visible);
        *self = match (&self, text.and_then(|text| parse(text).ok())) {
            (Self::Not, Some(good)) => Self::Good(good),
            _ => Self::Malformed,
        };
    }

    fn is_malformed(&self) -> u32 {
        u32::from(matches!(self, Self::Malformed))
    }

    fn good(self) -> Option<T> {
        match self {
            Self::Good(good) => Some(good),
            Self::Not | Self::Malformed => None,
        }
    }
}

/// Baggage of a reply; a malformed one is none.
pub(super) fn reply_baggage<'a>(fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Option<Baggage> {
    let mut baggage = Seen::Not;
    fields.into_iter().filter(|(name, _)| *name == BAGGAGE).for_each(|(_, value)| baggage.see(value, Baggage::parse));
    baggage.good()
}

/// Why a field is not understood. The text is the peer's and may be anything, so it is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidHead {
    #[error("the authority is not host:port")]
    Authority,
    #[error("the baggage is malformed or longer than {MAX_BAGGAGE_BYTES} bytes")]
    Baggage,
    #[error("the forwarded field is malformed or longer than {MAX_FORWARDED_BYTES} bytes")]
    Forwarded,
    #[error("the traceparent is not of version 00")]
    Traceparent,
}

impl InvalidHead {
    /// A closed label for logs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Authority => "head_authority",
            Self::Baggage => "head_baggage",
            Self::Forwarded => "head_forwarded",
            Self::Traceparent => "head_traceparent",
        }
    }
}

/// `host:port` with a port from 1 to 65535; the host is an IPv4 address, an IPv6 address in brackets, or a DNS name. No
/// user information, no zone (RFC 9113, section 8.5; RFC 3986, section 3.2).
pub(super) fn check_authority(authority: &str) -> Result<(), InvalidHead> {
    let bad = InvalidHead::Authority;
    let (host, port) = authority.rsplit_once(':').ok_or(bad)?;
    let digits = !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
    if !digits || !port.parse::<u16>().is_ok_and(|p| p != 0) {
        return Err(bad);
    }
    if let Some(inner) = host.strip_prefix('[') {
        let v6 = inner.strip_suffix(']').ok_or(bad)?;
        return v6.parse::<Ipv6Addr>().map(drop).map_err(|_| bad);
    }
    if host.parse::<Ipv4Addr>().is_ok() || is_hostname(host) { Ok(()) } else { Err(bad) }
}

/// A DNS name as RFC 1123, section 2.1 has it, with underscores as Kubernetes users have them. All digits and dots
/// would be an address, and here it is none.
fn is_hostname(host: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    let last_is_number = name.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    host.len() <= 253 && !last_is_number && name.split('.').all(label)
}

/// Who the workload at one end says it is: names for logs and metrics, never proof.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    pub cluster: Option<String>,
    pub namespace: Option<String>,
    /// Kind and name of what owns the workload.
    pub workload: Option<(WorkloadKind, String)>,
    pub service_name: Option<String>,
    pub service_version: Option<String>,
}

impl Baggage {
    /// The header's text (W3C Baggage, section 3.3.1): members that are set, percent-encoded.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let mut member = |key: &str, value: &str| {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(key);
            text.push('=');
            percent_encode(value, &mut text);
        };
        let optional = |v: &Option<String>| v.clone().filter(|v| !v.is_empty());
        if let Some(cluster) = optional(&self.cluster) {
            member("k8s.cluster.name", &cluster);
        }
        if let Some(namespace) = optional(&self.namespace) {
            member("k8s.namespace.name", &namespace);
        }
        if let Some((kind, name)) = self.workload.as_ref().filter(|(_, name)| !name.is_empty()) {
            member(workload_key(*kind), name);
        }
        if let Some(name) = optional(&self.service_name) {
            member("service.name", &name);
        }
        if let Some(version) = optional(&self.service_version) {
            member("service.version", &version);
        }
        text
    }

    /// Reads the header's text. Members of other keys and properties are left out; of a repeated key the first counts;
    /// an empty value is none.
    ///
    /// # Errors
    /// Longer than [`MAX_BAGGAGE_BYTES`], a member without `=`, a value that is no percent-encoded UTF-8, has control
    /// characters or is longer than [`MAX_NAME_BYTES`].
    pub fn parse(text: &str) -> Result<Self, InvalidHead> {
        if text.len() > MAX_BAGGAGE_BYTES {
            return Err(InvalidHead::Baggage);
        }
        let mut baggage = Self::default();
        for member in text.split(',').filter(|m| !m.trim().is_empty()) {
            let (key, value) = member.split_once('=').ok_or(InvalidHead::Baggage)?;
            let value = value.split(';').next().unwrap_or_default().trim();
            let name = || -> Result<Option<String>, InvalidHead> {
                let name = percent_decode(value).ok_or(InvalidHead::Baggage)?;
                Ok((!name.is_empty()).then_some(name))
            };
            let field = match key.trim() {
                "k8s.cluster.name" => &mut baggage.cluster,
                "k8s.namespace.name" => &mut baggage.namespace,
                "service.name" => &mut baggage.service_name,
                "service.version" => &mut baggage.service_version,
                key => {
                    let kind = WORKLOAD_KINDS.into_iter().find(|kind| workload_key(*kind) == key);
                    if let (Some(kind), None) = (kind, &baggage.workload) {
                        baggage.workload = name()?.map(|name| (kind, name));
                    }
                    continue;
                }
            };
            if field.is_none() {
                *field = name()?;
            }
        }
        Ok(baggage)
    }
}

const WORKLOAD_KINDS: [WorkloadKind; 4] =
    [WorkloadKind::Deployment, WorkloadKind::CronJob, WorkloadKind::Pod, WorkloadKind::Job];

fn workload_key(kind: WorkloadKind) -> &'static str {
    match kind {
        WorkloadKind::Deployment => "k8s.deployment.name",
        WorkloadKind::CronJob => "k8s.cronjob.name",
        WorkloadKind::Pod => "k8s.pod.name",
        WorkloadKind::Job => "k8s.job.name",
    }
}

fn percent_encode(value: &str, into: &mut String) {
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
                into.push(byte as char)
            }
            _ => write!(into, "%{byte:02X}").expect("a String takes all"),
        }
    }
}

fn percent_decode(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len().min(MAX_NAME_BYTES));
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let digit = |b: u8| (b as char).to_digit(16);
                (digit(rest.next()?)? * 16 + digit(rest.next()?)?) as u8
            }
            b'!' | b'#'..=b'+' | b'-'..=b':' | b'<'..=b'[' | b']'..=b'~' => byte,
            _ => return None,
        };
        bytes.push(byte);
        if bytes.len() > MAX_NAME_BYTES {
            return None;
        }
    }
    String::from_utf8(bytes).ok().filter(|name| !name.chars().any(char::is_control))
}

/// The application's own address and what it asked for (RFC 7239).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    pub for_: SocketAddr,
    pub host: Option<String>,
}

impl Forwarded {
    pub fn encode(&self) -> String {
        let mut text = format!("for=\"{}\"", self.for_);
        if let Some(host) = self.host.as_deref().filter(|h| is_forwarded_host(h)) {
            write!(text, ";host=\"{host}\"").expect("a String takes all");
        }
        text
    }

    /// Reads one element (RFC 7239, section 4) with `for` as an address and a port; `by`, `proto` and extensions are
    /// left out.
    ///
    /// # Errors
    /// Longer than [`MAX_FORWARDED_BYTES`], more than one element, a repeated parameter, bad quoting, no `for`, or one
    /// that is no IP address with a port.
    pub fn parse(text: &str) -> Result<Self, InvalidHead> {
        let bad = InvalidHead::Forwarded;
        if text.len() > MAX_FORWARDED_BYTES {
            return Err(bad);
        }
        let (mut for_, mut host) = (None, None);
        let mut rest = text.trim();
        while !rest.is_empty() {
            let (name, after) = rest.split_once('=').ok_or(bad)?;
            let (value, after) = forwarded_value(after).ok_or(bad)?;
            match name.trim().to_ascii_lowercase().as_str() {
                "for" if for_.is_none() => for_ = Some(value.parse().map_err(|_| bad)?),
                "host" if host.is_none() && is_forwarded_host(&value) => host = Some(value),
                "for" | "host" => return Err(bad),
                name if !name.is_empty() && name.bytes().all(is_token) => {}
                _ => return Err(bad),
            }
            let after = after.trim_start();
            rest = match after.strip_prefix(';') {
                Some(next) => next.trim_start(),
                None if after.is_empty() => "",
                None => return Err(bad),
            };
        }
        // Scope identifiers do not survive a header; a flow label or scope of a text address is never meaningful here.
        match for_ {
            Some(SocketAddr::V6(v6)) if v6.scope_id() != 0 || v6.flowinfo() != 0 => Err(bad),
            Some(for_) => Ok(Self { for_, host }),
            None => Err(bad),
        }
    }
}

/// A token or a quoted string, and what follows it.
fn forwarded_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.bytes().position(|b| !is_token(b)).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c if c.is_control() => return None,
            c => value.push(c),
        }
    }
    None
}

/// RFC 9110, section 5.6.2, and the ':' of `host=name:port`, which senders leave unquoted.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:".contains(&byte)
}

fn is_forwarded_host(host: &str) -> bool {
    is_hostname(host) || host.parse::<Ipv4Addr>().is_ok() || check_authority(host).is_ok()
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, lower case, ids not all zero (W3C Trace Context, section 3.2.2).
fn check_traceparent(text: &str) -> Result<(), InvalidHead> {
    let hex = |s: &str| s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let id = |s: &str| hex(s) && s.bytes().any(|b| b != b'0');
    let mut parts = text.split('-');
    match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("00"), Some(trace), Some(parent), Some(flags), None)
            if trace.len() == 32 && parent.len() == 16 && flags.len() == 2 && id(trace) && id(parent) && hex(flags) =>
        {
            Ok(())
        }
        _ => Err(InvalidHead::Traceparent),
    }
}

/// Longest baggage that is read, in bytes: W3C Baggage, section 3.3.2 asks for at least this.
pub const MAX_BAGGAGE_BYTES: usize = 8192;
/// Longest name in a baggage, in bytes: that of a Kubernetes object (RFC 1123 subdomain).
pub const MAX_NAME_BYTES: usize = 253;
/// Longest forwarded field that is read, in bytes: a host name, an address and room for `by` and `proto`.
pub const MAX_FORWARDED_BYTES: usize = 1024;

pub(super) const BAGGAGE: &[u8] = b"baggage";
const FORWARDED: &[u8] = b"forwarded";
const TRACEPARENT: &[u8] = b"traceparent";

#[cfg(test)]
mod tests;

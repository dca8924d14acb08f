//! What is done to header fields: by routes, and because some are not for the next hop.
//!
//! Of all operations, those of the rule come before those of the destination, and: removals, then `set`, then `add`. Values are
//! worked out from the headers as they were before, so they are made first and carried out later.

mod format;

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{self, HeaderName, HeaderValue};
use mesh_core::l7::route::HeaderOps;
use mesh_net::header_list::HeaderList;

use super::head::{Fields, Request};
pub use format::{BadFormat, Facts, Format};

/// Operations of one rule or destination on one direction, compiled.
#[derive(Clone, Debug, Default)]
pub struct Ops {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, Format)>,
    add: Vec<(HeaderName, Format)>,
    /// A new Host, which is not a header among others.
    host: Option<Format>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOps {
    #[error("no header is called {0:?}")]
    Name(Arc<str>),
    #[error("header {name}: {source}")]
    Format { name: Arc<str>, source: BadFormat },
    #[error("a request cannot go on without its host")]
    Host,
}

impl Ops {
    pub fn for_requests(ops: &HeaderOps) -> Result<Self, BadOps> {
        if ops.remove.iter().any(|name| is_host(name)) {
            return Err(BadOps::Host);
        }
        let mut host = None;
        for (name, value) in ops.add.iter().chain(&ops.set).filter(|(name, _)| is_host(name)) {
            host = Some(format(name, value)?);
        }
        Ok(Self { host, ..Self::new(ops, is_host)? })
    }

    /// Setting `server` has no effect in the reference.
    pub fn for_responses(ops: &HeaderOps) -> Result<Self, BadOps> {
        Self::new(ops, |name| name.eq_ignore_ascii_case("server"))
    }

    fn new(ops: &HeaderOps, is_apart: impl Fn(&str) -> bool) -> Result<Self, BadOps> {
        // How long a body is, is said by who sends it.
        let is_apart = |name: &str| is_apart(name) || FRAMING.iter().any(|own| name.eq_ignore_ascii_case(own.as_str()));
        let values = |list: &[(Arc<str>, Arc<str>)]| {
            let ours = list.iter().filter(|(name, _)| !is_apart(name));
            ours.map(|(own, value)| Ok((name(own)?, format(own, value)?))).collect::<Result<Vec<_>, _>>()
        };
        let remove = ops.remove.iter().filter(|name| !is_apart(name)).map(name).collect::<Result<_, _>>()?;
        Ok(Self { remove, set: values(&ops.set)?, add: values(&ops.add)?, host: None })
    }

    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty() && self.host.is_none()
    }

    /// The new Host; of a rule's and its destination's the rule's counts.
    pub fn host<F: Fields + ?Sized>(&self, request: &Request<'_, F>) -> Option<HeaderValue> {
        self.host.as_ref()?.value(&Facts::of_request(request))
    }
}

fn name(name: &Arc<str>) -> Result<HeaderName, BadOps> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| BadOps::Name(name.clone()))
}

fn format(name: &Arc<str>, value: &str) -> Result<Format, BadOps> {
    Format::new(value).map_err(|source| BadOps::Format { name: name.clone(), source })
}

fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

/// What is to be done to the headers of one message.
#[derive(Clone, Debug, Default)]
pub struct Edits<'a> {
    remove: Vec<&'a HeaderName>,
    set: Vec<(&'a HeaderName, HeaderValue)>,
    add: Vec<(&'a HeaderName, HeaderValue)>,
}

impl<'a> Edits<'a> {
    /// Of what is done first, and then of what has the last word. A value that comes to nothing leaves its header alone.
    pub fn of_request<F: Fields + ?Sized>(
        rule: &'a Ops,
        destination: Option<&'a Ops>,
        request: &Request<'_, F>,
    ) -> Self {
        if rule.is_empty() && destination.is_none_or(Ops::is_empty) {
            return Self::default();
        }
        let both = || [Some(rule), destination].into_iter().flatten();
        let remove: Vec<_> = both().flat_map(|ops| &ops.remove).collect();
        // What is removed is not there to be copied either.
        let facts = Facts { removed: &remove, ..Facts::of_request(request) };
        let value = |(name, format): &'a (HeaderName, Format)| Some((name, format.value(&facts)?));
        let set = both().flat_map(|ops| &ops.set).filter_map(value).collect();
        let add = both().flat_map(|ops| &ops.add).filter_map(value).collect();
        Self { remove, set, add }
    }

    /// Sets one more, over all others.
    pub fn put(&mut self, name: &'a HeaderName, value: HeaderValue) {
        self.add.retain(|(own, _)| *own != name);
        self.set.push((name, value));
    }

    pub fn apply(&self, headers: &mut HeaderList) {
        for name in &self.remove {
            headers.remove(*name);
        }
        for (name, value) in &self.set {
            headers.insert(*name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(*name, value.clone());
        }
    }

    /// Whether a line of that name does not go on as it came: for who copies heads without a map.
    pub fn replaces(&self, name: &HeaderName) -> bool {
        self.remove.contains(&name) || self.set.iter().any(|(own, _)| *own == name)
    }

    /// Lines that are there afterwards; of several that were set, the last.
    pub fn lines(&self) -> impl Iterator<Item = (&'a HeaderName, &HeaderValue)> {
        let is_last = |at: usize, name: &HeaderName| self.set[at + 1..].iter().all(|(later, _)| *later != name);
        let set = self.set.iter().enumerate().filter(move |(at, (name, _))| is_last(*at, name)).map(|(_, line)| line);
        set.chain(&self.add).map(|(name, value)| (*name, value))
    }
}

/// What is to be done to the headers of the reply, whoever gives it, made while the request is still at hand.
#[derive(Clone, Debug, Default)]
pub struct ReplyOps<'a> {
    remove: Vec<&'a HeaderName>,
    set: Vec<(&'a HeaderName, Cow<'a, Format>)>,
    add: Vec<(&'a HeaderName, Cow<'a, Format>)>,
}

impl<'a> ReplyOps<'a> {
    pub fn new<F: Fields + ?Sized>(rule: &'a Ops, destination: Option<&'a Ops>, request: &Request<'_, F>) -> Self {
        if rule.is_empty() && destination.is_none_or(Ops::is_empty) {
            return Self::default();
        }
        let both = || [Some(rule), destination].into_iter().flatten();
        let bound = |(name, format): &'a (HeaderName, Format)| (name, format.bound(request));
        Self {
            remove: both().flat_map(|ops| &ops.remove).collect(),
            set: both().flat_map(|ops| &ops.set).map(bound).collect(),
            add: both().flat_map(|ops| &ops.add).map(bound).collect(),
        }
    }

    pub fn edits<R: Fields + ?Sized>(&self, status: u16, headers: &R) -> Edits<'a> {
        if self.remove.is_empty() && self.set.is_empty() && self.add.is_empty() {
            return Edits::default();
        }
        let facts = Facts::of_response(status, headers, &self.remove);
        let value = |(name, format): &(&'a HeaderName, Cow<'a, Format>)| Some((*name, format.value(&facts)?));
        let (set, add) = (self.set.iter().filter_map(value).collect(), self.add.iter().filter_map(value).collect());
        Edits { remove: self.remove.clone(), set, add }
    }

    pub fn apply(&self, status: u16, headers: &mut HeaderList) {
        self.edits(status, headers).apply(headers);
    }
}

/// Takes out of a request what ends at this hop and what a client must not say. Comes before anything that looks at headers,
/// so that policy and routes see what the backend sees.
pub fn sanitise(headers: &mut HeaderList) {
    strip_hop_by_hop(headers);
    headers.remove_if(|name| is_control(name.as_str()));
}

/// Whether a client's header would steer the mesh, or claim to come from it.
pub fn is_control(name: &str) -> bool {
    name.starts_with("x-envoy-") || name == "x-forwarded-client-cert"
}

/// What RFC 9110, section 7.6.1, keeps from the next hop, of requests and replies; upgrades and framing are the caller's.
pub fn strip_hop_by_hop(headers: &mut HeaderList) {
    // One look at all names costs less than looking for each, and hardly a message has one.
    let ends_here =
        |name: &HeaderName| matches!(name.as_str(), "connection" | "keep-alive" | "proxy-connection" | "te");
    if !headers.has(ends_here) {
        return;
    }
    if headers.contains_key(header::CONNECTION) {
        let lines = headers.get_all(header::CONNECTION);
        let named: Vec<HeaderName> = lines
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            .filter(|name| !FRAMING.contains(name) && *name != header::HOST && *name != header::TE)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    if takes_trailers(headers) {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(header::TE);
    }
}

/// Whether who sent them takes fields behind a body (RFC 9110, section 10.1.4).
pub fn takes_trailers(headers: &HeaderList) -> bool {
    let is_trailers = |word: &[u8]| word.trim_ascii().eq_ignore_ascii_case(b"trailers");
    headers.get(header::TE).is_some_and(|te| te.as_bytes().split(|byte| *byte == b',').any(is_trailers))
}

/// Gives a request an id if it has none.
pub fn ensure_request_id(headers: &mut HeaderList, id: impl FnOnce() -> HeaderValue) {
    headers.get_or_insert_with(REQUEST_ID, id);
}

/// The last that is done to a reply, also to one of the waypoint's own.
pub fn finish_reply(headers: &mut HeaderList) {
    strip_hop_by_hop(headers);
    headers.insert(header::SERVER, SERVER);
}

const FRAMING: [HeaderName; 3] = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE];
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
pub static ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
pub static ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
/// What the reference calls itself, whatever the backend or a route says: dashboards and probes look for it.
pub const SERVER: HeaderValue = HeaderValue::from_static("istio-envoy");

#[cfg(test)]
mod tests;

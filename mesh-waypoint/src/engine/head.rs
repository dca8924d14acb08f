//! What is known of a request when its head has arrived, borrowed from whoever has read it.

use std::net::SocketAddr;
use std::time::SystemTime;

use http::HeaderName;
use mesh_core::workload::Uid;
use mesh_net::header_list::HeaderList;

/// Header fields, whoever holds them: a map, or ranges of the bytes that arrived.
pub trait Fields {
    /// Values of the lines with this name, in the order they came.
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> + 'a;

    fn first<'a>(&'a self, name: &'a HeaderName) -> Option<&'a [u8]> {
        self.lines(name).next()
    }
}

impl Fields for HeaderList {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.get_all(name).map(|value| value.as_bytes())
    }
}

/// Names in lower case, with their values.
impl Fields for [(&str, &str)] {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.iter().filter(move |(own, _)| name == own).map(|(_, value)| value.as_bytes())
    }
}

#[derive(Debug)]
pub struct Head<'a, F: ?Sized = HeaderList> {
    pub method: &'a str,
    /// `http` or `https`, as the client sees it.
    pub scheme: &'a str,
    /// `:authority`, or the Host header, as it was sent.
    pub authority: &'a str,
    /// Normalised ([`super::path::target`]).
    pub path: &'a str,
    /// Without its `?`; `Some("")` when there is a `?` and nothing behind it.
    pub query: Option<&'a str>,
    /// `HTTP/1.1`, `HTTP/2`.
    pub protocol: &'a str,
    /// After [`super::headers::sanitise`]: what a client must not say is not looked at either.
    pub headers: &'a F,
}

/// The workload that asks, as its tunnel attests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Client<'a> {
    /// Empty: not known.
    pub namespace: &'a str,
    pub uid: Option<&'a Uid>,
    /// `spiffe://...`
    pub identity: Option<&'a str>,
    pub address: Option<SocketAddr>,
}

/// All that a decision is about.
#[derive(Debug)]
pub struct Request<'a, F: ?Sized = HeaderList> {
    pub head: Head<'a, F>,
    pub client: Client<'a>,
    pub received: SystemTime,
}

impl<F: ?Sized> Clone for Head<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: ?Sized> Copy for Head<'_, F> {}

impl<F: ?Sized> Clone for Request<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: ?Sized> Copy for Request<'_, F> {}

impl<F: ?Sized> Head<'_, F> {
    /// Path and query, as they stand in a request line.
    pub fn target(&self) -> String {
        with_query(self.path, self.query)
    }
}

impl<F: Fields + ?Sized> Head<'_, F> {
    /// Whether failures have to be told in gRPC's way.
    pub fn is_grpc(&self) -> bool {
        is_grpc(self.headers)
    }

    pub fn field<'a>(&'a self, field: &'a Field) -> FieldValues<'a, impl Iterator<Item = &'a [u8]>> {
        match field {
            Field::Named(name) => FieldValues::Lines(self.headers.lines(name)),
            Field::Method => FieldValues::One(Some(self.method.as_bytes())),
            Field::Scheme => FieldValues::One(Some(self.scheme.as_bytes())),
            Field::Authority => FieldValues::One(Some(self.authority.as_bytes())),
        }
    }
}

/// A header that can be asked for: the reference knows the request line by pseudo headers, and Host as `:authority`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    Named(HeaderName),
    Method,
    Scheme,
    Authority,
}

impl Field {
    /// `None`: no header can have this name.
    pub fn new(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            ":method" => Self::Method,
            ":scheme" => Self::Scheme,
            ":authority" | "host" => Self::Authority,
            name => Self::Named(HeaderName::from_bytes(name.as_bytes()).ok()?),
        })
    }
}

/// Lines of a header, or the one value of a pseudo header.
pub enum FieldValues<'a, I> {
    Lines(I),
    One(Option<&'a [u8]>),
}

impl<'a, I: Iterator<Item = &'a [u8]>> Iterator for FieldValues<'a, I> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match self {
            Self::Lines(lines) => lines.next(),
            Self::One(value) => value.take(),
        }
    }
}

/// See [`Head::is_grpc`].
pub fn is_grpc(headers: &(impl Fields + ?Sized)) -> bool {
    let kind = headers.first(&http::header::CONTENT_TYPE);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'+')
}

/// Whether an HTTP/1.1 request may have this method; others are answered with 400, as the reference's parser does.
pub fn is_method(method: &str) -> bool {
    METHODS.contains(&method)
}

/// Whether all of it may stand in a host with its port (RFC 3986, section 3.2), without a user: what a line of HTTP/1.1 would
/// be cut at, or somebody reads as another host, is not there. Of none there is nothing to say.
pub fn is_authority(authority: &str) -> bool {
    authority.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte))
}

/// Those of the IANA registry that proxies carry, most used first.
#[rustfmt::skip]
const METHODS: &[&str] = &[
    "GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE", "ACL", "BIND", "CHECKOUT", "COPY", "LINK",
    "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE", "M-SEARCH", "NOTIFY", "PROPFIND", "PROPPATCH", "PURGE",
    "REBIND", "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "UNBIND", "UNLINK", "UNLOCK", "UNSUBSCRIBE",
];

pub(crate) fn with_query(path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sample::Asked;

    #[test]
    fn a_map_and_a_list_show_the_same_lines() {
        let list: &[(&str, &str)] = &[("a", "1"), ("b", "2"), ("a", "3")];
        let map: HeaderList =
            list.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect();
        let name = HeaderName::from_static("a");
        assert_eq!(list.lines(&name).collect::<Vec<_>>(), [b"1", b"3"]);
        assert_eq!(map.lines(&name).collect::<Vec<_>>(), [b"1", b"3"]);
        assert_eq!(map.first(&HeaderName::from_static("c")), None);
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        let is_grpc = |kind: &str| Asked::new(&format!("POST a/ content-type={kind}")).request().head.is_grpc();
        assert_eq!(
            ["application/grpc", "application/grpc+proto", "application/grpc-web", "text/plain"].map(is_grpc),
            [true, true, false, false]
        );
    }

    #[test]
    fn methods_are_those_of_the_registry() {
        assert_eq!(["GET", "M-SEARCH", "get", "FOO", ""].map(is_method), [true, true, false, false, false]);
    }
}

//! A request as it has come, made canonical: everything after this looks at the same thing.

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Version, header};
use mesh_core::l7::PathNormalization;

use crate::engine::head;
use crate::engine::headers;
use crate::engine::path;

/// A request's head.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) method: Method,
    pub(super) authority: String,
    /// Normalised, without query.
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) version: Version,
    /// Without what ends at this hop and what a client must not say.
    pub(super) headers: HeaderMap,
    /// What the connection is to become (`websocket`).
    pub(super) upgrade: Option<http::HeaderValue>,
}

/// What cannot be read in one way only is not carried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRequest {
    #[error("no host, or more than one")]
    Host,
    #[error("path_normalization_failed")]
    Path,
    #[error("no method that there is")]
    Method,
    #[error("CONNECT")]
    Connect,
    #[error("a length and chunks")]
    Framing,
}

impl Incoming {
    pub(super) fn read(parts: Parts, how: PathNormalization) -> Result<Self, BadRequest> {
        let Parts { method, uri, version, mut headers, .. } = parts;
        if method == Method::CONNECT {
            return Err(BadRequest::Connect);
        }
        if version != Version::HTTP_2 && !head::is_method(method.as_str()) {
            return Err(BadRequest::Method);
        }
        // `GET host:80`, which is a form of CONNECT alone (RFC 9112, section 3.2.3).
        if uri.authority().is_some() && uri.scheme().is_none() {
            return Err(BadRequest::Path);
        }
        // Two who count differently see two requests where there is one (RFC 9112, section 6.1).
        if headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH) {
            return Err(BadRequest::Framing);
        }
        let mut hosts = headers.get_all(header::HOST).iter();
        let (host, second) = (hosts.next(), hosts.next());
        let authority = match (uri.authority(), host) {
            _ if second.is_some() => return Err(BadRequest::Host),
            // An absolute target goes before the header (RFC 9112, section 3.2.2).
            (Some(authority), _) => authority.as_str().to_owned(),
            (None, Some(host)) => host.to_str().map_err(|_| BadRequest::Host)?.to_owned(),
            (None, None) if version == Version::HTTP_10 => String::new(),
            (None, None) => return Err(BadRequest::Host),
        };
        let raw = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let target = path::target(method.as_str(), raw, how).map_err(|_| BadRequest::Path)?;
        let (path, query) = (target.path.into_owned(), target.query.map(str::to_owned));
        let names_upgrade = |value: &http::HeaderValue| {
            value.as_bytes().split(|b| *b == b',').any(|word| word.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        };
        let upgrade = headers
            .get_all(header::CONNECTION)
            .iter()
            .any(names_upgrade)
            .then(|| headers.get(header::UPGRADE).cloned())
            .flatten()
            .filter(|_| version == Version::HTTP_11);
        headers::sanitise(&mut headers);
        headers.remove(header::UPGRADE);
        headers.remove(header::HOST);
        Ok(Self { method, authority, path, query, version, headers, upgrade })
    }

    /// Path and query as they go on, unless a route says otherwise.
    pub(super) fn canonical(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
}

pub(super) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

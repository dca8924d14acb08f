//! A request as it has come, made canonical: everything after this looks at the same thing.

use std::borrow::Cow;

use http::{HeaderValue, Method, Version, header};
use mesh_core::l7::PathNormalization;
use mesh_net::header_list::HeaderList;

use crate::engine::head;
use crate::engine::headers;
use crate::engine::path;
use crate::message::Arriving;

/// A request's head.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) method: Method,
    pub(super) scheme: &'static str,
    pub(super) authority: String,
    /// Normalised, without query.
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) version: Version,
    /// Without what ends at this hop and what a client must not say.
    pub(super) headers: HeaderList,
    /// What the connection is to become: `websocket`. Any other wish is passed over (RFC 9110, section 7.8): behind `h2c` a backend
    /// would take further requests that nobody here looks at.
    pub(super) upgrade: Option<HeaderValue>,
}

/// What cannot be read in one way only is not carried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRequest {
    #[error("no host, more than one, or one that is none")]
    Host,
    #[error("path_normalization_failed")]
    Path,
    #[error("no method that there is")]
    Method,
    #[error("CONNECT")]
    Connect,
}

impl Incoming {
    /// Takes all but the body.
    pub(super) fn read(arriving: &mut Arriving, how: PathNormalization) -> Result<Self, BadRequest> {
        let (method, version) = (arriving.method.clone(), arriving.version);
        let mut headers = std::mem::take(&mut arriving.headers);
        if method == Method::CONNECT {
            return Err(BadRequest::Connect);
        }
        if version != Version::HTTP_2 && !head::is_method(method.as_str()) {
            return Err(BadRequest::Method);
        }
        let mut hosts = headers.get_all(header::HOST);
        let (host, second) = (hosts.next(), hosts.next());
        if second.is_some() {
            return Err(BadRequest::Host);
        }
        let absolute = path::split_absolute(&arriving.target).map_err(|_| BadRequest::Path)?;
        let (authority, raw) = match (absolute, arriving.authority.take(), host) {
            // An absolute target goes before the header (RFC 9112, section 3.2.2).
            (Some(absolute), _, _) => (absolute.authority.to_owned(), absolute.rest),
            (None, Some(authority), _) => (authority, Cow::Borrowed(&*arriving.target)),
            (None, None, Some(host)) => {
                let host = host.to_str().map_err(|_| BadRequest::Host)?;
                (host.to_owned(), Cow::Borrowed(&*arriving.target))
            }
            (None, None, None) if version == Version::HTTP_10 => (String::new(), Cow::Borrowed(&*arriving.target)),
            (None, None, None) => return Err(BadRequest::Host),
        };
        if !head::is_authority(&authority) {
            return Err(BadRequest::Host);
        }
        let target = path::target(method.as_str(), &raw, how).map_err(|_| BadRequest::Path)?;
        let (path, query) = (target.path.into_owned(), target.query.map(str::to_owned));
        let names_upgrade = |value: &HeaderValue| {
            value.as_bytes().split(|b| *b == b',').any(|word| word.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        };
        let upgrade = headers
            .get_all(header::CONNECTION)
            .any(names_upgrade)
            .then(|| headers.get(header::UPGRADE).cloned())
            .flatten()
            .filter(|to| version == Version::HTTP_11 && to.as_bytes().eq_ignore_ascii_case(b"websocket"));
        headers::sanitise(&mut headers);
        headers.remove_if(|name| *name == header::UPGRADE || *name == header::HOST);
        let scheme = scheme(&mut headers);
        Ok(Self { scheme, method, authority, path, query, version, headers, upgrade })
    }

    /// Path and query as they go on, unless a route says otherwise.
    pub(super) fn canonical(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
}

/// What the client spoke, by what was in front of this hop: a gateway that ends TLS says so. Whoever is behind it is told.
fn scheme(fields: &mut HeaderList) -> &'static str {
    let said = fields.get_or_insert_with(headers::FORWARDED_PROTO, || HeaderValue::from_static("http"));
    if said.as_bytes().eq_ignore_ascii_case(b"https") { "https" } else { "http" }
}

pub(super) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

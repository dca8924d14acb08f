//! Where a redirect sends its client.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use mesh_core::l7::route::{self, RedirectPort};

use super::head::{Head, with_query};
use super::matcher::Taken;
use super::respond::{Reply, Why, bad_request};
use super::rewrite::{BadRewrite, NewPath};

#[derive(Clone, Debug)]
pub struct Redirect {
    status: StatusCode,
    scheme: Option<Arc<str>>,
    authority: Option<Arc<str>>,
    port: RedirectPort,
    path: Option<NewPath>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRedirect {
    #[error("{0} is no status")]
    Status(u16),
    #[error("{0:?} cannot stand in a location")]
    Text(Arc<str>),
    #[error(transparent)]
    Path(#[from] BadRewrite),
}

impl Redirect {
    pub fn new(redirect: &route::Redirect) -> Result<Self, BadRedirect> {
        let route::Redirect { status, scheme, authority, port, path } = redirect;
        for text in [scheme, authority].into_iter().flatten() {
            HeaderValue::from_str(text).map_err(|_| BadRedirect::Text(text.clone()))?;
        }
        Ok(Self {
            status: StatusCode::from_u16(*status).map_err(|_| BadRedirect::Status(*status))?,
            scheme: scheme.clone(),
            authority: authority.clone(),
            port: *port,
            path: path.as_ref().map(NewPath::new).transpose()?,
        })
    }

    pub fn reply<F: ?Sized>(&self, head: &Head<'_, F>, taken: Taken) -> Reply {
        let Ok(location) = HeaderValue::try_from(self.location(head, taken)) else { return bad_request() };
        let mut reply = Reply::text(self.status, "", Why::Redirect);
        reply.headers.insert(header::LOCATION, location);
        reply
    }

    fn location<F: ?Sized>(&self, head: &Head<'_, F>, taken: Taken) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(head.scheme);
        let target = match &self.path {
            Some(path) if path.has_query() => path.of_bytes(head.path, taken),
            Some(path) => with_query(&path.of_bytes(head.path, taken), head.query),
            None => head.target(),
        };
        let (host, own_port) = split_port(head.authority);
        let host = self.authority.as_deref().unwrap_or(host);
        let port = match self.port {
            RedirectPort::Number(port) => {
                Some(port).filter(|port| Some(*port) != default_port(scheme)).map(|p| p.to_string())
            }
            RedirectPort::Default => None,
            RedirectPort::Keep if self.authority.is_some() => None,
            RedirectPort::Keep => own_port
                .filter(|port| {
                    scheme == head.scheme || default_port(head.scheme).is_none_or(|old| **port != old.to_string())
                })
                .map(str::to_owned),
        };
        match port {
            Some(port) => format!("{scheme}://{host}:{port}{target}"),
            None => format!("{scheme}://{host}{target}"),
        }
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// Host and port; the colons of a bare IPv6 address are in brackets.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use mesh_core::l7::route::PathRewrite;
    use proptest::prelude::*;

    use crate::engine::sample::Asked;

    fn plain() -> route::Redirect {
        route::Redirect { status: 301, scheme: None, authority: None, port: RedirectPort::Keep, path: None }
    }

    fn full(path: &str) -> route::Redirect {
        route::Redirect { path: Some(PathRewrite::Full(path.into())), ..plain() }
    }

    fn scheme(scheme: &str) -> route::Redirect {
        route::Redirect { scheme: Some(scheme.into()), ..plain() }
    }

    fn check(redirect: route::Redirect, target: &str, taken: Taken, expected: Expect) {
        let asked = Asked::new(&format!("GET {target}"));
        let reply = Redirect::new(&redirect).unwrap().reply(&asked.request().head, taken);
        expected.assert_eq(&format!(
            "{} {}",
            reply.status.as_u16(),
            reply.headers.get("location").unwrap().to_str().unwrap()
        ));
        assert!(reply.body.is_empty());
    }

    #[test]
    fn a_new_path_keeps_the_query_unless_it_has_one() {
        check(full("/new"), "a/old/x?q=1", Taken::Prefix(4), expect!["301 http://a/new?q=1"]);
        check(full("/new?own=1"), "a/old?q=1", Taken::Whole, expect!["301 http://a/new?own=1"]);
        check(full("%PREFIX()%/new"), "a/old", Taken::Whole, expect!["301 http://a%PREFIX()%/new"]);
    }

    #[test]
    fn elements_are_bytes_in_a_redirect() {
        let elements =
            |path: &str| route::Redirect { status: 302, path: Some(PathRewrite::Elements(path.into())), ..plain() };
        check(elements("/"), "a/v1/a", Taken::Elements(3), expect!["302 http://a//a"]);
        check(elements("/v2"), "a/v1/a?q", Taken::Elements(3), expect!["302 http://a/v2/a?q"]);
    }

    #[test]
    fn the_hosts_port_is_kept() {
        check(full("/new"), "a:8080/", Taken::Whole, expect!["301 http://a:8080/new"]);
        check(full("/new"), "a:80/", Taken::Whole, expect!["301 http://a:80/new"]);
        check(full("/new"), "[::1]:8080/", Taken::Whole, expect!["301 http://[::1]:8080/new"]);
        check(full("/new"), "[::1]/", Taken::Whole, expect!["301 http://[::1]/new"]);
    }

    #[test]
    fn another_scheme_drops_the_old_ones_port() {
        check(scheme("https"), "a:80/x", Taken::Nothing, expect!["301 https://a/x"]);
        check(scheme("https"), "a:8080/x", Taken::Nothing, expect!["301 https://a:8080/x"]);
        check(scheme("http"), "a:80/x", Taken::Nothing, expect!["301 http://a:80/x"]);
    }

    #[test]
    fn another_authority_drops_the_port() {
        let authority = route::Redirect { authority: Some("b".into()), ..plain() };
        check(authority.clone(), "a:8080/x?q", Taken::Nothing, expect!["301 http://b/x?q"]);
        check(
            route::Redirect { authority: Some("b:99".into()), ..plain() },
            "a/x",
            Taken::Nothing,
            expect!["301 http://b:99/x"],
        );
        check(
            route::Redirect { port: RedirectPort::Number(81), ..authority },
            "a/x",
            Taken::Nothing,
            expect!["301 http://b:81/x"],
        );
    }

    #[test]
    fn a_port_is_named_unless_it_is_the_schemes() {
        let port = |port| route::Redirect { port, ..plain() };
        check(port(RedirectPort::Number(8443)), "a:80/", Taken::Nothing, expect!["301 http://a:8443/"]);
        check(port(RedirectPort::Number(80)), "a:8080/", Taken::Nothing, expect!["301 http://a/"]);
        check(port(RedirectPort::Default), "a:8080/", Taken::Nothing, expect!["301 http://a/"]);
        let secure = route::Redirect { port: RedirectPort::Number(443), ..scheme("https") };
        check(secure, "a:8080/", Taken::Nothing, expect!["301 https://a/"]);
    }

    #[test]
    fn what_is_no_redirect_is_refused() {
        assert_eq!(Redirect::new(&route::Redirect { status: 42, ..plain() }).unwrap_err(), BadRedirect::Status(42));
        assert!(Redirect::new(&scheme("a\nb")).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_targets_never_panic(target in "[^ ]{0,30}", path: String) {
            let asked = Asked::new(&format!("GET a{target}")).with_path(&path);
            Redirect::new(&scheme("https")).unwrap().reply(&asked.request().head, Taken::Prefix(3));
            split_port(&target);
        }
    }
}

//! Session persistence: a client comes back to the endpoint that it has been with, by a cookie or header that names it.
//!
//! The value is base64url of `<until, in seconds since 1970, or nothing> <uid>`. It is opaque, not secret: a client that makes one up
//! names an endpoint, and whoever sends the request there has to look whether it is one of those that may be chosen.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{self, HeaderName, HeaderValue};
use mesh_core::l7::route::{SessionBy, SessionPersistence};
use mesh_core::workload::Uid;
use mesh_net::unix_time;

use super::head::{Fields, Head};

#[derive(Clone, Debug)]
pub struct Session {
    by: By,
    /// A session that is older begins anew.
    absolute_timeout: Option<Duration>,
}

#[derive(Clone, Debug)]
enum By {
    Cookie { name: Arc<str>, path: Arc<str>, permanent: bool },
    Header(HeaderName),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSession {
    #[error("neither a cookie nor a header is called {0:?}")]
    Name(Arc<str>),
    #[error("{0:?} is no cookie's path")]
    Path(Arc<str>),
}

/// What a request says of its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    pub endpoint: Uid,
    until: Option<u64>,
}

impl Session {
    pub fn new(session: &SessionPersistence) -> Result<Self, BadSession> {
        let token =
            |name: &Arc<str>| HeaderName::from_bytes(name.as_bytes()).map_err(|_| BadSession::Name(name.clone()));
        let by = match &session.by {
            SessionBy::Header { name } => By::Header(token(name)?),
            SessionBy::Cookie { name, permanent, path } => {
                token(name)?;
                if HeaderValue::from_str(path).is_err() || path.contains(';') {
                    return Err(BadSession::Path(path.clone()));
                }
                let path = if path.is_empty() { "/".into() } else { path.clone() };
                By::Cookie { name: name.clone(), path, permanent: *permanent }
            }
        };
        Ok(Self { by, absolute_timeout: session.absolute_timeout })
    }

    /// `None`: there is no session, or it is over.
    pub fn pin<F: Fields + ?Sized>(&self, head: &Head<'_, F>, now: SystemTime) -> Option<Pin> {
        let value = match &self.by {
            By::Header(name) => head.headers.first(name)?,
            By::Cookie { name, .. } => {
                let pairs = head.headers.lines(&header::COOKIE).flat_map(|line| line.split(|byte| *byte == b';'));
                pairs
                    .into_iter()
                    .find_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))?
            }
        };
        let plain = String::from_utf8(URL_SAFE_NO_PAD.decode(value).ok()?).ok()?;
        let (until, uid) = plain.split_once(' ')?;
        let until = if until.is_empty() { None } else { Some(until.parse().ok()?) };
        let is_over = until.is_some_and(|until: u64| until <= unix_time::seconds(now));
        (!is_over && !uid.is_empty()).then(|| Pin { endpoint: Uid(uid.into()), until })
    }

    /// A header for the reply: when the session begins, or goes on with another endpoint.
    pub fn header(&self, endpoint: &Uid, pin: Option<&Pin>, now: SystemTime) -> Option<(HeaderName, HeaderValue)> {
        if pin.is_some_and(|pin| pin.endpoint == *endpoint) {
            return None;
        }
        let fresh = || self.absolute_timeout.map(|timeout| unix_time::seconds(now).saturating_add(timeout.as_secs()));
        let until = pin.map_or_else(fresh, |pin| pin.until);
        let mut plain = until.map(|until| until.to_string()).unwrap_or_default();
        plain.push(' ');
        plain.push_str(&endpoint.0);
        let value = URL_SAFE_NO_PAD.encode(plain);
        let (name, value) = match &self.by {
            By::Header(name) => (name.clone(), value),
            By::Cookie { name, path, permanent } => {
                let age = until.filter(|_| *permanent).map(|until| until.saturating_sub(unix_time::seconds(now)));
                let age = age.map(|age| format!("; Max-Age={age}")).unwrap_or_default();
                (header::SET_COOKIE, format!("{name}={value}{age}; Path={path}; HttpOnly"))
            }
        };
        Some((name, HeaderValue::try_from(value).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sample::Asked;
    use expect_test::expect;
    use proptest::prelude::*;

    fn cookie(permanent: bool, timeout: Option<u64>) -> Session {
        let by = SessionBy::Cookie { name: "weft".into(), permanent, path: "/shop".into() };
        Session::new(&SessionPersistence { by, absolute_timeout: timeout.map(Duration::from_secs) }).unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn uid(name: &str) -> Uid {
        Uid::pod("c", "shop", name)
    }

    /// What the client sends next.
    fn back(session: &Session, set_cookie: &HeaderValue, now: u64) -> Option<Pin> {
        let (pair, _) = set_cookie.to_str().unwrap().split_once(';').unwrap();
        let mut asked = Asked::new("GET a/");
        asked.headers.insert("cookie", format!("a=b; {pair}; c=d").parse().unwrap());
        session.pin(&asked.request().head, at(now))
    }

    #[test]
    fn a_cookie_brings_the_client_back() {
        let session = cookie(false, None);
        let (name, value) = session.header(&uid("p1"), None, at(5)).unwrap();
        expect!["weft=IGMvL1BvZC9zaG9wL3Ax; Path=/shop; HttpOnly"].assert_eq(value.to_str().unwrap());
        assert_eq!(name, "set-cookie");
        let pin = back(&session, &value, 99).unwrap();
        assert_eq!(pin.endpoint, uid("p1"));
        assert_eq!(session.header(&uid("p1"), Some(&pin), at(99)), None);
        assert!(session.header(&uid("p2"), Some(&pin), at(99)).is_some());
    }

    #[test]
    fn a_session_ends_when_it_is_too_old_and_not_later_by_another_endpoint() {
        let session = cookie(true, Some(100));
        let (_, value) = session.header(&uid("p1"), None, at(5)).unwrap();
        assert!(value.to_str().unwrap().contains("; Max-Age=100;"), "{value:?}");
        let pin = back(&session, &value, 65).unwrap();
        let (_, value) = session.header(&uid("p2"), Some(&pin), at(65)).unwrap();
        assert!(value.to_str().unwrap().contains("; Max-Age=40;"), "{value:?}");
        assert!(back(&session, &value, 104).is_some());
        assert!(back(&session, &value, 105).is_none());
    }

    #[test]
    fn a_header_does_as_well() {
        let by = SessionBy::Header { name: "x-session".into() };
        let session = Session::new(&SessionPersistence { by, absolute_timeout: None }).unwrap();
        let (name, value) = session.header(&uid("p1"), None, at(5)).unwrap();
        let mut asked = Asked::new("GET a/");
        asked.headers.insert(name, value);
        assert_eq!(session.pin(&asked.request().head, at(9)).unwrap().endpoint, uid("p1"));
    }

    #[test]
    fn what_no_header_can_say_is_refused() {
        let by = |name: &str, path: &str| SessionBy::Cookie { name: name.into(), permanent: false, path: path.into() };
        for by in [by("a b", "/"), by("a", "/;x"), SessionBy::Header { name: "".into() }] {
            assert!(Session::new(&SessionPersistence { by, absolute_timeout: None }).is_err());
        }
    }

    proptest! {
        #[test]
        fn arbitrary_cookies_never_panic(value in "[!-~]{0,30}", plain in "[0-9]{0,3} ?[a-z/]{0,9}") {
            let session = cookie(true, Some(1));
            for value in [value, URL_SAFE_NO_PAD.encode(plain)] {
                let mut asked = Asked::new("GET a/");
                asked.headers.insert("cookie", format!("weft={value}").parse().unwrap());
                let pin = session.pin(&asked.request().head, at(7));
                session.header(&uid("p"), pin.as_ref(), at(7));
            }
        }
    }
}

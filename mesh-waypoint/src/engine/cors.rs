//! Requests from pages of other origins: the question before (preflight), and what the browser has to read in the reply.

use std::sync::Arc;

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use mesh_core::l7::route;
use mesh_net::header_list::HeaderList;

use super::head::{Fields, Head};
use super::pattern::{BadRegex, Pattern};
use super::respond::{Reply, Why};

#[derive(Clone, Debug)]
pub struct Cors {
    origins: Vec<Pattern>,
    methods: Option<Listed>,
    headers: Option<Listed>,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    credentials: bool,
    forward_unmatched: bool,
}

#[derive(Clone, Debug)]
enum Listed {
    /// `*`: what was asked for.
    Echo,
    These(HeaderValue),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCors {
    #[error(transparent)]
    Origin(#[from] BadRegex),
    #[error("{0:?} cannot stand in a header")]
    Text(String),
}

/// What CORS has to say about a request.
#[derive(Debug)]
pub enum Verdict<'a> {
    /// Nothing: there is no Origin, or it is not allowed.
    Silent,
    /// The reply gets headers, whoever gives it.
    Granted(Grant<'a>),
    /// Answered here.
    Preflight(Reply),
}

/// For the reply to an allowed origin.
#[derive(Clone, Debug)]
pub struct Grant<'a> {
    cors: &'a Cors,
    origin: HeaderValue,
}

impl Cors {
    pub fn new(cors: &route::Cors) -> Result<Self, BadCors> {
        Ok(Self {
            origins: cors.origins.iter().map(Pattern::new).collect::<Result<_, _>>()?,
            methods: Listed::new(&cors.methods)?,
            headers: Listed::new(&cors.headers)?,
            expose: joined(&cors.expose)?,
            max_age: cors.max_age.map(|age| HeaderValue::from(age.as_secs())),
            credentials: cors.credentials,
            forward_unmatched: cors.forward_unmatched,
        })
    }

    pub fn verdict<F: Fields + ?Sized>(&self, head: &Head<'_, F>) -> Verdict<'_> {
        let value = |name| head.headers.first(name).filter(|value| !value.is_empty());
        let Some(origin) = value(&header::ORIGIN) else { return Verdict::Silent };
        let asked = value(&header::ACCESS_CONTROL_REQUEST_METHOD).filter(|_| head.method == Method::OPTIONS.as_str());
        let granted = HeaderValue::from_bytes(origin).ok().filter(|_| self.origins.iter().any(|own| own.holds(origin)));
        match (granted, asked) {
            (Some(origin), None) => Verdict::Granted(Grant { cors: self, origin }),
            (Some(origin), Some(method)) => {
                let mut reply = Reply::text(StatusCode::OK, "", Why::Preflight);
                let put = |name: HeaderName, value: Option<HeaderValue>| {
                    if let Some(value) = value {
                        reply.headers.insert(name, value);
                    }
                };
                self.preflight(origin, method, value(&header::ACCESS_CONTROL_REQUEST_HEADERS), put);
                Verdict::Preflight(reply)
            }
            (None, Some(_)) if !self.forward_unmatched => {
                Verdict::Preflight(Reply::text(StatusCode::OK, "", Why::Preflight))
            }
            (None, _) => Verdict::Silent,
        }
    }

    /// The whole list, whichever method is asked for: the browser compares.
    fn preflight(
        &self,
        origin: HeaderValue,
        method: &[u8],
        headers: Option<&[u8]>,
        mut put: impl FnMut(HeaderName, Option<HeaderValue>),
    ) {
        put(header::ACCESS_CONTROL_ALLOW_ORIGIN, Some(origin));
        put(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, self.credentials.then_some(TRUE));
        let listed = |list: &Option<Listed>, asked| list.as_ref().and_then(|list| list.value(asked));
        put(header::ACCESS_CONTROL_ALLOW_METHODS, listed(&self.methods, Some(method)));
        put(header::ACCESS_CONTROL_ALLOW_HEADERS, listed(&self.headers, headers));
        put(header::ACCESS_CONTROL_EXPOSE_HEADERS, self.expose.clone());
        put(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
    }
}

impl Grant<'_> {
    /// In place of what the backend says itself.
    pub fn apply(&self, headers: &mut HeaderList) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, self.origin.clone());
        if self.cors.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        if let Some(expose) = &self.cors.expose {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}

impl Listed {
    fn new(list: &[Arc<str>]) -> Result<Option<Self>, BadCors> {
        if let [only] = list
            && **only == *"*"
        {
            return Ok(Some(Self::Echo));
        }
        Ok(joined(list)?.map(Self::These))
    }

    fn value(&self, asked: Option<&[u8]>) -> Option<HeaderValue> {
        match self {
            Self::Echo => HeaderValue::from_bytes(asked?).ok(),
            Self::These(list) => Some(list.clone()),
        }
    }
}

/// `None` when there are none.
fn joined(list: &[Arc<str>]) -> Result<Option<HeaderValue>, BadCors> {
    if list.is_empty() {
        return Ok(None);
    }
    let text = list.join(",");
    HeaderValue::try_from(&text).map(Some).map_err(|_| BadCors::Text(text))
}

const TRUE: HeaderValue = HeaderValue::from_static("true");

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use expect_test::{Expect, expect};
    use mesh_core::l7::text::TextMatch;
    use proptest::prelude::*;

    use super::*;
    use crate::engine::respond::shown;
    use crate::engine::sample::{Asked, lines};

    fn policy() -> route::Cors {
        route::Cors {
            origins: vec![TextMatch::Exact("http://ok.example".into())],
            methods: vec!["GET".into(), "POST".into()],
            headers: vec!["x-a".into(), "x-b".into()],
            expose: vec!["x-c".into()],
            max_age: Some(Duration::from_secs(90)),
            credentials: true,
            forward_unmatched: true,
        }
    }

    fn check(cors: route::Cors, request: &str, expected: Expect) {
        let cors = Cors::new(&cors).unwrap();
        let asked = Asked::new(request);
        expected.assert_eq(&match cors.verdict(&asked.request().head) {
            Verdict::Silent => "silent".to_owned(),
            Verdict::Preflight(reply) => shown(&reply),
            Verdict::Granted(grant) => {
                let mut headers = HeaderList::new();
                headers.insert("access-control-allow-origin", HeaderValue::from_static("backend"));
                grant.apply(&mut headers);
                format!("granted\n{}", lines(&headers))
            }
        });
    }

    const ASKS: &str = "OPTIONS a/ origin=http://ok.example access-control-request-method=DELETE";

    #[test]
    fn an_allowed_preflight_gets_the_whole_list() {
        check(
            policy(),
            ASKS,
            expect![[r#"
                200
                access-control-allow-origin: http://ok.example
                access-control-allow-credentials: true
                access-control-allow-methods: GET,POST
                access-control-allow-headers: x-a,x-b
                access-control-expose-headers: x-c
                access-control-max-age: 90

            "#]],
        );
    }

    #[test]
    fn what_is_left_out_is_not_said() {
        let bare = route::Cors { methods: vec![], headers: vec![], max_age: None, credentials: false, ..policy() };
        check(
            bare,
            ASKS,
            expect![[r#"
                200
                access-control-allow-origin: http://ok.example
                access-control-expose-headers: x-c

            "#]],
        );
    }

    #[test]
    fn any_is_what_was_asked_for() {
        let any = route::Cors {
            origins: vec![TextMatch::Present],
            methods: vec!["*".into()],
            headers: vec!["*".into()],
            ..policy()
        };
        check(
            any.clone(),
            &format!("{ASKS} access-control-request-headers=x-z"),
            expect![[r#"
                200
                access-control-allow-origin: http://ok.example
                access-control-allow-credentials: true
                access-control-allow-methods: DELETE
                access-control-allow-headers: x-z
                access-control-expose-headers: x-c
                access-control-max-age: 90

            "#]],
        );
        check(
            any,
            "GET a/ origin=http://other",
            expect![[r#"
            granted
            access-control-allow-origin: http://other
            access-control-allow-credentials: true
            access-control-expose-headers: x-c
        "#]],
        );
    }

    #[test]
    fn an_unknown_origins_preflight_goes_on_or_is_answered_with_nothing() {
        let ignore = route::Cors { forward_unmatched: false, ..policy() };
        let asks = "OPTIONS a/ origin=http://bad.example access-control-request-method=GET";
        check(policy(), asks, expect!["silent"]);
        check(ignore.clone(), asks, expect!["200\n\n"]);
        check(ignore, "GET a/ origin=http://bad.example", expect!["silent"]);
    }

    #[test]
    fn options_that_ask_for_no_method_go_to_the_backend() {
        check(
            policy(),
            "OPTIONS a/ origin=http://ok.example",
            expect![[r#"
            granted
            access-control-allow-origin: http://ok.example
            access-control-allow-credentials: true
            access-control-expose-headers: x-c
        "#]],
        );
        check(policy(), "OPTIONS a/ access-control-request-method=GET", expect!["silent"]);
        check(policy(), "GET a/ origin=", expect!["silent"]);
    }

    #[test]
    fn what_no_header_can_say_is_refused() {
        assert!(Cors::new(&route::Cors { methods: vec!["a\nb".into()], ..policy() }).is_err());
        assert!(Cors::new(&route::Cors { origins: vec![TextMatch::Regex("(".into())], ..policy() }).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_origins_never_panic(origin in "[!-ü]{0,20}", method in "GET|OPTIONS") {
            let mut asked = Asked::new(&format!("{method} a/ access-control-request-method=x"));
            asked.headers.insert("origin", HeaderValue::from_bytes(origin.replace('\u{7f}', "").as_bytes()).unwrap());
            let any = route::Cors { origins: vec![TextMatch::Present], ..policy() };
            Cors::new(&any).unwrap().verdict(&asked.request().head);
        }
    }
}

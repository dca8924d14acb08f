use std::fmt::Write;

use expect_test::{Expect, expect};
use mesh_core::l7::route::{
    Abort, AbortWith, Action, Cors, Delay, GrpcStatus, HeaderOps, Mirror, PathRewrite, Redirect, RedirectPort, Respond,
    Rewrite, Share,
};
use mesh_core::l7::text::TextMatch;
use mesh_net::header_list::HeaderList;
use proptest::prelude::*;

use super::*;
use crate::engine::respond::shown;
use crate::engine::sample::{self, Asked, backend, entry, forward, lines, service};

fn one(matches: &str, rule: route::Rule) -> HttpRoutes {
    HttpRoutes { entries: vec![entry(matches, 0)], rules: vec![rule] }
}

fn to(backends: &[(u32, &str)]) -> route::Rule {
    sample::rule("VirtualService/default/v#0", Action::Forward(forward(backends)))
}

fn rewriting(rewrite: Rewrite) -> route::Rule {
    let forward = route::Forward { rewrite, ..forward(&[(1, "reviews")]) };
    sample::rule("VirtualService/default/v#0", Action::Forward(forward))
}

fn set(name: &str, value: &str) -> HeaderOps {
    HeaderOps { set: vec![(name.into(), value.into())], ..HeaderOps::default() }
}

/// What becomes of a request, with the numbers that are drawn for it; none left: 0.
fn decided(routes: &HttpRoutes, request: &str, drawn: &[u64]) -> String {
    let compiled = CompiledRoutes::new(routes).unwrap();
    let asked = Asked::new(request);
    let mut drawn = drawn.iter().copied();
    let decision = compiled.decide(&asked.request(), || drawn.next().unwrap_or(0));
    let mut out = String::new();
    if let Some(delay) = decision.delay {
        writeln!(out, "after {delay:?}").unwrap();
    }
    match decision.then {
        Then::Reply(reply) => write!(out, "{} {}", reply.why.reason(), shown(&reply)).unwrap(),
        Then::Forward(forward) => {
            let subset = forward.subset.map(|subset| format!(" {subset}")).unwrap_or_default();
            writeln!(out, "{}:{}{subset}", forward.service.hostname, forward.port).unwrap();
            let mut headers = asked.headers.clone();
            forward.edits.apply(&mut headers);
            let target = forward.target.as_deref().map(|target| format!("target {target}\n"));
            let host = forward.authority.as_ref().map(|host| format!("host {}\n", host.to_str().unwrap()));
            let mirrors = forward.mirrors.iter().map(|to| format!("copy {to:?}\n")).collect::<String>();
            write!(out, "{}{}{}{mirrors}", target.unwrap_or_default(), host.unwrap_or_default(), lines(&headers))
                .unwrap();
        }
    }
    out
}

fn check(routes: &HttpRoutes, request: &str, drawn: &[u64], expected: Expect) {
    expected.assert_eq(&decided(routes, request, drawn));
}

#[test]
fn with_rules_of_which_none_holds_it_is_404_with_nothing() {
    let routes = one("prefix:/api", to(&[(1, "reviews")]));
    check(&routes, "GET a/other", &[], expect!["no_route 404\n\n"]);
    check(
        &routes,
        "GET a/other content-type=application/grpc+proto",
        &[],
        expect![[r#"
        no_route 200
        content-type: application/grpc
        grpc-status: 12

    "#]],
    );
    check(
        &routes,
        "GET a/api",
        &[],
        expect![[r#"
        reviews:80
    "#]],
    );
    check(&HttpRoutes::default(), "GET a/", &[], expect!["no_route 404\n\n"]);
}

#[test]
fn without_rules_it_goes_to_the_service_with_the_default_retries() {
    let BackendRef::Service { service, port, .. } = service("reviews") else { panic!() };
    let routes = CompiledRoutes::to_service(service, port).unwrap();
    let asked = Asked::new("GET a/");
    let Then::Forward(forward) = routes.decide(&asked.request(), || panic!("nothing is left to chance")).then else {
        panic!()
    };
    assert_eq!((&*forward.service.hostname, forward.rule.retries.attempts), ("reviews", 2));
    assert!(forward.rule.timeout.is_none() && forward.target.is_none());
    let asked = Asked::new("OPTIONS a").with_path("*");
    let decision = routes.decide(&asked.request(), || 0);
    assert!(matches!(decision.then, Then::Reply(reply) if reply.status == 404));
}

#[test]
fn backends_are_drawn_by_weight() {
    let routes = one("", to(&[(1, "v1"), (3, "v2")]));
    let drawn = |number| decided(&routes, "GET a/", &[number]);
    assert_eq!([0, 1, 2, 3, 4].map(drawn).concat(), "v1:80\nv2:80\nv2:80\nv2:80\nv1:80\n");
}

#[test]
fn what_is_missing_answers_for_its_share() {
    let mut rule = to(&[(1, "v1")]);
    let Action::Forward(forward) = &mut rule.action else { panic!() };
    let missing = BackendRef::Missing { status: 503, why: "no subset v3".into() };
    forward.backends.push(route::Backend { to: missing, response_headers: set("x", "1"), ..backend(1, "") });
    let routes = one("", rule);
    check(
        &routes,
        "GET a/",
        &[0],
        expect![[r#"
        v1:80
    "#]],
    );
    check(
        &routes,
        "GET a/",
        &[1],
        expect![[r#"
        no_backend 503
        x: 1

    "#]],
    );
    let nobody = |otherwise| {
        let forward = route::Forward { otherwise, ..sample::forward(&[(0, "v1"), (0, "v2")]) };
        one("", sample::rule("HTTPRoute/default/r#0", Action::Forward(forward)))
    };
    check(&nobody(500), "GET a/", &[], expect!["no_backend 500\n\n"]);
    check(&nobody(404), "GET a/", &[], expect!["no_backend 404\n\n"]);
}

#[test]
fn a_rewrite_tells_the_backend_what_was_asked_for() {
    let rewrite = Rewrite { path: Some(PathRewrite::Prefix("/".into())), authority: Some("inner".into()) };
    check(
        &one("prefix:/v1", rewriting(rewrite)),
        "GET a:80/v1/x?q=/v1",
        &[],
        expect![[r#"
        reviews:80
        target //x?q=/v1
        host inner
        x-envoy-original-path: /v1/x?q=/v1
        x-envoy-original-host: a:80
    "#]],
    );
}

#[test]
fn a_destinations_rewrite_stands_in_for_the_rules() {
    let mut rule = rewriting(Rewrite { path: Some(PathRewrite::Full("/rule".into())), authority: None });
    let Action::Forward(forward) = &mut rule.action else { panic!() };
    let own = Rewrite { path: Some(PathRewrite::Full("/own".into())), authority: None };
    forward.backends.push(route::Backend { rewrite: Some(own), ..backend(1, "v2") });
    let routes = one("", rule);
    assert!(decided(&routes, "GET a/", &[0]).contains("target /rule\n"));
    assert!(decided(&routes, "GET a/", &[1]).contains("target /own\n"));
}

#[test]
fn a_host_header_that_is_set_is_a_rewrite_and_the_rules_wins() {
    let mut rule = to(&[(1, "reviews")]);
    let Action::Forward(forward) = &mut rule.action else { panic!() };
    forward.backends[0].request_headers = set("host", "destination");
    check(
        &one("", rule.clone()),
        "GET a/",
        &[],
        expect![[r#"
        reviews:80
        host destination
        x-envoy-original-host: a
    "#]],
    );
    rule.request_headers = set("host", "rule");
    check(
        &one("", rule),
        "GET a/",
        &[],
        expect![[r#"
        reviews:80
        host rule
        x-envoy-original-host: a
    "#]],
    );
}

#[test]
fn redirects_and_direct_responses_have_the_rules_headers() {
    let redirect = Redirect {
        status: 302,
        scheme: None,
        authority: None,
        port: RedirectPort::Keep,
        path: Some(PathRewrite::Full("/new".into())),
    };
    let rule = sample::rule("v#0", Action::Redirect(redirect));
    let rule = route::Rule { response_headers: set("x", "%RESPONSE_CODE%-%REQ(:path)%"), ..rule };
    check(
        &one("", rule),
        "GET a:8080/old?q",
        &[],
        expect![[r#"
        redirect 302
        location: http://a:8080/new?q
        x: 302-/old?q

    "#]],
    );
    let direct = |status, body: &str| {
        let rule = sample::rule("v#0", Action::Respond(Respond { status, body: body.into() }));
        one("", route::Rule { response_headers: set("x", "1"), ..rule })
    };
    check(
        &direct(503, "down"),
        "GET a/",
        &[],
        expect![[r#"
        direct_response 503
        content-type: text/plain
        x: 1

        down"#]],
    );
    check(
        &direct(204, ""),
        "GET a/",
        &[],
        expect![[r#"
        direct_response 204
        x: 1

    "#]],
    );
}

#[test]
fn the_delay_comes_before_the_abort_which_has_the_rules_headers() {
    let mut rule = route::Rule { response_headers: set("x", "1"), ..to(&[(1, "reviews")]) };
    rule.fault.delay = Some(Delay { share: Share::percent(50.0), time: Duration::from_millis(700) });
    rule.fault.abort = Some(Abort { share: Share::percent(50.0), with: AbortWith::Grpc(GrpcStatus::UNAVAILABLE) });
    rule.mirrors.push(Mirror { to: service("copy"), share: Share::ALL });
    rule.cors = Some(cors(true));
    let routes = one("", rule);
    check(
        &routes,
        "GET a/ content-type=application/grpc origin=http://ok",
        &[0, 0],
        expect![[r#"
        after 700ms
        fault 200
        content-type: application/grpc
        grpc-status: 14
        grpc-message: fault filter abort
        x: 1

    "#]],
    );
    check(
        &routes,
        "GET a/",
        &[999_999, 1],
        expect![[r#"
        fault 200
        content-type: text/plain
        x: 1

        fault filter abort"#]],
    );
    check(
        &routes,
        "GET a/",
        &[1, 999_999],
        expect![[r#"
        after 700ms
        reviews:80
        copy Service { service: ServiceKey { namespace: "default", hostname: "copy" }, port: 80, subset: None }
    "#]],
    );
}

fn cors(forward_unmatched: bool) -> Cors {
    Cors {
        origins: vec![TextMatch::Exact("http://ok".into())],
        methods: vec!["GET".into()],
        headers: vec![],
        expose: vec![],
        max_age: None,
        credentials: false,
        forward_unmatched,
    }
}

#[test]
fn preflights_are_answered_before_anything_else_is_done() {
    let mut rule = route::Rule { cors: Some(cors(true)), ..to(&[(1, "reviews")]) };
    rule.fault.abort = Some(Abort { share: Share::ALL, with: AbortWith::Http(500) });
    let ask = |origin| format!("OPTIONS a/ origin={origin} access-control-request-method=PUT");
    check(
        &one("", rule.clone()),
        &ask("http://ok"),
        &[],
        expect![[r#"
        preflight 200
        access-control-allow-origin: http://ok
        access-control-allow-methods: GET

    "#]],
    );
    assert!(decided(&one("", rule.clone()), &ask("http://bad"), &[]).starts_with("fault 500"));
    rule.cors = Some(cors(false));
    check(&one("", rule), &ask("http://bad"), &[], expect!["preflight 200\n\n"]);
}

#[test]
fn each_mirror_that_is_there_is_drawn_on_its_own() {
    let mirror = |name, share| Mirror { to: service(name), share };
    let mut rule = to(&[(1, "reviews")]);
    let missing = Mirror { to: BackendRef::Missing { status: 503, why: "gone".into() }, share: Share::ALL };
    rule.mirrors =
        vec![mirror("half", Share::percent(50.0)), mirror("all", Share::ALL), missing, mirror("no", Share(0))];
    let copies = |drawn: &[u64]| decided(&one("", rule.clone()), "GET a/", drawn).matches("copy").count();
    assert_eq!([copies(&[0, 0]), copies(&[500_000, 0])], [2, 1]);
}

#[test]
fn replies_get_the_rules_and_the_destinations_headers_and_cors() {
    let mut rule = route::Rule { cors: Some(cors(true)), ..to(&[(1, "reviews")]) };
    rule.response_headers = set("x", "%REQ(x-id)% %RESP(x-old)% %RESPONSE_CODE%");
    let Action::Forward(forward) = &mut rule.action else { panic!() };
    forward.backends[0].response_headers = set("y", "destination");
    let compiled = CompiledRoutes::new(&one("", rule)).unwrap();
    let then = |request: &str| {
        let asked = Asked::new(request);
        compiled.decide(&asked.request(), || 0).then
    };
    let Then::Forward(forward) = then("GET a/ origin=http://ok x-id=7") else { panic!() };
    let mut headers = HeaderList::new();
    headers.insert("access-control-allow-origin", HeaderValue::from_static("backend"));
    headers.insert("x-old", HeaderValue::from_static("old"));
    forward.reply_headers(201, &mut headers);
    expect![[r#"
        access-control-allow-origin: http://ok
        x-old: old
        x: 7 old 201
        y: destination
    "#]]
    .assert_eq(&lines(&headers));
    expect![[r#"
        504
        content-type: text/plain
        x: 7  504
        y: destination
        access-control-allow-origin: http://ok

        upstream request timeout"#]]
    .assert_eq(&shown(&forward.answer(respond::timeout())));
    let Then::Forward(forward) = then("GET a/ content-type=application/grpc") else { panic!() };
    expect![[r#"
        200
        content-type: application/grpc
        grpc-status: 14
        grpc-message: no healthy upstream
        x:   200
        y: destination

    "#]]
    .assert_eq(&shown(&forward.answer(respond::no_healthy_upstream())));
}

#[test]
fn what_cannot_be_compiled_is_named_with_its_rule() {
    let error = |rule: route::Rule| CompiledRoutes::new(&one("", rule)).unwrap_err().to_string();
    let plain = || to(&[(1, "reviews")]);
    let check = |rule, expected: Expect| expected.assert_eq(&error(rule));
    check(
        route::Rule { request_headers: set("x", "%NO%"), ..plain() },
        expect!["rule VirtualService/default/v#0: header x: %NO% is not known"],
    );
    check(
        sample::rule("v#1", Action::Respond(Respond { status: 100, body: vec![] })),
        expect!["rule v#1: 100 is no status"],
    );
    let mut rule = plain();
    rule.retries.on.headers.insert("a b".into());
    check(rule, expect![[r#"rule VirtualService/default/v#0: retries: no header is called "a b""#]]);
    let routes = HttpRoutes { entries: vec![entry("", 3)], rules: vec![plain()] };
    expect!["entry 0 leads to rule 3, of 1"].assert_eq(&CompiledRoutes::new(&routes).unwrap_err().to_string());
}

proptest! {
    #[test]
    fn arbitrary_requests_never_panic(
        kind in "i?(exact|prefix|elements|regex)",
        value in "[/a.]{0,4}",
        rewrite in "[/a?]{0,4}",
        path: String,
        query: Option<String>,
        drawn: u64,
    ) {
        for path_rewrite in [PathRewrite::Prefix(rewrite.as_str().into()), PathRewrite::Elements(rewrite.as_str().into())] {
            let mut rule = rewriting(Rewrite { path: Some(path_rewrite), authority: None });
            rule.response_headers = set("x", "%REQ(:path):3%");
            let routes = CompiledRoutes::new(&one(&format!("{kind}:{value}"), rule)).unwrap();
            let asked = Asked::new("GET a").with_path(&path);
            let request = asked.request();
            let head = crate::engine::head::Head { query: query.as_deref(), ..request.head };
            if let Then::Forward(forward) = routes.decide(&Request { head, ..request }, || drawn).then {
                forward.answer(respond::overflow());
            }
        }
    }
}

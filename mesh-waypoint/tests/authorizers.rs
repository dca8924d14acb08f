//! Authorizers of CUSTOM policies: what they are told of a request, and what comes of what they say or do not say.

#[path = "support/bench.rs"]
#[allow(dead_code)]
mod bench;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bench::{Bench, Body, Server, key, nobody, text};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use mesh_core::l7::authorization::{Action, ExternalAuthorizer, ExternalProtocol, Policy, Rule};
use mesh_core::l7::text::TextMatch;
use mesh_waypoint::keys::Keys;
use mesh_waypoint::wire::envoy::config::core::v3::{HeaderValue as Line, HeaderValueOption, address};
use mesh_waypoint::wire::envoy::service::auth::v3::check_response::HttpResponse;
use mesh_waypoint::wire::envoy::service::auth::v3::{CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse};
use mesh_waypoint::wire::envoy::r#type::v3::HttpStatus;
use mesh_waypoint::wire::google::rpc::Status;
use prost::Message;

fn authorizer(protocol: ExternalProtocol) -> ExternalAuthorizer {
    ExternalAuthorizer {
        provider: "guard".into(),
        protocol,
        service: key("guard"),
        port: 80,
        timeout: Duration::from_secs(5),
        fail_open: false,
        status_on_error: 403,
        path_prefix: "".into(),
        include_request_headers: Vec::new(),
        include_additional_headers: Vec::new(),
        max_body_bytes: 0,
        allow_partial_body: false,
        headers_to_upstream: Vec::new(),
        headers_to_downstream_on_deny: Vec::new(),
        headers_to_downstream_on_allow: Vec::new(),
    }
}

fn exact(names: &[&str]) -> Vec<TextMatch> {
    names.iter().map(|name| TextMatch::Exact((*name).into())).collect()
}

fn policy(name: &str, action: Action, rules: &str) -> Policy {
    let rules = serde_json::from_str(rules).unwrap();
    Policy { name: name.into(), action, dry_run: false, rules, ports: Vec::new() }
}

/// Asks about every request.
async fn bench(at: SocketAddr, authorizer: ExternalAuthorizer) -> Bench {
    let asks = Policy { rules: vec![Rule::default()], ..policy("shop/ask", Action::Custom(authorizer), "[]") };
    Bench::new(&[("guard", at)], Keys::default(), |model| model.policies = vec![asks]).await
}

fn get(path: &str) -> Request<&'static str> {
    Request::get(path).body("").unwrap()
}

fn lines<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn an_http_authorizer_sees_the_head_and_lets_the_request_pass() {
    let guard = Server::start(|_| {
        let mut response = text(200, "its body is nobody's");
        let headers = response.headers_mut();
        for (name, value) in [
            ("x-user", "ann"),
            ("x-other", "kept back"),
            ("x-note", "1"),
            ("x-note", "2"),
            ("x-envoy-auth-headers-to-remove", "x-secret, Host"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        response
    })
    .await;
    let bench = bench(
        guard.address,
        ExternalAuthorizer {
            path_prefix: "/check".into(),
            include_request_headers: vec![TextMatch::Prefix("X-Team".into())],
            include_additional_headers: vec![("x-from".into(), "gate".into())],
            headers_to_upstream: exact(&["X-User", "content-length"]),
            headers_to_downstream_on_allow: exact(&["x-note"]),
            ..authorizer(ExternalProtocol::Http)
        },
    )
    .await;
    let request = Request::put("/a/./b?c=d").header("host", "web.example").header("authorization", "Basic x");
    let request = request.header("x-team", "blue").header("x-secret", "s").header("x-user", "forged");
    let response = bench.ask(request.body("hello").unwrap()).await;
    assert_eq!((response.status().as_u16(), response.body().as_str()), (200, "ok"));
    assert_eq!(lines(response.headers(), "x-note"), ["1", "2"]);
    assert!(response.headers().get("x-user").is_none());

    let asked = &guard.seen()[0];
    assert_eq!((asked.method().as_str(), asked.uri().to_string()), ("PUT", "/check/a/b?c=d".to_owned()));
    let mut told: Vec<_> =
        asked.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    told.sort();
    assert_eq!(
        told,
        ["authorization: Basic x", "content-length: 0", "host: web.example", "x-from: gate", "x-team: blue"]
    );
    assert!(asked.body().is_empty());

    let passed = &bench.backend.seen()[0];
    assert_eq!(lines(passed.headers(), "x-user"), ["ann"]);
    assert_eq!(lines(passed.headers(), "host"), ["web.example"]);
    assert!(passed.headers().get("x-secret").is_none() && passed.headers().get("x-other").is_none());
    assert_eq!(passed.body(), "hello");
}

#[tokio::test]
async fn an_http_authorizers_refusal_is_the_answer() {
    let guard = Server::start(|_| {
        let mut response = text(401, "who are you?");
        for (name, value) in [
            ("content-type", "text/html"),
            ("www-authenticate", "Basic"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("x-why", "stranger"),
        ] {
            response.headers_mut().append(name, value.parse().unwrap());
        }
        response
    })
    .await;
    // Without a list, all of it.
    let all = bench(guard.address, authorizer(ExternalProtocol::Http)).await;
    let response = all.ask(get("/")).await;
    assert_eq!((response.status().as_u16(), response.body().as_str()), (401, "who are you?"));
    assert_eq!(lines(response.headers(), "content-type"), ["text/html"]);
    assert_eq!(lines(response.headers(), "set-cookie"), ["a=1", "b=2"]);
    assert_eq!(lines(response.headers(), "x-why"), ["stranger"]);
    assert_eq!(all.backend.count(), 0);

    let headers_to_downstream_on_deny = exact(&["x-why"]);
    let some = ExternalAuthorizer { headers_to_downstream_on_deny, ..authorizer(ExternalProtocol::Http) };
    let response = bench(guard.address, some).await.ask(get("/")).await;
    assert_eq!(lines(response.headers(), "x-why"), ["stranger"]);
    assert_eq!(lines(response.headers(), "www-authenticate"), ["Basic"]);
    assert_eq!(lines(response.headers(), "content-type"), ["text/plain"]);
    assert!(response.headers().get("set-cookie").is_none());

    let grpc = Request::post("/").header("content-type", "application/grpc").body("").unwrap();
    let response = all.ask(grpc).await;
    assert_eq!((response.status().as_u16(), lines(response.headers(), "grpc-status")), (200, vec!["16"]));
}

#[tokio::test]
async fn an_authorizer_that_cannot_be_asked_lets_nothing_pass_unless_it_is_told_to() {
    let broken = Server::start(|_| text(503, "busy")).await;
    let not_grpc = Server::start(|_| text(200, "hello")).await;
    let fails = Server::start(|_| grpc(None, "14")).await;
    let (gone, silent) = (nobody().await, Server::silent().await);
    let (http, grpc) = (ExternalProtocol::Http, ExternalProtocol::Grpc);
    for (protocol, at) in [
        (http, broken.address),
        (http, gone),
        (http, silent),
        (grpc, broken.address),
        (grpc, not_grpc.address),
        (grpc, fails.address),
        (grpc, gone),
        (grpc, silent),
    ] {
        let timeout = Duration::from_millis(if at == silent { 300 } else { 5000 });
        let closed = ExternalAuthorizer { timeout, status_on_error: 418, ..authorizer(protocol) };
        let open = ExternalAuthorizer { fail_open: true, ..closed.clone() };
        let began = Instant::now();
        let bench = self::bench(at, closed).await;
        assert_eq!(bench.ask(get("/")).await.status(), 418, "{protocol:?} {at}");
        assert_eq!(bench.backend.count(), 0);
        assert_eq!(self::bench(at, open).await.ask(get("/")).await.status(), 200, "{protocol:?} {at}");
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    // It is not in the mesh at all.
    let unknown = ExternalAuthorizer { service: key("nowhere"), ..authorizer(http) };
    assert_eq!(bench(gone, unknown).await.ask(get("/")).await.status(), 403);
}

#[tokio::test]
async fn a_body_is_shown_as_far_as_it_is_to_be_and_goes_on_whole() {
    let guard = Server::start(|_| text(200, "")).await;
    let with = |max_body_bytes, allow_partial_body| ExternalAuthorizer {
        max_body_bytes,
        allow_partial_body,
        ..authorizer(ExternalProtocol::Http)
    };
    let long: &'static str = Box::leak("0123456789".repeat(20_000).into_boxed_str());
    // Longer than what is kept for retries.
    for (most, partial, body, shown, told) in [
        (10, false, "hello", Some("hello"), Some("false")),
        (5, false, "hello", Some("hello"), Some("false")),
        (5, true, "hello", Some("hello"), Some("false")),
        (4, true, "hello", Some("hell"), Some("true")),
        (4, false, "hello", None, None),
        (300_000, false, long, Some(long), Some("false")),
        (100_000, true, long, Some(&long[..100_000]), Some("true")),
        (100, true, long, Some(&long[..100]), Some("true")),
        (100_000, false, long, None, None),
        (10, true, "", Some(""), None),
    ] {
        let bench = bench(guard.address, with(most, partial)).await;
        let response = bench.ask(Request::post("/").body(body).unwrap()).await;
        let case = format!("{most} {partial} {}", body.len());
        match shown {
            None => assert_eq!((response.status().as_u16(), bench.backend.count()), (413, 0), "{case}"),
            Some(shown) => {
                assert_eq!(response.status(), 200, "{case}");
                let asked = guard.seen().pop().unwrap();
                assert!(asked.body() == shown, "{case}: {} bytes", asked.body().len());
                let partial = asked.headers().get("x-envoy-auth-partial-body").map(|value| value.to_str().unwrap());
                assert_eq!(partial, told, "{case}");
                assert!(bench.backend.seen()[0].body() == body, "{case}");
            }
        }
    }
}

/// An answer in gRPC's way.
fn grpc(message: Option<&CheckResponse>, status: &'static str) -> Response<Body> {
    let mut frame = BytesMut::new();
    if let Some(message) = message {
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
        message.encode(&mut frame).unwrap();
    }
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(status))]);
    let body = Full::new(frame.freeze()).with_trailers(async move { Some(Ok(trailers)) });
    Response::builder().header("content-type", "application/grpc").body(body.boxed_unsync()).unwrap()
}

fn line(key: &str, value: &str, append: Option<bool>) -> HeaderValueOption {
    let header = Some(Line { key: key.into(), value: value.into(), ..Line::default() });
    HeaderValueOption { header, append, append_action: 0 }
}

fn check(frame: &Bytes) -> CheckRequest {
    assert_eq!(
        (frame[0], usize::try_from(u32::from_be_bytes(frame[1..5].try_into().unwrap())).unwrap()),
        (0, frame.len() - 5)
    );
    CheckRequest::decode(&frame[5..]).unwrap()
}

#[tokio::test]
async fn a_grpc_authorizer_is_told_of_the_request_and_lets_it_pass() {
    let guard = Server::start(|_| {
        let ok = OkHttpResponse {
            headers: vec![
                line("x-user", "ann", None),
                line("x-team", "red", Some(true)),
                line("content-length", "1", None),
            ],
            headers_to_remove: vec!["authorization".into(), ":path".into(), "host".into()],
            response_headers_to_add: vec![line("x-note", "1", None), line("server", "me", Some(false))],
        };
        grpc(Some(&CheckResponse { status: None, http_response: Some(HttpResponse::OkResponse(ok)) }), "0")
    })
    .await;
    let bench =
        bench(guard.address, ExternalAuthorizer { max_body_bytes: 100, ..authorizer(ExternalProtocol::Grpc) }).await;
    let request = Request::post("/a?b=c").header("host", "web.example").header("authorization", "Basic x");
    let request = request.header("x-team", "blue").header("x-request-id", "7").header("x-team", "green");
    let response = bench.ask(request.body("hello").unwrap()).await;
    assert_eq!((response.status().as_u16(), response.body().as_str()), (200, "ok"));
    assert_eq!(lines(response.headers(), "x-note"), ["1"]);
    assert_eq!(lines(response.headers(), "server"), ["istio-envoy"]);

    let asked = &guard.seen()[0];
    assert_eq!(asked.uri().path(), "/envoy.service.auth.v3.Authorization/Check");
    assert_eq!(lines(asked.headers(), "content-type"), ["application/grpc"]);
    let attributes = check(asked.body()).attributes.unwrap();
    let peer = |peer: Option<mesh_waypoint::wire::envoy::service::auth::v3::attribute_context::Peer>| {
        let peer = peer.unwrap();
        let Some(address::Address::SocketAddress(at)) = peer.address.unwrap().address else { panic!("no address") };
        (peer.principal, at.address, at.port_value)
    };
    let identity = |account: &str| format!("spiffe://td/ns/shop/sa/{account}");
    assert_eq!(peer(attributes.source), (identity("client"), "10.0.0.9".to_owned(), 4000));
    assert_eq!(peer(attributes.destination), (identity("gate"), "10.96.0.7".to_owned(), 80));
    let request = attributes.request.unwrap();
    assert!(request.time.is_some());
    let http = request.http.unwrap();
    assert_eq!(
        [&http.id, &http.method, &http.path, &http.host, &http.scheme, &http.query, &http.protocol, &http.body],
        ["7", "POST", "/a?b=c", "web.example", "http", "", "HTTP/1.1", "hello"]
    );
    assert_eq!(http.size, 5);
    let told: Vec<_> = http.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    assert_eq!(
        told,
        [
            ":authority: web.example",
            ":method: POST",
            ":path: /a?b=c",
            ":scheme: http",
            "authorization: Basic x",
            "content-length: 5",
            "x-envoy-auth-partial-body: false",
            "x-forwarded-proto: http",
            "x-request-id: 7",
            "x-team: blue,green",
        ]
    );

    let passed = &bench.backend.seen()[0];
    assert_eq!(lines(passed.headers(), "x-user"), ["ann"]);
    assert_eq!(lines(passed.headers(), "x-team"), ["blue", "green", "red"]);
    assert!(passed.headers().get("authorization").is_none());
    assert_eq!((lines(passed.headers(), "host"), passed.uri().to_string()), (vec!["web.example"], "/a?b=c".to_owned()));
    assert_eq!(passed.body(), "hello");
}

#[tokio::test]
async fn a_grpc_authorizers_refusal_is_the_answer() {
    let denied = |status, headers, body: &str| {
        let status = Some(HttpStatus { code: status });
        Some(HttpResponse::DeniedResponse(DeniedHttpResponse { status, headers, body: body.into() }))
    };
    let code = |code| Some(Status { code, message: "no".into() });
    let lines_of_it = vec![line("content-type", "text/html", None), line("set-cookie", "a=1", None)];
    for (status, said, expected, body) in [
        (code(7), denied(302, lines_of_it, "go away"), 302, "go away"),
        (code(7), denied(0, Vec::new(), ""), 403, ""),
        (code(16), None, 403, ""),
        // Not allowed by what is in it.
        (code(7), Some(HttpResponse::OkResponse(OkHttpResponse::default())), 403, ""),
        (None, None, 403, ""),
    ] {
        let said = CheckResponse { status, http_response: said };
        let guard = Server::start(move |_| grpc(Some(&said), "0")).await;
        let bench = bench(guard.address, authorizer(ExternalProtocol::Grpc)).await;
        let response = bench.ask(get("/")).await;
        assert_eq!((response.status().as_u16(), response.body().as_str()), (expected, body));
        if expected == 302 {
            assert_eq!(lines(response.headers(), "content-type"), ["text/html"]);
            assert_eq!(lines(response.headers(), "set-cookie"), ["a=1"]);
        }
        assert_eq!(bench.backend.count(), 0);
    }
}

#[tokio::test]
async fn each_authorizer_is_asked_once_and_only_where_its_policy_holds() {
    let guard = Server::start(|request| text(if request.uri().path() == "/bad" { 403 } else { 200 }, "")).await;
    let custom = || Action::Custom(authorizer(ExternalProtocol::Http));
    let other = ExternalAuthorizer {
        provider: "other".into(),
        path_prefix: "/other".into(),
        ..authorizer(ExternalProtocol::Http)
    };
    let paths = |list: &[&str]| {
        let paths: Vec<_> = list.iter().map(|path| serde_json::json!({ "text": { "prefix": path } })).collect();
        serde_json::json!([{ "to": [{ "paths": paths }] }]).to_string()
    };
    let policies = vec![
        policy("shop/first", custom(), &paths(&["/a", "/bad", "/no"])),
        policy("shop/second", custom(), &paths(&["/a"])),
        policy("shop/third", Action::Custom(other), &paths(&["/a"])),
        policy("shop/deny", Action::Deny, &paths(&["/no"])),
    ];
    let bench = Bench::new(&[("guard", guard.address)], Keys::default(), |model| model.policies = policies).await;
    let mut outcomes = Vec::new();
    for path in ["/free", "/a", "/bad", "/no"] {
        let before = guard.count();
        let response = bench.ask(get(path)).await;
        let asked: Vec<_> = guard.seen()[before..].iter().map(|request| request.uri().to_string()).collect();
        outcomes.push(format!("{path} {} {:?}", response.status().as_u16(), asked));
    }
    assert_eq!(
        outcomes,
        ["/free 200 []", "/a 200 [\"/a\", \"/other/a\"]", "/bad 403 [\"/bad\"]", "/no 403 [\"/no\"]",]
    );
}

//! What can be read in two ways, and what belongs to one hop alone.

use crate::ask::{Ask, ask, get, raw};
use crate::intent::Intent;

pub(crate) fn table() -> Vec<Intent> {
    let paths = [
        "/",
        "/./admin",
        "/a/../admin",
        "/%61dmin",
        "/%41dmin",
        "//admin",
        "/a//b",
        "/admin%2Fx",
        "/%2Fadmin",
        "/admin%5Cx",
        "/\\admin",
        "/a/%2e%2e/admin",
        "/a/%2E/admin",
        "/admin;x=1",
        "/admin#f",
        "/a?b/../c",
        "/a?b#c",
        "/../../admin",
        "/a%20b",
        "/%zz",
        "/%7Euser",
        "/a/./",
        "/a/..",
        "/.../a",
        "/a?b=%2F%61",
        "/%",
    ];
    let names = ["paths-base", "paths-none", "paths-merge-slashes", "paths-decode-and-merge-slashes"];
    let mut intents: Vec<Intent> = names
        .into_iter()
        .map(|name| Intent::new(name, paths.map(get).into_iter().chain([get("/a%00b").coarse()])))
        .collect();
    intents.push(Intent::new(
        "plain",
        hops().into_iter().chain(targets()).chain(framing()).chain(heads()).chain(stricter()),
    ));
    intents
}

/// Headers about one hop, and about those before.
fn hops() -> Vec<Ask> {
    let heads: [&[&str]; 16] = [
        &["connection: x-own", "x-own: 1"],
        &["connection: keep-alive, x-own", "x-own: 1", "keep-alive: timeout=5", "proxy-connection: keep-alive"],
        &["te: trailers"],
        &["te: trailers, deflate"],
        &["te: deflate"],
        &["x-forwarded-for: 1.2.3.4", "x-forwarded-proto: https", "x-forwarded-host: a"],
        &["x-forwarded-client-cert: By=spiffe://a"],
        &["forwarded: for=1.2.3.4"],
        &["traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "b3: 0"],
        &["x-request-id: mine"],
        &[
            "x-envoy-retry-on: 5xx",
            "x-envoy-internal: true",
            "x-envoy-expected-rq-timeout-ms: 5",
            "x-envoy-max-retries: 3",
        ],
        &["upgrade: h2c", "http2-settings: AAMAAABkAARAAAAAAAIAAAAA", "connection: upgrade, http2-settings"],
        &["proxy-authorization: Basic YTpi", "authorization: Basic YTpi"],
        &["user-agent: a", "accept: */*", "cookie: a=b", "cookie: c=d"],
        &["expect: 100-continue"],
        &["connection: close"],
    ];
    let statuses =
        ["/?status=204", "/?status=304", "/?status=404", "/?status=999", "/?set=date:now", "/?set=server:a&set=via:b"];
    let all = heads.map(|head| ask("GET", "/", head)).into_iter();
    let all = all.chain([ask("HEAD", "/", &[]), ask("OPTIONS", "/", &[]), ask("GET", "/", &["connection: close"])]);
    all.chain(statuses.map(get)).chain([Ask::second("GET", "/a", &[("x-a", "b"), ("te", "trailers")])]).collect()
}

/// Request lines.
fn targets() -> Vec<Ask> {
    let lines = [
        "GET http://other.example/a?b HTTP/1.1\r\nhost: web\r\n\r\n",
        "GET http://other.example HTTP/1.1\r\nhost: web\r\n\r\n",
        "GET https://other.example/a HTTP/1.1\r\nhost: web\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: web\r\n\r\n",
        "GET a HTTP/1.1\r\nhost: web\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost:\r\n\r\n",
        "GET / HTTP/2.0\r\nhost: web\r\n\r\n",
        "GET / HTTP/1.2\r\nhost: web\r\n\r\n",
        "GET /a b HTTP/1.1\r\nhost: web\r\n\r\n",
        "GET / \r\nhost: web\r\n\r\n",
        "FOO / HTTP/1.1\r\nhost: web\r\n\r\n",
        "get / HTTP/1.1\r\nhost: web\r\n\r\n",
        "PROPFIND / HTTP/1.1\r\nhost: web\r\n\r\n",
        "TRACE / HTTP/1.1\r\nhost: web\r\n\r\n",
        "CONNECT web:80 HTTP/1.1\r\nhost: web:80\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nhost: web\r\n\r\n",
        "GET / HTTP/1.1\nhost: web\n\n",
        "hello\r\n\r\n",
        "GET /\x01 HTTP/1.1\r\nhost: web\r\n\r\n",
    ];
    lines.iter().map(|line| raw(line.as_bytes()).coarse()).collect()
}

/// Where a body ends.
fn framing() -> Vec<Ask> {
    let post = |head: &str, body: &str| {
        raw(format!("POST /p HTTP/1.1\r\nhost: web\r\n{head}\r\n\r\n{body}").as_bytes()).coarse()
    };
    let chunks = "transfer-encoding: chunked";
    vec![
        post("content-length: 5", "hello"),
        post("content-length: 0", ""),
        post("content-length: 5\r\ncontent-length: 6", "hello"),
        post("content-length: 5, 5", "hello"),
        post("content-length: +5", "hello"),
        post("content-length: -5", "hello"),
        post("content-length: 0x5", "hello"),
        post("content-length: 5 ", "hello"),
        post("content-length:", ""),
        post("content-length: 99999999999999999999", ""),
        post("content-length : 5", "hello"),
        post(chunks, "5\r\nhello\r\n0\r\n\r\n"),
        post(chunks, "5;a=b\r\nhello\r\n0\r\nx-trailer: 1\r\n\r\n"),
        post(chunks, "05\r\nhello\r\n000\r\n\r\n"),
        post(chunks, "5\nhello\n0\n\n"),
        post(chunks, "0x5\r\nhello\r\n0\r\n\r\n"),
        post(chunks, "x\r\nhello\r\n0\r\n\r\n"),
        post(chunks, "5 \r\nhello\r\n0\r\n\r\n"),
        post("transfer-encoding: chunked\r\ncontent-length: 5", "0\r\n\r\n"),
        post("content-length: 5\r\ntransfer-encoding: chunked", "0\r\n\r\n"),
        post("transfer-encoding: Chunked", "0\r\n\r\n"),
        post("transfer-encoding: gzip, chunked", "0\r\n\r\n"),
        post("transfer-encoding: chunked, gzip", "0\r\n\r\n"),
        post("transfer-encoding: chunked\r\ntransfer-encoding: chunked", "0\r\n\r\n"),
        post("transfer-encoding: identity", ""),
        post("transfer-encoding: xchunked", "0\r\n\r\n"),
        post("transfer-encoding : chunked", "0\r\n\r\n"),
        post("transfer-encoding:\tchunked", "0\r\n\r\n"),
        post("transfer-encoding:\x0bchunked", "0\r\n\r\n"),
        raw(b"GET /a HTTP/1.1\r\nhost: web\r\n\r\nGET /b HTTP/1.1\r\nhost: web\r\n\r\n").responses(2),
        raw(b"POST /a HTTP/1.1\r\nhost: web\r\ncontent-length: 1\r\n\r\nxGET /b HTTP/1.1\r\nhost: web\r\n\r\n")
            .responses(2),
        raw(b"GET /a HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\n\r\nhelloGET /b HTTP/1.1\r\nhost: web\r\n\r\n")
            .responses(2),
        raw(b"POST /a HTTP/1.0\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").coarse(),
    ]
}

/// Lines of heads.
fn heads() -> Vec<Ask> {
    let lines: [&[u8]; 13] = [
        b"x-a\r\nx-b: c",
        b": empty",
        b"x a: b",
        b"x-a : b",
        b"x-a: b\x00c",
        b"x-a:\tb\t",
        b"x-a: \xff\xfe",
        b"x_under: a",
        b"x-a: \x7f",
        b"x-(a): b",
        b"x-empty:",
        b"x-long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        b"content-type: text/plain",
    ];
    let one = |line: &[u8]| raw(&[b"GET / HTTP/1.1\r\nhost: web\r\n", line, b"\r\n\r\n"].concat()).coarse();
    let large = |bytes: usize| one(format!("x-large: {}", "a".repeat(bytes)).as_bytes());
    let many = (0..101).map(|n| format!("x-{n}: {n}")).collect::<Vec<_>>().join("\r\n");
    lines.into_iter().map(one).chain([large(50_000), large(70_000), one(many.as_bytes())]).collect()
}

/// What one of the two takes and the other does not.
fn stricter() -> Vec<Ask> {
    let get = |rest: &str, why| raw(format!("GET / HTTP/1.1\r\n{rest}\r\n\r\n").as_bytes()).coarse().differs(why);
    let post =
        |rest: &str, why| raw(format!("POST / HTTP/1.1\r\nhost: web\r\n{rest}").as_bytes()).coarse().differs(why);
    let line = |line: &str, why| raw(format!("{line}\r\nhost: web\r\n\r\n").as_bytes()).coarse().differs(why);
    let named = "/?set=connection:x-own&set=x-own:1";
    vec![
        get("host: a\r\nhost: b", "RFC 9112, 3.2: two hosts are refused; Envoy joins them"),
        get("host: web\r\nx-a: b\r\n folded: c", "RFC 9112, 5.2: folded lines are refused; Envoy joins them"),
        get("host: web\r\nx-a: b\rc", "RFC 9112, 2.2: a bare CR is refused; Envoy drops it"),
        get(
            "host: web\r\nupgrade: foo\r\nconnection: upgrade",
            "RFC 9110, 7.8: a wish is passed over; Envoy refuses it",
        ),
        get("host: web\r\nx-envoy-original-path: /x", "what claims to come from the mesh is not passed on"),
        post(
            "content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
            "RFC 9110, 8.6: the same twice is once; Envoy refuses it",
        ),
        post(
            "transfer-encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
            "a chunk longer than it says is refused; Envoy cuts it",
        ),
        line("GET  / HTTP/1.1", "RFC 9112, 3: one blank; Envoy takes two"),
        line("GET / HTTP/1.0", "Istio refuses HTTP/1.0 unless told otherwise"),
        line("GET /\u{e4} HTTP/1.1", "bytes beyond ASCII are encoded on; Envoy refuses them"),
        ask("GET", named, &[]).differs("RFC 9110, 7.6.1: what a backend's connection names ends here"),
    ]
}

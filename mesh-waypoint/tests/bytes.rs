//! Requests byte for byte: what a client sends, what the backend is sent, what comes back. No tunnel, no root: a stream of the
//! tunnel is a pipe here, and the backend a workload outside the mesh on loopback.

#[path = "support/bench.rs"]
#[allow(dead_code)]
mod bench;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bench::Server;
use expect_test::{Expect, expect};
use mesh_core::l7::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};

/// A backend that answers with the bytes it was sent, and the waypoint's side of streams to it.
struct Bench {
    waypoint: bench::Bench,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    async fn new(protocol: Protocol) -> Bench {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::at(listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        tokio::spawn(backend(listener, seen.clone()));
        let waypoint = bench::Bench::before(server, &[], Default::default(), |model| {
            model.ports.values_mut().for_each(|rules| rules.protocol = protocol);
        });
        Bench { waypoint, seen }
    }

    fn stream(&self) -> DuplexStream {
        self.waypoint.stream().0
    }

    /// All that comes back for `sent`, until nothing has come for a while.
    async fn say(&self, sent: &str) -> String {
        let mut stream = self.stream();
        stream.write_all(sent.as_bytes()).await.unwrap();
        quiet(&mut stream).await
    }
}

async fn quiet(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut all = Vec::new();
    loop {
        // The first byte may take long on a busy machine; what belongs to it comes with it.
        let patience = Duration::from_millis(if all.is_empty() { 5000 } else { 400 });
        match tokio::time::timeout(patience, stream.read_buf(&mut all)).await {
            Ok(Ok(some)) if some > 0 => {}
            _ => break,
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// Answers `ok`, keeps what it was sent, and echoes after an upgrade.
async fn backend(listener: TcpListener, seen: Arc<Mutex<Vec<String>>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let seen = seen.clone();
        tokio::spawn(async move {
            let mut buffer = Vec::new();
            while let Some(request) = one(&mut stream, &mut buffer).await {
                let upgrade = request.to_ascii_lowercase().contains("upgrade: websocket");
                let is_head = request.starts_with("HEAD");
                let chunked = request.contains("/chunked");
                seen.lock().unwrap().push(request);
                if upgrade {
                    let switched =
                        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
                    stream.write_all(switched.as_bytes()).await.unwrap();
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                    return;
                }
                let answer = match (is_head, chunked) {
                    (true, _) => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n",
                    (_, true) => {
                        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n"
                    }
                    _ => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nkeep-alive: timeout=5\r\nserver: real\r\n\r\nok",
                };
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
    }
}

/// The next request on a connection, with its body as it came.
async fn one(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        let text = String::from_utf8_lossy(buffer).into_owned();
        if let Some(end) = text.find("\r\n\r\n") {
            let (head, rest) = (text[..end].to_ascii_lowercase(), &text[end + 4..]);
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
            let whole = match length {
                Some(length) => (rest.len() >= length).then_some(end + 4 + length),
                None if head.contains("transfer-encoding: chunked") => {
                    // The last chunk, and trailers if there are any.
                    let last = rest.find("0\r\n").filter(|at| *at == 0 || rest[..*at].ends_with("\r\n"));
                    last.and_then(|at| rest[at..].find("\r\n\r\n").map(|more| end + 4 + at + more + 4))
                }
                None => Some(end + 4),
            };
            if let Some(whole) = whole {
                buffer.drain(..whole);
                return Some(text[..whole].to_owned());
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// What changes from run to run.
fn masked(text: &str) -> String {
    let line = |line: &str| match line.split_once(": ") {
        Some((name @ ("date" | "x-request-id" | "x-envoy-upstream-service-time"), _)) => format!("{name}: ..\n"),
        _ => format!("{}\n", line.trim_end_matches('\r')),
    };
    text.split('\n').map(line).collect::<String>().trim_end_matches('\n').to_owned() + "\n"
}

#[track_caller]
fn check(sent: &str, upstream: Expect, back: Expect) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (said, seen) = runtime.block_on(async {
        let bench = Bench::new(Protocol::Http).await;
        let said = bench.say(sent).await;
        let seen = bench.seen.lock().unwrap().join("----\n");
        (said, seen)
    });
    upstream.assert_eq(&masked(&seen));
    back.assert_eq(&masked(&said));
}

#[test]
fn a_request_goes_on_and_its_answer_comes_back() {
    check(
        "GET /a?b=c HTTP/1.1\r\nHost: web\r\nX-Own: 1\r\n\r\n",
        expect![[r#"
            GET /a?b=c HTTP/1.1
            host: web
            x-own: 1
            x-forwarded-proto: http
            x-request-id: ..
        "#]],
        expect![[r#"
        HTTP/1.1 200 OK
        content-length: 2
        server: istio-envoy
        x-envoy-upstream-service-time: ..
        date: ..

        ok
    "#]],
    );
}

#[test]
fn requests_in_a_row_are_answered_in_order() {
    check(
        "GET /1 HTTP/1.1\r\nHost: web\r\n\r\nGET /2 HTTP/1.1\r\nHost: web\r\n\r\n",
        expect![[r#"
            GET /1 HTTP/1.1
            host: web
            x-forwarded-proto: http
            x-request-id: ..

            ----
            GET /2 HTTP/1.1
            host: web
            x-forwarded-proto: http
            x-request-id: ..
        "#]],
        expect![[r#"
        HTTP/1.1 200 OK
        content-length: 2
        server: istio-envoy
        x-envoy-upstream-service-time: ..
        date: ..

        okHTTP/1.1 200 OK
        content-length: 2
        server: istio-envoy
        x-envoy-upstream-service-time: ..
        date: ..

        ok
    "#]],
    );
}

#[test]
fn http_1_0_is_answered_and_closed() {
    check(
        "GET / HTTP/1.0\r\n\r\n",
        expect![[r#"
            GET / HTTP/1.1
            host: 
            x-forwarded-proto: http
            x-request-id: ..
        "#]],
        expect![[r#"
        HTTP/1.0 200 OK
        content-length: 2
        server: istio-envoy
        x-envoy-upstream-service-time: ..
        date: ..

        ok
    "#]],
    );
}

#[test]
fn bodies_with_a_length_and_in_chunks_with_trailers() {
    check(
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhello",
        expect![[r#"
            POST / HTTP/1.1
            host: web
            content-length: 5
            x-forwarded-proto: http
            x-request-id: ..

            hello
        "#]],
        expect![[r#"
        HTTP/1.1 200 OK
        content-length: 2
        server: istio-envoy
        x-envoy-upstream-service-time: ..
        date: ..

        ok
    "#]],
    );
    check(
        "POST /chunked HTTP/1.1\r\nHost: web\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        expect![[r#"
            POST /chunked HTTP/1.1
            host: web
            te: trailers
            x-forwarded-proto: http
            x-request-id: ..
            transfer-encoding: chunked

            5
            hello
            0
        "#]],
        expect![[r#"
            HTTP/1.1 200 OK
            trailer: x-sum
            x-envoy-upstream-service-time: ..
            server: istio-envoy
            date: ..
            transfer-encoding: chunked

            2
            ok
            0
            x-sum: 7
        "#]],
    );
    check(
        "HEAD / HTTP/1.1\r\nHost: web\r\n\r\n",
        expect![[r#"
            HEAD / HTTP/1.1
            host: web
            x-forwarded-proto: http
            x-request-id: ..
        "#]],
        expect![[r#"
        HTTP/1.1 200 OK
        content-length: 2
        x-envoy-upstream-service-time: ..
        server: istio-envoy
        date: ..
    "#]],
    );
}

#[tokio::test]
async fn a_client_that_waits_for_100_is_told_to_go_on() {
    let bench = Bench::new(Protocol::Http).await;
    let mut stream = bench.stream();
    let head = "POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(quiet(&mut stream).await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hi").await.unwrap();
    let said = quiet(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 200 OK") && said.ends_with("ok"), "{said}");
    // Who has sent the body already is told nothing, and the backend does not hear of it.
    assert!(bench.say(&format!("{head}hi")).await.starts_with("HTTP/1.1 200 OK"));
    let seen = bench.seen.lock().unwrap().clone();
    assert!(
        seen.len() == 2 && seen.iter().all(|one| one.ends_with("\r\n\r\nhi") && !one.contains("expect")),
        "{seen:?}"
    );
}

#[test]
fn what_ends_at_this_hop_does_not_go_on() {
    check(
        "GET / HTTP/1.1\r\nHost: web\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: 1\r\n\
         TE: trailers, gzip\r\nX-Envoy-Retry-On: 5xx\r\nX-Forwarded-Client-Cert: me\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
        expect![[r#"
            GET / HTTP/1.1
            host: web
            te: trailers
            x-forwarded-for: 1.2.3.4
            x-forwarded-proto: http
            x-request-id: ..
        "#]],
        expect![[r#"
            HTTP/1.1 200 OK
            content-length: 2
            server: istio-envoy
            x-envoy-upstream-service-time: ..
            date: ..

            ok
        "#]],
    );
}

#[test]
fn an_absolute_target_sets_the_host() {
    check(
        "GET http://other:81/x HTTP/1.1\r\nHost: web\r\n\r\n",
        expect![[r#"
            GET /x HTTP/1.1
            host: other:81
            x-forwarded-proto: http
            x-request-id: ..
        "#]],
        expect![[r#"
        HTTP/1.1 200 OK
        content-length: 2
        server: istio-envoy
        x-envoy-upstream-service-time: ..
        date: ..

        ok
    "#]],
    );
}

/// What one end would read as one request and another as two.
#[test]
fn what_can_be_read_in_two_ways_is_not_carried_on() {
    let mut wrong = Vec::new();
    for sent in [
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5, 6\r\n\r\nhello!",
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: +5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 0x5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: -1\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: identity\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        "GET / HTTP/1.1\r\nHost: web\r\nX-A: 1\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: web\r\n X-A: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: web\r\nX A: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: web\r\nX-A: 1\0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: web\r\nHost: other\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: web\r\n\r\n",
        "GET x HTTP/1.1\r\nHost: web\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: web\r\n\r\n",
        "GET / HTTP/1.2\r\nHost: web\r\n\r\n",
        "CONNECT web:80 HTTP/1.1\r\nHost: web\r\n\r\n",
        "G@T / HTTP/1.1\r\nHost: web\r\n\r\n",
    ] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (said, seen) = runtime.block_on(async {
            let bench = Bench::new(Protocol::Http).await;
            let said = bench.say(sent).await;
            let seen = bench.seen.lock().unwrap().clone();
            (said, seen)
        });
        let refused = said.is_empty() || said.starts_with("HTTP/1.1 4") || said.starts_with("HTTP/1.0 4");
        if !(seen.is_empty() && refused) {
            wrong.push(format!("{sent:?} went on as {seen:?}, answered by {said:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_connection_becomes_a_web_socket() {
    let bench = Bench::new(Protocol::Http).await;
    let mut stream = bench.stream();
    let asked =
        "GET /ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";
    stream.write_all(asked.as_bytes()).await.unwrap();
    let said = quiet(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 101"), "{said}");
    for words in ["one", "two"] {
        stream.write_all(words.as_bytes()).await.unwrap();
        assert_eq!(quiet(&mut stream).await, words);
    }
}

#[tokio::test]
async fn bytes_that_are_no_http_pass_where_nobody_says_what_is_spoken() {
    let bench = Bench::new(Protocol::Detect).await;
    let mut stream = bench.stream();
    // The backend takes them for a request, which is its own affair.
    stream.write_all(b"\x01\x02 anything\r\n\r\n").await.unwrap();
    assert!(quiet(&mut stream).await.starts_with("HTTP/1.1 200"));
    assert_eq!(bench.seen.lock().unwrap()[0], "\x01\x02 anything\r\n\r\n");
    let bench = Bench::new(Protocol::Detect).await;
    let said = bench.say("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert!(said.contains("server: istio-envoy"), "{said}");
}

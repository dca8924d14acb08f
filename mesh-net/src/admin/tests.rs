use std::net::SocketAddr;

use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

async fn start() -> SocketAddr {
    let opened: Counter = Counter::default();
    opened.inc();
    let mut registry = Registry::default();
    registry.register("istio_tcp_connections_opened", "TCP connections opened", opened);
    let router = Router::new()
        .ready(|| Err("no snapshot".to_owned()))
        .metrics(Arc::new(registry))
        .json("/config", || BTreeMap::from([("pods", 3)]))
        .get("/panic", |_| panic!("a page that fails"))
        .logging(|level| match level {
            Some("debug") | None => Ok("debug".to_owned()),
            Some(other) => Err(format!("{other} is no level")),
        });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { serve(listener, router).await });
    address
}

async fn send(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

async fn call(address: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    let answer = send(address, &format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, head.to_lowercase(), body.to_owned())
}

#[tokio::test]
async fn each_page_answers_as_it_should() {
    let address = start().await;
    let seen = async |method: &str, path: &str| {
        let (status, _, body) = call(address, method, path).await;
        format!("{status} {body}")
    };
    assert_eq!(seen("GET", "/healthz/ready").await, "503 not ready: no snapshot\n");
    assert_eq!(seen("GET", "/config").await, "200 {\n  \"pods\": 3\n}");
    assert_eq!(seen("PUT", "/logging?level=debug").await, "200 debug\n");
    assert_eq!(seen("POST", "/logging?level=loud%21").await, "400 loud! is no level\n");
    assert_eq!(seen("PUT", "/logging").await, "400 which level? /logging?level=info\n");
    assert!(seen("GET", "/nowhere").await.starts_with("404 no such page"));
    assert!(seen("GET", "/panic").await.starts_with("500"));
    assert_eq!(seen("PUT", "/config").await, "405 method not allowed\n");
    let (_, head, body) = call(address, "HEAD", "/config").await;
    assert!(head.contains("content-length: 15") && body.is_empty(), "{head}");
    let (_, head, _) = call(address, "DELETE", "/logging").await;
    assert!(head.contains("allow: get, head, put, post"), "{head}");
}

#[tokio::test]
async fn metrics_carry_istio_names_to_the_letter() {
    let (status, head, body) = call(start().await, "GET", "/metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("openmetrics-text"));
    assert!(body.contains("\nistio_tcp_connections_opened_total 1\n"), "{body}");
}

#[tokio::test]
async fn hostile_heads_are_refused() {
    let address = start().await;
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    assert!(send(address, &format!("GET / HTTP/1.1\r\n{many}\r\n")).await.starts_with("HTTP/1.1 431"));
    let long = "a".repeat(64 * 1024);
    let answer = send(address, &format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n")).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert!(send(address, "\0\u{1}nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    assert_eq!(call(address, "GET", "/config").await.0, 200);
}

#[test]
fn queries_are_decoded() {
    let seen = |text: &str| format!("{:?}", parse_query(text));
    assert_eq!(seen("level=info&x"), r#"{"level": "info", "x": ""}"#);
    assert_eq!(seen("a=%20b+c%zz%"), r#"{"a": " b c%zz%"}"#);
    assert_eq!(seen("&&"), "{}");
}

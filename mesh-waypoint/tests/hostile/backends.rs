//! Backends that mean harm.

use http::Request;
use mesh_waypoint::keys::Keys;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::bench::Bench;
use super::support::{exchange, raw, to_raw};

/// What a client hears when the backend answers `said` and closes.
async fn heard(method: &str, said: &str) -> String {
    let bench = Bench::new(&[("raw", raw(said.into(), true).await)], Keys::default(), to_raw).await;
    let asked = format!("{method} / HTTP/1.1\r\nhost: web\r\nte: trailers\r\nconnection: close, te\r\n\r\n");
    String::from_utf8(exchange(&bench, asked.as_bytes()).await).unwrap()
}

#[tokio::test]
async fn what_is_no_answer_is_the_backends_failure() {
    for (name, said) in [
        ("an endless head", format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(1 << 20))),
        ("many fields", format!("HTTP/1.1 200 OK\r\n{}", "x: y\r\n".repeat(10_000))),
        ("words without end", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(10_000)),
        (
            "another protocol unasked",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".into(),
        ),
        ("two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc".into()),
        ("a coding that nobody knows", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nabc".into()),
        ("nothing", String::new()),
        ("no HTTP", "SSH-2.0-OpenSSH\r\n\r\n".into()),
    ] {
        let heard = heard("GET", &said).await;
        assert!(heard.starts_with("HTTP/1.1 50") && heard.matches("HTTP/1.1").count() == 1, "{name}: {heard}");
    }
}

#[tokio::test]
async fn bodies_go_on_as_far_as_they_are_what_they_say() {
    for (name, method, said, head, end, without) in [
        (
            "length and chunks",
            "GET",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200",
            "5\r\nhello\r\n0\r\n\r\n",
            "content-length",
        ),
        (
            "half a length",
            "GET",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
            "HTTP/1.1 200",
            "\r\n\r\nhalf",
            "chunked",
        ),
        (
            "half of its chunks",
            "GET",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "HTTP/1.1 200",
            "4\r\nhalf\r\n",
            "0\r\n\r\n",
        ),
        (
            "chunks and nonsense",
            "GET",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
            "HTTP/1.1 200",
            "4\r\nhalf\r\n",
            "zz",
        ),
        (
            "more than its length",
            "GET",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK",
            "HTTP/1.1 200",
            "\r\n\r\nok",
            "X",
        ),
        ("to the end", "GET", "HTTP/1.1 200 OK\r\n\r\nall", "HTTP/1.1 200", "3\r\nall\r\n0\r\n\r\n", "content-length"),
        (
            "trailers",
            "GET",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\ncontent-length: 9\r\n\r\n",
            "HTTP/1.1 200",
            "0\r\nx-sum: 7\r\n\r\n",
            "content-length",
        ),
        (
            "no content of a length",
            "GET",
            "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n",
            "HTTP/1.1 204",
            "\r\n\r\n",
            "content-length",
        ),
        (
            "not modified",
            "GET",
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
            "HTTP/1.1 304",
            "\r\n\r\n",
            "transfer-encoding",
        ),
        ("HEAD", "HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "HTTP/1.1 200", "\r\n\r\n", "hello"),
        ("HEAD of no length", "HEAD", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200", "\r\n\r\n", "transfer-encoding"),
    ] {
        let heard = heard(method, said).await;
        assert!(heard.starts_with(head) && heard.ends_with(end) && !heard.contains(without), "{name}: {heard}");
    }
}

/// What a backend says too much is nobody's answer.
#[tokio::test]
async fn an_answer_too_many_is_nobodys() {
    let twice = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let bench = Bench::new(&[("raw", raw(twice.into(), false).await)], Keys::default(), to_raw).await;
    for _ in 0..5 {
        assert_eq!(bench.ask(Request::get("/").body("").unwrap()).await.body(), "ok");
    }
    // And what comes while nobody asks neither.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bench = Bench::new(&[("raw", listener.local_addr().unwrap())], Keys::default(), to_raw).await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut heard = [0; 1000];
            let _ = stream.read(&mut heard).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil").await.unwrap();
        }
    });
    for _ in 0..3 {
        assert_eq!(bench.ask(Request::get("/").body("").unwrap()).await.body(), "ok");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

//! Clients that speak HTTP/1.

use std::time::Duration;

use mesh_waypoint::keys::Keys;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use super::bench::Bench;
use super::support::{LONG, all, exchange, neighbour, raw, taken, to_raw};

const CHUNKED: &str = "POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test]
async fn what_is_too_much_or_nonsense_is_refused_and_ended() {
    let bench = Bench::new(&[], Keys::default(), |_| {}).await;
    for (name, sent, statuses) in [
        ("a long head", format!("GET / HTTP/1.1\r\nhost: web\r\nx: {}\r\n\r\n", "y".repeat(61 << 10)), &[431][..]),
        ("an endless head", format!("GET / HTTP/1.1\r\nhost: web\r\nx: {}", "y".repeat(400 << 10)), &[431]),
        ("many fields", format!("GET / HTTP/1.1\r\nhost: web\r\n{}\r\n", "x: y\r\n".repeat(10_000)), &[431]),
        ("an endless extension", format!("{CHUNKED}5;{}", "x".repeat(64 << 10)), &[400]),
        ("a chunk that overflows", format!("{CHUNKED}fffffffffffffffff\r\nhello"), &[400]),
        ("many trailers", format!("{CHUNKED}0\r\n{}", "a: b\r\n".repeat(200)), &[400]),
        ("trailers that are passed over", format!("{CHUNKED}0\r\n{}", "host: b\r\n".repeat(20_000)), &[400]),
        ("a long trailer", format!("{CHUNKED}0\r\na: {}", "b".repeat(64 << 10)), &[400]),
        ("a host of two words", "GET / HTTP/1.1\r\nhost: web evil\r\nconnection: close\r\n\r\n".into(), &[400]),
        ("a host with a user", "GET / HTTP/1.1\r\nhost: me@web\r\nconnection: close\r\n\r\n".into(), &[400]),
        ("a host with a path", "GET / HTTP/1.1\r\nhost: web/x\r\nconnection: close\r\n\r\n".into(), &[400]),
        ("more than its length", "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 2\r\n\r\nhi!\r\n\r\n".into(), &[200, 400]),
        (
            "requests behind a body",
            "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 2\r\n\r\nhiGET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n"
                .into(),
            &[200, 200],
        ),
        (
            "requests behind chunks",
            format!("{CHUNKED}2\r\nhi\r\n0\r\n\r\n\r\nGET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n"),
            &[200, 200],
        ),
        (
            "HTTP/1.0 that stays",
            "GET / HTTP/1.0\r\nhost: web\r\nconnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\nhost: web\r\n\r\n".into(),
            &[200, 200],
        ),
    ] {
        let heard = String::from_utf8_lossy(&exchange(&bench, sent.as_bytes()).await).into_owned();
        let lines = heard.split("HTTP/1.").skip(1).map(|answer| answer[2..5].parse().unwrap());
        assert_eq!(lines.collect::<Vec<u16>>(), statuses, "{name}: {heard}");
        neighbour(&bench).await;
    }
    // What came of it was nothing but the requests that were whole.
    assert!(bench.backend.seen().iter().all(|seen| matches!(&seen.body()[..], b"" | b"hi")));
}

#[tokio::test]
async fn who_dawdles_is_ended() {
    let mut bench = Bench::new(&[], Keys::default(), |_| {}).await;
    bench.limit(|limits| limits.head_timeout = Duration::from_millis(300));
    for (sent, is_told) in [
        ("GET / HTTP/1.1\r\nhost: web\r\nx-long: yyyyyyyyyyyyyyyyyyyyyy", true),
        ("PRI * HTTP/2.0\r\n\r\n", false),
        ("\r\n\r\n\r\n\r\n\r\n\r\n\r\n", false),
    ] {
        let (mut stream, _) = bench.stream();
        for byte in sent.bytes() {
            let _ = stream.write_all(&[byte]).await;
            sleep(Duration::from_millis(10)).await;
        }
        let heard = String::from_utf8(all(&mut stream).await).unwrap();
        match is_told {
            true => assert!(heard.starts_with("HTTP/1.1 408 ") && heard.ends_with("request header timeout"), "{heard}"),
            false => assert_eq!(heard, "", "{sent:?}"),
        }
    }
    bench.limit(|limits| limits.idle_timeout = Duration::from_millis(300));
    assert_eq!(all(&mut bench.stream().0).await, b"", "nothing was said");
    let heard = exchange(&bench, b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
    assert!(heard.starts_with(b"HTTP/1.1 200"), "and then nothing");
    neighbour(&bench).await;
}

#[tokio::test]
async fn who_asks_and_does_not_listen_is_not_read() {
    let bench = Bench::new(&[], Keys::default(), |_| {}).await;
    let (mut stream, _) = bench.stream();
    let taken = taken(&mut stream, b"GET / HTTP/1.1\r\nhost: web\r\n\r\n", 64 << 20).await;
    assert!(taken < 2 << 20, "{taken} bytes were taken");
    neighbour(&bench).await;
}

/// How much a backend gets rid of, for a client that asks and hears nothing.
#[tokio::test]
async fn an_answer_that_nobody_reads_stays_with_the_backend() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bench = Bench::new(&[("raw", listener.local_addr().unwrap())], Keys::default(), to_raw).await;
    let (mut stream, _) = bench.stream();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    let (mut backend, _) = listener.accept().await.unwrap();
    backend.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    let written = taken(&mut backend, &[b'x'; 64 << 10], 256 << 20).await;
    // Nearly all of it is in the kernel.
    assert!(written < 32 << 20, "{written} bytes were taken");
    drop(stream);
    let ended = async {
        while backend.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(10)).await
        }
    };
    timeout(LONG, ended).await.expect("the backend is told that nobody listens");
}

#[tokio::test]
async fn an_answer_before_the_body_is_not_lost() {
    let early = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 4\r\n\r\nlong".to_vec();
    let bench = Bench::new(&[("raw", raw(early, true).await)], Keys::default(), to_raw).await;
    let head = "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 300000\r\n\r\n";
    for body in ["", "some"] {
        let heard = exchange(&bench, format!("{head}{body}").as_bytes()).await;
        let heard = String::from_utf8(heard).unwrap();
        assert!(heard.starts_with("HTTP/1.1 413") && heard.ends_with("long"), "{heard}");
        assert!(heard.contains("\r\nconnection: close\r\n"), "{heard}");
    }
}

#[tokio::test]
async fn who_says_no_more_is_answered() {
    let bench = Bench::new(&[], Keys::default(), |_| {}).await;
    let (mut stream, served) = bench.stream();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let heard = all(&mut stream).await;
    assert!(heard.starts_with(b"HTTP/1.1 200") && heard.ends_with(b"ok"));
    timeout(LONG, served).await.expect("it is over").unwrap();
    // Half a body is no body.
    let (mut stream, _) = bench.stream();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = Vec::new();
    timeout(LONG, stream.read_to_end(&mut heard)).await.expect("it is ended").unwrap();
    assert!(heard.is_empty() || heard.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&heard));
    assert_eq!(bench.backend.count(), 1);
}

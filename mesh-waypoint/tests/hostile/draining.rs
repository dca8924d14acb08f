//! An instance that is to stop ends its connections in good order, and trailers pass from one HTTP to the other.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use mesh_waypoint::keys::Keys;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::bench::{Bench, Server};
use super::support::{LONG, all, first_only, raw, to_raw};

#[tokio::test]
async fn http_1_is_told_with_the_next_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bench = Bench::new(&[("raw", listener.local_addr().unwrap())], Keys::default(), to_raw).await;
    let (mut silent, _) = bench.stream();
    let (mut busy, _) = bench.stream();
    busy.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    let (mut backend, _) = listener.accept().await.unwrap();
    bench.drain();
    assert_eq!(all(&mut silent).await, b"");
    backend.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    let heard = String::from_utf8(all(&mut busy).await).unwrap();
    assert!(heard.contains("\r\nconnection: close\r\n") && heard.ends_with("ok"), "{heard}");
}

#[tokio::test]
async fn idle_http_1_ends() {
    let bench = Bench::new(&[], Keys::default(), |_| {}).await;
    let (mut idle, _) = bench.stream();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"ok") {
        idle.read_buf(&mut heard).await.unwrap();
    }
    bench.drain();
    assert_eq!(all(&mut idle).await, b"");
}

/// Every request that the client could begin is answered, and then the connection is over.
#[tokio::test]
async fn http_2_loses_no_request() {
    let bench = Bench::new(&[], Keys::default(), first_only).await;
    let (near, _) = bench.stream();
    let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut answers = Vec::new();
    for at in 0..5_000 {
        if at == 100 {
            bench.drain();
        }
        let Ok(ready) = std::future::poll_fn(|cx| sender.poll_ready(cx)).await.map(|()| &mut sender) else { break };
        let request = Request::get("http://web/").body(()).unwrap();
        let Ok((answer, _)) = ready.send_request(request, true) else { break };
        answers.push(tokio::spawn(answer));
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    assert!((100..5_000).contains(&answers.len()), "{} were begun", answers.len());
    for answer in answers {
        assert_eq!(timeout(LONG, answer).await.unwrap().unwrap().expect("it was begun").status(), 200);
    }
    drop(sender);
    timeout(LONG, connection).await.expect("it ends").unwrap().expect("in good order");
}

/// What an HTTP/2 client hears of a GET: its body, and what follows.
async fn asked(bench: &Bench, content: &str) -> (Bytes, HeaderMap) {
    let (mut sender, connection) = h2::client::handshake(bench.stream().0).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://web/").header("content-type", content).header("te", "trailers");
    let (answer, mut upload) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    upload.send_data("hello".into(), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-asked", "7".parse().unwrap());
    trailers.insert("content-length", "9".parse().unwrap());
    upload.send_trailers(trailers).unwrap();
    let mut body = timeout(LONG, answer).await.unwrap().unwrap().into_body();
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        all.extend_from_slice(&data.unwrap());
    }
    (all.into(), body.trailers().await.unwrap().unwrap_or_default())
}

#[tokio::test]
async fn trailers_pass_from_http_1_to_http_2() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n";
    let bench = Bench::new(&[("raw", raw(chunked.into(), true).await)], Keys::default(), to_raw).await;
    let (body, trailers) = asked(&bench, "text/plain").await;
    assert_eq!((&body[..], &trailers["x-sum"]), (&b"ok"[..], &"7".parse().unwrap()));
}

#[tokio::test]
async fn trailers_pass_from_http_2_to_http_2() {
    let server = Server::start(|request| {
        assert_eq!(request.version(), http::Version::HTTP_2);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let body = Full::new(request.body().clone()).with_trailers(std::future::ready(Some(Ok(trailers))));
        Response::new(body.boxed_unsync())
    })
    .await;
    let bench = Bench::new(&[("raw", server.address)], Keys::default(), to_raw).await;
    let (body, trailers) = asked(&bench, "application/grpc").await;
    assert_eq!((&body[..], &trailers["grpc-status"]), (&b"hello"[..], &"0".parse().unwrap()));
}

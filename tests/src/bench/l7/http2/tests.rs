//! Against each other, and against another implementation of HTTP/2.

use std::time::Instant;

use super::super::frames::RST_STREAM;
use super::super::talk::{Client as _, Kind, Server as _};
use super::*;

#[test]
fn both_ends_understand_each_other_in_pieces_of_any_size() {
    for (kind, piece) in [(Kind::Grpc, 1), (Kind::Grpc, 100), (Kind::Http2, 13), (Kind::Http2, 1 << 16)] {
        let (mut client, mut server) = (Client::new(kind, 10), Server::new(kind));
        let (mut asked, mut done) = (Vec::new(), 0);
        client.greet(&mut asked);
        for _ in 0..50 {
            while client.room() > 0 {
                client.ask(Instant::now(), &mut asked);
            }
            let mut replied = Vec::new();
            for some in asked.chunks(piece) {
                server.take(some, &mut replied).unwrap();
            }
            asked.clear();
            for some in replied.chunks(piece) {
                client.take(some, &mut asked, &mut |_| done += 1).unwrap();
            }
        }
        assert_eq!(done, 500, "{kind:?} in pieces of {piece}");
    }
}

#[test]
fn what_is_no_reply_is_an_error() {
    let mut asked = Vec::new();
    let reset = |out: &mut Vec<u8>| {
        let at = begin(out, RST_STREAM, 0, 1);
        out.extend_from_slice(&[0, 0, 0, 7]);
        finish(out, at);
    };
    let empty = |out: &mut Vec<u8>| {
        let at = begin(out, HEADERS, END_STREAM | END_HEADERS, 1);
        finish(out, at);
    };
    let stranger = |out: &mut Vec<u8>| {
        let at = begin(out, HEADERS, END_HEADERS, 3);
        finish(out, at);
    };
    let cases: [fn(&mut Vec<u8>); 3] = [reset, empty, stranger];
    for (case, reply) in cases.iter().enumerate() {
        let mut client = Client::new(Kind::Grpc, 1);
        client.ask(Instant::now(), &mut asked);
        let mut bytes = Vec::new();
        reply(&mut bytes);
        assert!(client.take(&bytes, &mut Vec::new(), &mut |_| {}).is_err(), "case {case}");
    }
}

#[tokio::test]
async fn another_implementation_reads_requests_and_replies() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let (near, mut far) = tokio::io::duplex(1 << 16);
    let serving = tokio::spawn(async move {
        let mut server = Server::new(Kind::Grpc);
        let mut buffer = [0; 4096];
        loop {
            let (mut out, some) = (Vec::new(), far.read(&mut buffer).await.unwrap());
            if some == 0 {
                return;
            }
            server.take(&buffer[..some], &mut out).unwrap();
            far.write_all(&out).await.unwrap();
        }
    });
    let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
    let driven = tokio::spawn(connection);
    for _ in 0..2 {
        let request = http::Request::post("http://svc-13.shop.test/shop.Items/Get").body(()).unwrap();
        let (reply, _) = sender.send_request(request, true).unwrap();
        let reply = reply.await.unwrap();
        assert_eq!(reply.status(), 200);
        assert_eq!(reply.headers()["content-type"], "application/grpc");
        let mut body = reply.into_body();
        assert_eq!(body.data().await.unwrap().unwrap().len(), Kind::Grpc.body());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    }
    drop(sender);
    driven.await.unwrap().unwrap();
    serving.await.unwrap();

    let (near, mut far) = tokio::io::duplex(1 << 16);
    let served = tokio::spawn(async move {
        let mut connection = h2::server::handshake(near).await.unwrap();
        let mut requests = Vec::new();
        while let Some(request) = connection.accept().await {
            requests.push(request.unwrap().0);
            if requests.len() == 2 {
                return requests;
            }
        }
        requests
    });
    let mut client = Client::new(Kind::Grpc, 2);
    let mut asked = Vec::new();
    client.greet(&mut asked);
    client.ask(Instant::now(), &mut asked);
    client.ask(Instant::now(), &mut asked);
    far.write_all(&asked).await.unwrap();
    let requests = served.await.unwrap();
    assert_eq!(requests.len(), 2);
    for request in &requests {
        assert_eq!(request.uri().to_string(), "http://svc-13.shop.test/shop.Items/Get");
        assert_eq!(request.headers()["x-tenant"], "blue");
        assert_eq!(request.headers()["te"], "trailers");
        assert_eq!(request.headers().len(), 8);
    }
    let [first, second] = [0, 1].map(|at| requests[at].headers()["traceparent"].to_str().unwrap().to_owned());
    assert!(first.starts_with("00-4bf92f") && first.ends_with("-01") && first != second, "{first} {second}");
}

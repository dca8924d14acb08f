//! Who stops in the middle: of what it says, or of what it is told.

use std::time::Duration;

use mesh_net::http2::frame::{kind, setting};
use mesh_waypoint::keys::Keys;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::bench::{Bench, Body, Server, text};
use super::support::{GET, LONG, POST, all, first_only, frame, frames, head, hello, neighbour, to_raw, until};

const SOON: Duration = Duration::from_millis(400);

async fn bench(backend: Server) -> Bench {
    let mut bench = Bench::before(backend, &[], Keys::default(), first_only);
    bench.limit(|limits| limits.stream_idle = SOON);
    bench
}

/// Answers with 8 MiB.
async fn long() -> Server {
    Server::start(|seen| -> http::Response<Body> {
        let length = if seen.uri().path() == "/" { 8 << 20 } else { 2 };
        text(200, vec![b'x'; length])
    })
    .await
}

async fn over(served: JoinHandle<()>, what: &str) {
    timeout(LONG, served).await.unwrap_or_else(|_| panic!("{what}: it goes on")).unwrap();
}

#[tokio::test]
async fn half_a_body_is_answered_408() {
    let bench = bench(Server::start(|_| text(200, "ok")).await).await;
    for (name, sent) in [
        ("a length", "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 9\r\n\r\nhalf"),
        ("chunks", "POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        ("nothing of it", "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 9\r\n\r\n"),
    ] {
        let (mut stream, served) = bench.stream();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let heard = String::from_utf8(all(&mut stream).await).unwrap();
        assert!(heard.starts_with("HTTP/1.1 408 ") && heard.ends_with("stream timeout"), "{name}: {heard}");
        over(served, name).await;
    }
    let metrics = bench.metrics();
    let told = metrics.lines().any(|line| line.contains("response_code=\"408\"") && line.contains("=\"SI\""));
    assert!(told, "{metrics}");
    neighbour(&bench).await;
}

#[tokio::test]
async fn half_a_body_is_answered_on_its_stream() {
    let bench = bench(Server::start(|_| text(200, "ok")).await).await;
    let (mut stream, _) = bench.stream();
    let half = [hello(&[]), head(1, false, &POST), frame(kind::DATA, 0, 1, b"half")].concat();
    stream.write_all(&half).await.unwrap();
    let heard = until(&mut stream, |(head, _)| head.kind == kind::DATA).await;
    let said = frames(&heard).into_iter().find(|(head, _)| head.kind == kind::DATA).map(|(_, payload)| payload);
    assert_eq!(said, Some(&b"stream timeout"[..]));
    // The connection goes on.
    stream.write_all(&head(3, true, &GET)).await.unwrap();
    until(&mut stream, |(head, payload)| head.kind == kind::DATA && *payload == b"ok").await;
}

#[tokio::test]
async fn grpc_may_be_quiet() {
    let bench = bench(Server::start(|_| text(200, "ok")).await).await;
    let (mut stream, _) = bench.stream();
    let grpc = [&POST[..], &[("content-type", b"application/grpc")]].concat();
    stream.write_all(&[hello(&[]), head(1, false, &grpc)].concat()).await.unwrap();
    tokio::time::sleep(3 * SOON).await;
    stream.write_all(&frame(kind::DATA, 1, 1, b"at last")).await.unwrap();
    until(&mut stream, |(head, payload)| head.kind == kind::DATA && *payload == b"ok").await;
    assert_eq!(bench.backend.seen()[0].body(), "at last");
}

#[tokio::test]
async fn who_does_not_read_is_given_up() {
    let bench = bench(long().await).await;
    let wide = [&setting::INITIAL_WINDOW_SIZE.to_be_bytes()[..], &(1_u32 << 30).to_be_bytes()].concat();
    let wider = frame(kind::WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes());
    for (name, sent) in [
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: web\r\n\r\n".to_vec()),
        ("HTTP/2", [hello(&wide), wider, head(1, true, &GET)].concat()),
    ] {
        let (mut stream, served) = bench.stream();
        stream.write_all(&sent).await.unwrap();
        over(served, name).await;
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_is_reset() {
    let bench = bench(long().await).await;
    let (mut stream, _) = bench.stream();
    let other = [&GET[..3], &[(":path", b"/short")]].concat();
    stream.write_all(&[hello(&[]), head(1, true, &GET)].concat()).await.unwrap();
    until(&mut stream, |(head, _)| head.kind == kind::RST_STREAM && head.stream == 1).await;
    let more = frame(kind::WINDOW_UPDATE, 0, 0, &(1_u32 << 20).to_be_bytes());
    stream.write_all(&[more, head(3, true, &other)].concat()).await.unwrap();
    until(&mut stream, |(head, _)| head.kind == kind::DATA && head.stream == 3).await;
}

#[tokio::test]
async fn an_endpoint_that_does_not_read_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut bench = Bench::new(&[("raw", listener.local_addr().unwrap())], Keys::default(), to_raw).await;
    bench.limit(|limits| limits.stream_idle = SOON);
    let (stream, _) = bench.stream();
    let (mut read, mut write) = tokio::io::split(stream);
    let head = "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 67108864\r\n\r\n";
    let sending = tokio::spawn(async move {
        write.write_all(head.as_bytes()).await.unwrap();
        // It is not taken to its end.
        let _ = write.write_all(&vec![b'x'; 64 << 20]).await;
    });
    let (_held, _) = listener.accept().await.unwrap();
    let heard = String::from_utf8(all(&mut read).await).unwrap();
    assert!(heard.starts_with("HTTP/1.1 503 "), "{heard}");
    timeout(LONG, sending).await.expect("the client is held").unwrap();
}

/// As the reference does: a client that ends its side is gone, whatever it has asked for.
#[tokio::test]
async fn who_ends_its_side_of_http2_is_gone() {
    let silent = Server::at(Server::silent().await);
    let bench = Bench::before(silent, &[], Keys::default(), first_only);
    let (mut stream, served) = bench.stream();
    stream.write_all(&[hello(&[]), head(1, true, &GET)].concat()).await.unwrap();
    stream.shutdown().await.unwrap();
    let heard = all(&mut stream).await;
    assert!(frames(&heard).iter().all(|(head, _)| head.kind != kind::HEADERS));
    over(served, "HTTP/2").await;
}

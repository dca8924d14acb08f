//! More is asked than a worker can hold: nobody is served at the cost of others, memory is bounded, and it is over when the load is.

#[path = "support/bench.rs"]
#[allow(dead_code)]
mod bench;
#[path = "hostile/support.rs"]
#[allow(dead_code)]
mod support;

use std::convert::Infallible;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use mesh_core::l7::Protocol;
use mesh_core::l7::destination::Destination;
use mesh_net::http2::frame::{kind, setting};
use mesh_waypoint::keys::Keys;
use mesh_waypoint::overload::{Bounds, Level};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

use bench::{Bench, Server, key, text};
use support::{GET, LONG, all, frame, frames, head, hello, until};

/// At `/slow` the head of an answer at once, and the rest when it is told to.
async fn slow() -> (Server, watch::Sender<bool>) {
    let (end, ended) = watch::channel(false);
    let answer = move |seen: &Request<Bytes>| match seen.uri().path() {
        "/slow" => {
            let mut ended = ended.clone();
            let rest = stream::once(async move {
                ended.wait_for(|ended| *ended).await.unwrap();
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"at last")))
            });
            Response::new(StreamBody::new(rest).boxed_unsync())
        }
        _ => text(200, "ok"),
    };
    (Server::start(answer).await, end)
}

/// A client's stream on which it has asked for what is slow, and the status that it was answered.
async fn asks_slowly(bench: &Bench, account: &str) -> (DuplexStream, u16) {
    let (mut stream, _) = bench.stream_of(account);
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    while !heard.windows(4).any(|end| end == b"\r\n\r\n") {
        timeout(LONG, stream.read_buf(&mut heard)).await.expect("no answer").unwrap();
    }
    (stream, std::str::from_utf8(&heard[9..12]).unwrap().parse().unwrap())
}

fn get<'a>() -> Request<&'a str> {
    Request::get("/").body("").unwrap()
}

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB")).unwrap();
    kib.trim().parse::<usize>().unwrap() << 10
}

#[tokio::test]
async fn a_thousand_slow_requests_of_one_stop_nobody_else() {
    let (backend, end) = slow().await;
    let mut bench = Bench::before(backend, &[], Keys::default(), support::first_only);
    bench.bound(Bounds::requests(100));
    let mut greedy = Vec::new();
    for _ in 0..1000 {
        greedy.push(asks_slowly(&bench, "greedy").await);
    }
    let served = greedy.iter().filter(|(_, status)| *status == 200).count();
    assert_eq!(served, 100);
    assert!(greedy.iter().all(|(_, status)| [200, 503].contains(status)));
    let mut modest = Vec::new();
    for _ in 0..40 {
        let (stream, status) = asks_slowly(&bench, "modest").await;
        assert_eq!((status, bench.ask_as("modest", get()).await.status().as_u16()), (200, 200));
        modest.push(stream);
    }

    let refused = bench.ask_as("greedy", get()).await;
    assert_eq!((refused.status().as_u16(), refused.body().as_str()), (503, "envoy overloaded"));
    let grpc = Request::post("/a.B/C").header("content-type", "application/grpc").body("").unwrap();
    let refused = bench.ask_as("greedy", grpc).await;
    assert_eq!((refused.status().as_u16(), refused.headers()["grpc-status"].to_str().unwrap()), (200, "14"));
    let metrics = bench.metrics();
    assert!(metrics.contains("weft_requests_shed_total{reason=\"share\"} 902"), "{metrics}");
    assert!(metrics.contains("response_flags=\"OM\""), "{metrics}");

    end.send_replace(true);
    let freed = async {
        while bench.ask_as("greedy", get()).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, freed).await.expect("what is over is still counted");
}

#[tokio::test]
async fn bodies_that_no_backend_reads_stay_with_the_clients() {
    let silent = Server::at(Server::silent().await);
    let bench = Bench::before(silent, &[], Keys::default(), support::first_only);
    let before = resident();
    let body: &'static [u8] = vec![b'x'; 1 << 20].leak();
    let mut clients = Vec::new();
    for _ in 0..100 {
        let (mut stream, _) = bench.stream();
        clients.push(tokio::spawn(async move {
            stream.write_all(b"POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 67108864\r\n\r\n").await.unwrap();
            support::taken(&mut stream, body, 64 << 20).await;
            stream
        }));
    }
    let mut held = Vec::new();
    for client in clients {
        held.push(timeout(LONG, client).await.expect("a client goes on").unwrap());
    }
    let grown = resident().saturating_sub(before);
    // A hundred times 64 KiB in the pipe and some 256 KiB for the socket, of 6.4 GB.
    assert!(grown < 100 << 20, "{grown} bytes are held");
}

/// What an endpoint may send by HTTP/2, as fast as it is let, for a client that reads none of it.
#[tokio::test]
async fn answers_that_nobody_reads_stay_with_the_backend() {
    let (sent, listener) = (Arc::new(AtomicUsize::new(0)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let backend = Server::at(listener.local_addr().unwrap());
    let counted = sent.clone();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            let counted = counted.clone();
            tokio::spawn(async move {
                stream.reserve_capacity(1 << 30);
                while let Some(Ok(some)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                    stream.send_data(vec![b'x'; some].into(), false).unwrap();
                    counted.fetch_add(some, Ordering::Relaxed);
                    stream.reserve_capacity(1 << 30);
                }
            });
        }
    });
    let bench = Bench::before(backend, &[], Keys::default(), |model| {
        let second = Destination { protocols: [(80, Protocol::Http2)].into(), ..Destination::default() };
        model.destinations = [(key("web"), second)].into();
    });
    let (mut stream, _) = bench.stream();
    let closed = [&setting::INITIAL_WINDOW_SIZE.to_be_bytes()[..], &0_u32.to_be_bytes()].concat();
    let requests: Vec<u8> = (0..100).flat_map(|at| head(2 * at + 1, true, &GET)).collect();
    stream.write_all(&[hello(&closed), requests].concat()).await.unwrap();
    let mut last = usize::MAX;
    while last != sent.load(Ordering::Relaxed) || last == 0 {
        last = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(last < 100 * (256 << 10), "{last} bytes came for 100 streams");
}

#[tokio::test]
async fn short_memory_ends_connections_and_refuses_requests() {
    let (backend, _end) = slow().await;
    let mut bench = Bench::before(backend, &[], Keys::default(), support::first_only);
    let overload = bench.bound(Bounds::requests(100));
    let (mut idle, _) = bench.stream();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"ok") {
        idle.read_buf(&mut heard).await.unwrap();
    }
    let (mut second, _) = bench.stream();
    second.write_all(&[hello(&[]), head(1, true, &GET)].concat()).await.unwrap();
    until(&mut second, |(head, payload)| head.kind == kind::DATA && *payload == b"ok").await;
    let (mut silent, _) = bench.stream();

    overload.set(Level::Tight);
    assert_eq!(all(&mut idle).await, b"", "nothing is under way");
    assert_eq!(all(&mut silent).await, b"", "nothing was said");
    until(&mut second, |(head, _)| head.kind == kind::GOAWAY).await;
    let answered = bench.ask(get()).await;
    assert_eq!((answered.status().as_u16(), &answered.headers()["connection"]), (200, &"close".parse().unwrap()));
    // Whoever comes is served first, and told then.
    let (mut late, _) = bench.stream();
    late.write_all(&hello(&[])).await.unwrap();
    let greeting = until(&mut late, |(head, _)| head.kind == kind::SETTINGS).await;
    assert!(frames(&greeting).iter().all(|(head, _)| head.kind != kind::GOAWAY));
    late.write_all(&head(1, true, &GET)).await.unwrap();
    let heard = until(&mut late, |(head, payload)| head.kind == kind::DATA && *payload == b"ok").await;
    assert!(frames(&heard).iter().any(|(head, _)| head.kind == kind::GOAWAY));

    let (held, status) = asks_slowly(&bench, "client").await;
    assert_eq!(status, 200);
    overload.set(Level::Critical);
    let refused = bench.ask(get()).await;
    assert_eq!((refused.status().as_u16(), refused.body().as_str()), (503, "envoy overloaded"));
    assert!(bench.metrics().contains("weft_requests_shed_total{reason=\"memory\"} 1"));
    // What was taken on goes on.
    drop(held);

    overload.set(Level::Calm);
    let answered = bench.ask(get()).await;
    assert_eq!((answered.status().as_u16(), answered.headers().get("connection")), (200, None));
    // Its ping, and it is told no more.
    second.write_all(&frame(kind::PING, 1, 0, &[0; 8])).await.unwrap();
    assert!(frames(&all(&mut second).await).iter().all(|(head, _)| head.kind != kind::HEADERS));
}

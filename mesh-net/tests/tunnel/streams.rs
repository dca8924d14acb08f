//! Bytes, credit and readers that are slow.

use std::time::Duration;

use mesh_core::workload::WorkloadKind;
use mesh_net::tunnel::client::OpenError;
use mesh_net::tunnel::head::{Baggage, Forwarded, Head};
use mesh_net::tunnel::server::Status;
use mesh_net::tunnel::{Config, client, server};
use tokio::time::timeout;

use crate::pair::{LONG, echo, id, open, read_to_end, serve, stream, tunnel};

#[tokio::test]
async fn echo_returns_every_byte_and_both_half_closes() {
    let (connection, _driver, server) = tunnel(&Config::default()).await;
    let _server = serve(server, echo);
    for text in ["", "x", "hello"] {
        let (mut send, mut recv) = open(&connection).await;
        send.send(text.as_bytes()).await.unwrap();
        send.finish();
        assert_eq!(read_to_end(&mut recv).await.unwrap(), text.as_bytes());
    }
}

#[tokio::test]
async fn heads_cross_in_both_directions_with_the_proven_identities() {
    let (connection, _driver, mut server) = tunnel(&Config::default()).await;
    let head = Head {
        authority: "[2001:db8::1]:5432".to_owned(),
        baggage: Some(Baggage {
            cluster: Some("c1".to_owned()),
            workload: Some((WorkloadKind::Deployment, "wéb, \"1\"".to_owned())),
            ..Baggage::default()
        }),
        forwarded: Some(Forwarded { for_: "10.1.2.3:4711".parse().unwrap(), host: Some("db.shop:5432".to_owned()) }),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    };
    let reply = Baggage { namespace: Some("shop".to_owned()), ..Baggage::default() };
    let (opened, (sent, _server)) = tokio::join!(connection.open(&head, LONG, None), async {
        let request = server.accept().await.unwrap().unwrap();
        let sent = (request.head().clone(), request.peer().clone(), request.ignored_headers());
        let stream = request.accept(Some(&reply)).unwrap();
        (sent, tokio::spawn(async move { (stream, server.accept().await.is_none()) }))
    });
    assert_eq!(sent, (head, id("web"), 0));
    assert_eq!(opened.unwrap().0.baggage, Some(reply));
    assert_eq!(connection.peer(), &id("db"));
}

#[tokio::test]
async fn refusals_arrive_as_their_status() {
    let (connection, _driver, mut server) = tunnel(&Config::default()).await;
    let _server = tokio::spawn(async move {
        let answers = [Status::BadRequest, Status::Denied, Status::Unavailable].into_iter();
        for status in answers {
            server.accept().await.unwrap().unwrap().refuse(status);
        }
        server.accept().await.map(drop)
    });
    for status in [400, 401, 503] {
        let refused = connection.open(&Head::to("10.0.0.1:80"), LONG, None).await.map(drop);
        assert_eq!(refused, Err(OpenError::Refused { status }));
    }
    let unsendable = connection.open(&Head::to("10.0.0.1"), LONG, None).await.map(drop);
    assert_eq!(unsendable, Err(OpenError::Head("10.0.0.1".to_owned())));
    assert_eq!(connection.in_use(), 0);
}

/// 64 MiB of a stream that differs everywhere, sent and hashed at once, both ways.
#[tokio::test]
async fn sixty_four_mebibytes_both_ways_at_once_arrive_unchanged() {
    async fn transfer(
        stream: (mesh_net::tunnel::stream::SendHalf, mesh_net::tunnel::stream::RecvHalf),
    ) -> (Vec<u8>, Vec<u8>) {
        use aws_lc_rs::digest::{Context, SHA256};
        let (mut send, mut recv) = stream;
        let sending = async {
            let (mut hash, mut n) = (Context::new(&SHA256), 0u64);
            while n < 64 << 20 {
                let block: Vec<u8> =
                    (0..8192u64).flat_map(|i| (n + i).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()).collect();
                hash.update(&block);
                n += block.len() as u64;
                send.send(&block).await.unwrap();
            }
            send.finish();
            hash.finish().as_ref().to_vec()
        };
        let receiving = async {
            let mut hash = Context::new(&SHA256);
            while let Some(data) = recv.recv().await.unwrap() {
                hash.update(&data);
            }
            hash.finish().as_ref().to_vec()
        };
        tokio::join!(sending, receiving)
    }
    let (connection, _driver, mut server) = tunnel(&Config::default()).await;
    let far = tokio::spawn(async move {
        let stream = server.accept().await.unwrap().unwrap().accept(None).unwrap().split();
        let done = tokio::spawn(transfer(stream));
        tokio::spawn(async move { server.accept().await.map(drop) });
        done.await.unwrap()
    });
    let (near_sent, near_received) = transfer(open(&connection).await).await;
    let (far_sent, far_received) = far.await.unwrap();
    assert!(near_sent == far_received && far_sent == near_received);
}

#[tokio::test]
async fn twenty_stuck_readers_do_not_slow_a_quick_one() {
    let (connection, _driver, mut server) = tunnel(&Config::default()).await;
    let (stuck_tx, mut stuck) = tokio::sync::mpsc::unbounded_channel();
    let _server = tokio::spawn(async move {
        while let Some(request) = server.accept().await {
            let request = request.unwrap();
            let quick = request.head().authority == "10.0.0.1:2";
            let (send, recv) = request.accept(None).unwrap().split();
            match quick {
                true => drop(tokio::spawn(echo(send, recv))),
                // Held, never read.
                false => stuck_tx.send((send, recv)).unwrap(),
            }
        }
    });
    let mut senders = Vec::new();
    for _ in 0..20 {
        let (mut send, recv) = open(&connection).await;
        // Fill the window until no credit comes any more.
        assert_eq!(fill(&mut send).await, 256 << 10);
        senders.push((send, recv));
    }
    let (_, stream) = connection.open(&Head::to("10.0.0.1:2"), LONG, None).await.unwrap();
    let (mut send, mut recv) = stream.split();
    let data = vec![7; 32 << 20];
    let sending = async {
        send.send(&data).await.unwrap();
        send.finish();
    };
    let ((), echoed) = timeout(LONG, async { tokio::join!(sending, read_to_end(&mut recv)) }).await.unwrap();
    assert!(echoed.unwrap() == data);
    // And a stuck one goes on where it stopped.
    let (_late_send, mut late) = stuck.recv().await.unwrap();
    let first = late.recv().await.unwrap().unwrap();
    let mut seen = first.len();
    while seen < 256 << 10 {
        seen += late.recv().await.unwrap().unwrap().len();
    }
    timeout(LONG, senders[0].0.ready()).await.unwrap().unwrap();
}

#[tokio::test]
async fn credit_is_what_the_reader_gave_back() {
    let config = Config { first_window: 64 << 10, stream_window: 64 << 10, ..Config::default() };
    let (_connection, (mut send, _recv), (_far_send, mut far), _drivers) = stream(&config).await;
    assert_eq!(fill(&mut send).await, 64 << 10);
    let mut seen = 0;
    while seen < 32 << 10 {
        seen += far.recv().await.unwrap().unwrap().len();
    }
    timeout(LONG, send.ready()).await.unwrap().unwrap();
    assert_eq!(fill(&mut send).await, seen);
}

#[tokio::test]
async fn the_window_grows_with_what_a_reader_takes() {
    let (_connection, (mut send, _recv), (_far_send, mut far), _drivers) = stream(&Config::default()).await;
    let data = vec![0; 16 << 20];
    let sending = async { send.send(&data).await.unwrap() };
    let receiving = async {
        let mut seen = 0;
        while seen < data.len() {
            seen += far.recv().await.unwrap().unwrap().len();
        }
    };
    tokio::join!(sending, receiving);
    // Less than half a window may be taken and not told yet.
    let window = fill(&mut send).await;
    assert!(window > 2 << 20 && window <= 4 << 20, "{window}");
}

/// Sends until no credit is left, and says how much that was.
async fn fill(send: &mut mesh_net::tunnel::stream::SendHalf) -> usize {
    let mut sent = 0;
    while let Ok(ready) = timeout(Duration::from_millis(300), send.ready()).await {
        ready.unwrap();
        let filled = send.send_from(usize::MAX, |places| {
            let bytes = places.iter().map(|place| place.len()).sum();
            Ok(mesh_net::tunnel::stream::Filled { bytes, end: false })
        });
        sent += filled.unwrap().unwrap().bytes;
    }
    sent
}

#[tokio::test]
async fn the_peers_stream_limit_is_respected_and_freed() {
    let config = Config { max_streams: 3, ..Config::default() };
    let (client, server) = crate::pair::encrypted(&crate::pair::Mesh::new()).await;
    let ours = Config::default();
    let (connection, driver) = client::Connection::new(client, &ours);
    tokio::spawn(driver);
    let _server = serve(server::Connection::handshake(server, &config).await.unwrap(), echo);
    let mut open_streams = vec![open(&connection).await];
    assert_eq!((connection.available(), connection.in_use()), (2, 1));
    open_streams.push(open(&connection).await);
    open_streams.push(open(&connection).await);
    assert_eq!((connection.available(), connection.in_use()), (0, 3));
    let fourth = connection.open(&Head::to("10.0.0.1:80"), Duration::from_millis(100), None).await.map(drop);
    assert_eq!(fourth, Err(OpenError::Timeout(Duration::from_millis(100))));
    open_streams.pop();
    assert_eq!(connection.in_use(), 2);
    open_streams.push(timeout(LONG, open(&connection)).await.unwrap());
    assert!(!connection.is_closed());
}

/// A splice holds these for as long as a connection is idle: 10,000 idle streams are to cost kilobytes each at most.
#[tokio::test]
async fn idle_streams_are_small() {
    let (connection, _driver, server) = tunnel(&Config::default()).await;
    let _server = serve(server, echo);
    let head = Head::to("10.0.0.1:80");
    let opening = connection.open(&head, LONG, None);
    assert!(size_of_val(&opening) <= 512, "open: {}", size_of_val(&opening));
    let (mut send, mut recv) = opening.await.unwrap().1.split();
    assert!(size_of_val(&send) + size_of_val(&recv) <= 64, "{} + {}", size_of_val(&send), size_of_val(&recv));
    let ready = size_of_val(&send.ready());
    let (recv, closed) = (size_of_val(&recv.recv()), size_of_val(&send.closed_by_peer()));
    assert!(ready.max(recv) <= 64 && closed <= 192, "ready {ready}, recv {recv}, closed_by_peer {closed}");
}

#[tokio::test]
async fn connections_are_small_futures() {
    let (client, server) = crate::pair::encrypted(&crate::pair::Mesh::new()).await;
    let config = Config::default();
    let (_connection, driver) = client::Connection::new(client, &config);
    let size = size_of_val(&driver);
    tokio::spawn(driver);
    let mut server = server::Connection::handshake(server, &config).await.unwrap();
    let (driver, accepting) = (size, size_of_val(&server.accept()));
    assert!(driver <= 4160 && accepting <= 64, "driver {driver}, accept {accepting}");
}

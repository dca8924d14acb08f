//! Lanes: one stream after the other over one connection.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use mesh_net::tls::{ALPN_H2, ALPN_WEFT};
use mesh_net::tunnel::Config;
use mesh_net::tunnel::client::{self, Berth, Lane, OpenError, Tunnel};
use mesh_net::tunnel::head::{Baggage, Forwarded, Head};
use mesh_net::tunnel::server::{self, Status};
use mesh_net::tunnel::stream::StreamError;
use tokio::time::timeout;

use crate::pair::{Halves, LONG, Mesh, echo, handshake_over, id, read_to_end};

/// What an agent of Weft offers and takes, best first.
const BOTH: &[&[u8]] = &[ALPN_WEFT, ALPN_H2];

/// Free lanes of the client.
#[derive(Default)]
struct Free(Mutex<Vec<Lane>>);

impl Berth for Free {
    fn back(&self, lane: Lane) {
        self.0.lock().unwrap().push(lane);
    }
}

impl Free {
    fn take(&self) -> Option<Lane> {
        self.0.lock().unwrap().pop()
    }
}

async fn lane() -> (Lane, server::Connection) {
    let mesh = Mesh::new();
    let (client, server) = handshake_over(&mesh.web, &mesh.db, &[id("db")], [BOTH, BOTH]).await;
    let Tunnel::Lane(lane) = client::begin(client.unwrap(), &Config::default()) else {
        panic!("no lane was agreed on")
    };
    let server = server::Connection::handshake(server.unwrap(), &Config::default()).await.unwrap();
    assert!(server.is_lane());
    (lane, server)
}

/// A stream over `lane`, both ends in hand.
async fn stream(lane: Lane, free: &Arc<Free>, server: &mut server::Connection) -> (Halves, Halves) {
    let head = Head::to("10.0.0.1:80");
    let (opened, far) = tokio::join!(lane.open(&head, LONG, None, free.clone()), async {
        server.accept().await.unwrap().unwrap().accept(None).unwrap()
    });
    (opened.unwrap().1.split(), far.split())
}

#[tokio::test]
async fn streams_follow_one_another_over_one_connection() {
    let (mut lane, mut server) = lane().await;
    let free = Arc::new(Free::default());
    let serving = tokio::spawn(async move {
        let mut served = 0;
        while let Some(request) = server.accept().await {
            let (send, recv) = request.unwrap().accept(None).unwrap().split();
            echo(send, recv).await;
            served += 1;
        }
        served
    });
    for size in [0, 1, 16_379, 16_380, 16_381, 200_000, 3_000_000, 5] {
        assert!(lane.is_usable());
        let (_, stream) = lane.open(&Head::to("10.0.0.1:80"), LONG, None, free.clone()).await.unwrap();
        let (mut send, mut recv) = stream.split();
        let data: Vec<u8> = (0..size).map(|at: usize| ((at * 31) >> 3) as u8).collect();
        let sending = async {
            send.send(&data).await.unwrap();
            send.finish();
        };
        let ((), heard) = tokio::join!(sending, read_to_end(&mut recv));
        assert!(heard.unwrap() == data, "{size}");
        assert!(free.take().is_none(), "the stream is still held");
        drop((send, recv));
        lane = free.take().expect("both sides have ended");
    }
    lane.leave();
    assert_eq!(serving.await.unwrap(), 8);
}

#[tokio::test]
async fn heads_replies_and_refusals_say_what_hbone_says() {
    let (lane, mut server) = lane().await;
    let free = Arc::new(Free::default());
    let head = Head {
        authority: "[2001:db8::1]:5432".to_owned(),
        baggage: Some(Baggage { cluster: Some("c1".to_owned()), ..Baggage::default() }),
        forwarded: Some(Forwarded { for_: "10.1.2.3:4711".parse().unwrap(), host: Some("db.shop:5432".to_owned()) }),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    };
    let reply = Baggage { namespace: Some("shop".to_owned()), ..Baggage::default() };
    assert_eq!(lane.peer(), &id("db"));
    let (opened, far) = tokio::join!(lane.open(&head, LONG, None, free.clone()), async {
        let request = server.accept().await.unwrap().unwrap();
        assert_eq!((request.head(), request.peer(), request.ignored_headers()), (&head, &id("web"), 0));
        request.accept(Some(&reply)).unwrap()
    });
    let (answer, stream) = opened.unwrap();
    assert_eq!(answer.baggage, Some(reply));
    for (mut send, recv) in [stream.split(), far.split()] {
        send.finish();
        std::mem::forget(recv);
    }

    let (mut lane, mut server) = self::lane().await;
    for status in [Status::BadRequest, Status::Denied, Status::Unavailable] {
        let head = Head::to("10.0.0.1:80");
        let (opened, ()) = tokio::join!(lane.open(&head, LONG, None, free.clone()), async {
            server.accept().await.unwrap().unwrap().refuse(status);
        });
        assert_eq!(opened.map(drop), Err(OpenError::Refused { status: status.code() }));
        lane = free.take().expect("a refusal costs no connection");
    }
    let unsendable = lane.open(&Head::to("10.0.0.1"), LONG, None, free).await.map(drop);
    assert_eq!(unsendable, Err(OpenError::Head("10.0.0.1".to_owned())));
}

#[tokio::test]
async fn the_next_stream_may_be_asked_for_before_the_server_has_let_go_of_the_last_one() {
    let (lane, mut server) = lane().await;
    let free = Arc::new(Free::default());
    let ((mut send, mut recv), (mut far_send, mut far_recv)) = stream(lane, &free, &mut server).await;
    far_send.finish();
    assert_eq!(read_to_end(&mut recv).await.unwrap(), b"");
    send.finish();
    drop((send, recv));
    let lane = free.take().expect("both sides have ended");
    let head = Head::to("10.0.0.2:80");
    let asking = lane.open(&head, LONG, None, free.clone());
    let (opened, ()) = tokio::join!(asking, async {
        // What ends the first stream and what asks for the second come together.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(read_to_end(&mut far_recv).await.unwrap(), b"");
        drop((far_send, far_recv));
        let request = timeout(LONG, server.accept()).await.unwrap().expect("the lane goes on").unwrap();
        assert_eq!(request.head().authority, "10.0.0.2:80");
        request.refuse(Status::Unavailable);
    });
    assert_eq!(opened.map(drop), Err(OpenError::Refused { status: 503 }));
}

#[tokio::test]
async fn half_close_ends_one_direction_only() {
    for client_first in [true, false] {
        let (lane, mut server) = lane().await;
        let free = Arc::new(Free::default());
        let (near, far) = stream(lane, &free, &mut server).await;
        let ((mut send, mut recv), (mut late_send, mut late_recv)) =
            if client_first { (near, far) } else { (far, near) };
        send.send(b"ask").await.unwrap();
        send.finish();
        assert_eq!(read_to_end(&mut late_recv).await.unwrap(), b"ask");
        for _ in 0..100 {
            late_send.send(b"0123456789").await.unwrap();
        }
        late_send.finish();
        assert_eq!(read_to_end(&mut recv).await.unwrap().len(), 1000);
    }
}

#[tokio::test]
async fn what_was_sent_before_a_reset_is_heard_before_it_and_the_lane_is_closed() {
    for client_first in [true, false] {
        for how in ["reset", "dropped"] {
            let (lane, mut server) = lane().await;
            let free = Arc::new(Free::default());
            let (near, far) = stream(lane, &free, &mut server).await;
            let ((mut send, gone), (late_send, mut late_recv)) = if client_first { (near, far) } else { (far, near) };
            send.send(b"last words").await.unwrap();
            if how == "reset" {
                send.reset()
            } else {
                drop(send)
            }
            drop(gone);
            assert_eq!(late_recv.recv().await.unwrap().as_deref(), Some(&b"last words"[..]));
            assert_eq!(timeout(LONG, late_recv.recv()).await.unwrap(), Err(StreamError::Reset));
            drop((late_send, late_recv));
            assert!(free.take().is_none());
            assert!(timeout(LONG, server.accept()).await.unwrap().is_none());
        }
    }
}

#[tokio::test]
async fn a_lost_connection_ends_the_stream_and_says_so() {
    let (lane, mut server) = lane().await;
    let free = Arc::new(Free::default());
    let ((_send, mut recv), far) = stream(lane, &free, &mut server).await;
    std::mem::forget(far.0);
    // The other end goes without a word, as with a process that is killed.
    drop(far.1);
    assert!(timeout(LONG, recv.recv()).await.unwrap().is_err());
}

#[tokio::test]
async fn a_server_that_leaves_is_noticed_before_and_while_asking() {
    let (mut lane, mut server) = lane().await;
    server.drain();
    assert!(server.accept().await.is_none());
    timeout(LONG, async {
        while lane.is_usable() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();

    let (lane, mut server) = self::lane().await;
    let head = Head::to("10.0.0.1:80");
    let (opened, ()) = tokio::join!(lane.open(&head, LONG, None, Arc::new(Free::default())), async {
        server.accept().await.unwrap().unwrap().decline();
    });
    assert_eq!(opened.map(drop), Err(OpenError::GoAway));
    assert!(server.accept().await.is_none());

    let (lane, server) = self::lane().await;
    drop(server);
    let opened = lane.open(&head, LONG, None, Arc::new(Free::default())).await;
    assert_eq!(opened.map(drop), Err(OpenError::ConnectionLost));
}

#[tokio::test]
async fn a_lane_that_drains_finishes_its_stream() {
    let (lane, mut server) = lane().await;
    let free = Arc::new(Free::default());
    let ((mut send, mut recv), (far_send, far_recv)) = stream(lane, &free, &mut server).await;
    server.drain();
    let serving = tokio::spawn(async move { server.accept().await.is_none() });
    let echoing = tokio::spawn(echo(far_send, far_recv));
    send.send(b"still here").await.unwrap();
    send.finish();
    assert_eq!(read_to_end(&mut recv).await.unwrap(), b"still here");
    echoing.await.unwrap();
    assert!(timeout(LONG, serving).await.unwrap().unwrap());
    drop((send, recv));
    let mut lane = free.take().expect("both sides have ended");
    timeout(LONG, async {
        while lane.is_usable() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_slow_reader_holds_its_sender_back_and_loses_nothing() {
    let (lane, mut server) = lane().await;
    let ((mut send, _recv), (_far_send, mut far)) = stream(lane, &Arc::new(Free::default()), &mut server).await;
    let data: Vec<u8> = (0..64 << 20).map(|at: usize| (at.wrapping_mul(0x9E37_79B9) >> 13) as u8).collect();
    let hash = |bytes: &[u8]| {
        let mut context = Context::new(&SHA256);
        context.update(bytes);
        context.finish().as_ref().to_vec()
    };
    // Nobody reads: what the sockets hold is all that leaves.
    let mut sent = 0;
    while let Ok(ready) = timeout(Duration::from_millis(200), send.ready()).await {
        ready.unwrap();
        let some = &data[sent..sent + 65_536];
        send.send(some).await.unwrap();
        sent += some.len();
        assert!(sent < 32 << 20, "nothing holds the sender back");
    }
    let rest = &data[sent..];
    let sending = async {
        send.send(rest).await.unwrap();
        send.finish();
    };
    let ((), heard) = tokio::join!(sending, read_to_end(&mut far));
    assert_eq!(hash(&heard.unwrap()), hash(&data));
}

#[tokio::test]
async fn a_peer_that_knows_no_lanes_gets_hbone() {
    let mesh = Mesh::new();
    let (client, server) = handshake_over(&mesh.web, &mesh.db, &[id("db")], [BOTH, &[ALPN_H2]]).await;
    let begun = client::begin(client.unwrap(), &Config::default());
    assert!(matches!(begun, Tunnel::Shared(..)));
    drop(server);
}

//! How streams and connections end.

use std::pin::pin;
use std::time::Duration;

use mesh_net::tls::{self, ALPN_H2, TrustDomains};
use mesh_net::tunnel::client::OpenError;
use mesh_net::tunnel::head::Head;
use mesh_net::tunnel::stream::StreamError;
use mesh_net::tunnel::{Config, ConnectionError, client, server};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::pair::{Halves, LONG, Mesh, echo, encrypted, id, open, read_to_end, serve, stream, tunnel};

#[tokio::test]
async fn half_close_ends_one_direction_only() {
    for client_first in [true, false] {
        let (_connection, near, far, _drivers) = stream(&Config::default()).await;
        let ((mut send, mut recv), (mut late_send, mut late_recv)) =
            if client_first { (near, far) } else { (far, near) };
        send.send(b"ask").await.unwrap();
        send.finish();
        send.finish();
        assert_eq!(read_to_end(&mut late_recv).await.unwrap(), b"ask");
        drop(send);
        for _ in 0..100 {
            late_send.send(b"0123456789").await.unwrap();
        }
        late_send.send(b"!").await.unwrap();
        late_send.finish();
        assert_eq!(read_to_end(&mut recv).await.unwrap().len(), 1001);
    }
}

#[tokio::test]
async fn reset_reaches_the_other_ends_reader_and_writer() {
    type End = fn(Halves);
    let ends: [(&str, End); 4] = [
        ("reset", |(send, _recv)| send.reset()),
        ("both dropped", drop),
        ("sender dropped", |(send, recv)| {
            drop(send);
            std::mem::forget(recv);
        }),
        ("reader dropped", |(send, recv)| {
            drop(recv);
            std::mem::forget(send);
        }),
    ];
    for (how, end) in ends {
        for client_first in [true, false] {
            let (_connection, near, far, _drivers) = stream(&Config::default()).await;
            let (gone, (mut send, mut recv)) = if client_first { (near, far) } else { (far, near) };
            end(gone);
            assert_eq!(timeout(LONG, send.closed_by_peer()).await.unwrap(), StreamError::Reset, "{how}");
            assert_eq!(timeout(LONG, recv.recv()).await.unwrap(), Err(StreamError::Reset), "{how}");
            assert_eq!(timeout(LONG, send.ready()).await.unwrap(), Err(StreamError::Reset), "{how}");
            assert_eq!(send.send(b"x").await, Err(StreamError::Reset), "{how}");
        }
    }
}

#[tokio::test]
async fn finished_streams_dropped_at_once_still_deliver() {
    let (connection, _driver, server) = tunnel(&Config::default()).await;
    let _server = serve(server, |mut send, mut recv| async move {
        assert_eq!(recv.recv().await.unwrap(), None);
        send.send(&vec![9; 1 << 20]).await.unwrap();
        send.finish();
    });
    let (mut send, mut recv) = open(&connection).await;
    send.finish();
    drop(send);
    assert_eq!(read_to_end(&mut recv).await.unwrap().len(), 1 << 20);
}

/// A slow reader, and a peer that is to leave as soon as it has said its last word. Its socket takes little of that at once, and closing
/// it with something unread, such as the next question, would tear up the rest.
#[tokio::test]
async fn a_connection_that_ends_behind_its_last_stream_delivers_that_stream() {
    let (config, mesh) = (Config::default(), Mesh::new());
    let (dialled, accepted) = narrow_sockets().await;
    let (domains, expected) = (TrustDomains::only("cluster.local"), [id("db")]);
    let (client, server) = tokio::join!(
        tls::connect(dialled, &mesh.web, &expected, &[ALPN_H2], LONG),
        tls::accept(accepted, &mesh.db, &domains, &[ALPN_H2], LONG)
    );
    let (connection, driver) = client::Connection::new(client.unwrap(), &config);
    let mut driver = pin!(driver);
    let said = vec![7; 120 << 10];
    let (ended, heard) = tokio::sync::oneshot::channel();
    let serving = tokio::spawn({
        let said = said.clone();
        async move {
            let mut server = server::Connection::handshake(server.unwrap(), &Config::default()).await.unwrap();
            let (mut send, mut recv) = server.accept().await.unwrap().unwrap().accept(None).unwrap().split();
            tokio::select! {
                _ = server.accept() => panic!("nothing more is asked for yet"),
                end = recv.recv() => assert_eq!(end.unwrap(), None),
            }
            ended.send(()).unwrap();
            // The next question comes and is not read.
            tokio::time::sleep(Duration::from_millis(100)).await;
            send.send(&said).await.unwrap();
            send.finish();
            drop((send, recv));
            server.drain();
            assert!(server.accept().await.is_none());
        }
    });
    let head = Head::to("10.0.0.1:80");
    let (mut send, mut recv) = tokio::select! {
        opened = connection.open(&head, LONG, None) => opened.unwrap().1.split(),
        _ = &mut driver => panic!("the peer goes on"),
    };
    send.finish();
    heard.await.unwrap();
    // The client reads nothing, and asks for more.
    let mut next = pin!(connection.open(&head, LONG, None));
    assert!(timeout(Duration::from_millis(300), &mut next).await.is_err());
    assert!(!serving.is_finished(), "it waits until its last words have been taken");
    let (read, next, _) = tokio::join!(read_to_end(&mut recv), next, async {
        let ended = timeout(LONG, driver).await.unwrap();
        assert!(ended.is_ok(), "{ended:?}");
    });
    assert!(read.unwrap() == said);
    assert_eq!(next.map(drop), Err(OpenError::GoAway));
    timeout(LONG, serving).await.unwrap().unwrap();
}

/// Sockets that take a few KiB at once.
async fn narrow_sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let to = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(socket.connect(to), listener.accept());
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap().0);
    socket2::SockRef::from(&accepted).set_send_buffer_size(4 << 10).unwrap();
    (dialled, accepted)
}

#[tokio::test]
async fn drain_at_the_server_refuses_new_streams_and_finishes_old_ones() {
    let (connection, driver, mut server) = tunnel(&Config::default()).await;
    let (drain, mut drained) = tokio::sync::oneshot::channel();
    let accepting = tokio::spawn(async move {
        let mut draining = false;
        loop {
            tokio::select! {
                request = server.accept() => match request {
                    Some(request) => {
                        let (send, recv) = request.unwrap().accept(None).unwrap().split();
                        tokio::spawn(echo(send, recv));
                    }
                    None => return,
                },
                Ok(()) = &mut drained, if !draining => {
                    draining = true;
                    server.drain();
                }
            }
        }
    });
    let (mut send, mut recv) = open(&connection).await;
    send.send(b"before ").await.unwrap();
    drain.send(()).unwrap();
    timeout(LONG, async {
        while !connection.is_closed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(connection.available(), 0);
    let refused = connection.open(&Head::to("10.0.0.1:80"), LONG, None).await.map(drop);
    assert_eq!(refused, Err(OpenError::GoAway));
    send.send(b"after").await.unwrap();
    send.finish();
    assert_eq!(read_to_end(&mut recv).await.unwrap(), b"before after");
    timeout(LONG, accepting).await.unwrap().unwrap();
    timeout(LONG, driver).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn drain_at_the_client_lets_streams_finish_and_ends_the_connection() {
    let (connection, driver, server) = tunnel(&Config::default()).await;
    let server = serve(server, echo);
    let (mut send, mut recv) = open(&connection).await;
    connection.drain();
    assert!(connection.is_closed() && connection.available() == 0 && connection.in_use() == 1);
    assert_eq!(connection.open(&Head::to("10.0.0.1:80"), LONG, None).await.map(drop), Err(OpenError::GoAway));
    drop(connection);
    send.send(b"still here").await.unwrap();
    send.finish();
    assert_eq!(read_to_end(&mut recv).await.unwrap(), b"still here");
    drop((send, recv));
    timeout(LONG, driver).await.unwrap().unwrap().unwrap();
    timeout(LONG, server).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_lost_connection_ends_streams_and_says_so() {
    let (connection, (mut send, mut recv), far, [driver, server]) = stream(&Config::default()).await;
    server.abort();
    let _ = server.await;
    assert_eq!(timeout(LONG, recv.recv()).await.unwrap(), Err(StreamError::ConnectionLost));
    assert_eq!(timeout(LONG, send.closed_by_peer()).await.unwrap(), StreamError::ConnectionLost);
    assert_eq!(send.send(b"x").await, Err(StreamError::ConnectionLost));
    let (_far_send, mut far_recv) = far;
    assert_eq!(timeout(LONG, far_recv.recv()).await.unwrap(), Err(StreamError::ConnectionLost));
    assert!(timeout(LONG, driver).await.unwrap().unwrap().is_err());
    assert!(connection.is_closed());
}

#[tokio::test]
async fn a_stream_asked_for_but_unanswered_is_lost_with_the_connection() {
    let (connection, _driver, mut server) = tunnel(&Config::default()).await;
    let opening = tokio::spawn(async move { connection.open(&Head::to("10.0.0.1:80"), LONG, None).await.map(drop) });
    let request = server.accept().await.unwrap().unwrap();
    drop(server);
    assert_eq!(opening.await.unwrap(), Err(OpenError::ConnectionLost));
    drop(request);
}

#[tokio::test]
async fn a_request_that_is_dropped_is_a_reset() {
    let (connection, _driver, mut server) = tunnel(&Config::default()).await;
    let accepting = async {
        drop(server.accept().await.unwrap().unwrap());
        timeout(Duration::from_millis(500), server.accept()).await.map(drop)
    };
    let head = Head::to("10.0.0.1:80");
    let (opened, _) = tokio::join!(connection.open(&head, LONG, None), accepting);
    assert_eq!(opened.map(drop), Err(OpenError::Reset));
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up() {
    // The accepting end never answers: nobody polls it.
    let config = Config::default();
    let (client, server) = encrypted(&crate::pair::Mesh::new()).await;
    let (_connection, driver) = client::Connection::new(client, &config);
    let started = tokio::time::Instant::now();
    let ended = driver.await;
    assert!(matches!(ended, Err(ConnectionError::Timeout(_))), "{ended:?}");
    let waited = started.elapsed();
    assert!(waited >= Duration::from_secs(30) && waited < Duration::from_secs(35), "{waited:?}");
    drop(server);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_pings_is_kept_for_hours() {
    let (connection, driver, server) = tunnel(&Config::default()).await;
    let server = serve(server, echo);
    let (mut send, mut recv) = open(&connection).await;
    // Paused time only moves when nothing else can happen, so that every PING is answered in time.
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    assert!(!driver.is_finished() && !server.is_finished());
    send.send(b"awake").await.unwrap();
    send.finish();
    assert_eq!(read_to_end(&mut recv).await.unwrap(), b"awake");
}

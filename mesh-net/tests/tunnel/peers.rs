//! HBONE with another implementation of HTTP/2 as the other end, in both roles.

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode, Uri};
use mesh_net::tls::raw::Raw;
use mesh_net::tunnel::client::OpenError;
use mesh_net::tunnel::head::{Baggage, Forwarded, Head};
use mesh_net::tunnel::server::Status;
use mesh_net::tunnel::stream::StreamError;
use mesh_net::tunnel::{Config, client, server};
use tokio::time::timeout;

use crate::pair::{LONG, Mesh, echo, encrypted, open, read_to_end, serve};

fn words(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(0x9E37_79B9) >> 11) as u8).collect()
}

/// Returns what comes on a stream of theirs, in pieces that they choose.
async fn their_echo(mut send: SendStream<Bytes>, mut recv: RecvStream) {
    while let Some(Ok(mut data)) = recv.data().await {
        let _ = recv.flow_control().release_capacity(data.len());
        while !data.is_empty() {
            send.reserve_capacity(data.len().min(70_000));
            let Some(Ok(_)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return };
            let some = data.split_to(send.capacity().min(data.len()));
            if send.send_data(some, false).is_err() {
                return;
            }
        }
    }
    let _ = send.send_data(Bytes::new(), true);
}

/// Their server, whose answer to an authority is its port: an echo for 80, else that status; 1 resets, 2 sends no answer.
async fn their_server(raw: Raw, builder: h2::server::Builder) {
    let mut connection = builder.handshake::<_, Bytes>(raw).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        assert_eq!(request.method(), Method::CONNECT);
        let port = request.uri().authority().unwrap().port_u16().unwrap();
        let reply = |status: u16| Response::builder().status(status).header("baggage", "k8s.namespace.name=shop");
        match port {
            80 => {
                let send = respond.send_response(reply(200).body(()).unwrap(), false).unwrap();
                tokio::spawn(their_echo(send, request.into_body()));
            }
            1 => respond.send_reset(Reason::REFUSED_STREAM),
            2 => respond.send_reset(Reason::INTERNAL_ERROR),
            3 => {
                let mut send = respond.send_response(reply(200).body(()).unwrap(), false).unwrap();
                send.send_data(Bytes::from_static(b"last words"), false).unwrap();
                let mut body = request.into_body();
                tokio::spawn(async move {
                    let _ = body.data().await;
                    send.send_reset(Reason::CANCEL);
                });
            }
            status => drop(respond.send_response(reply(status).body(()).unwrap(), true)),
        }
    }
}

async fn to_their_server(builder: h2::server::Builder) -> client::Connection {
    let (client, server) = encrypted(&Mesh::new()).await;
    tokio::spawn(their_server(server.into(), builder));
    let (connection, driver) = client::Connection::new(client, &Config::default());
    tokio::spawn(driver);
    connection
}

#[tokio::test]
async fn their_server_serves_our_client_with_windows_of_every_size() {
    for (window, frame) in [(1_000, 16_384), (65_535, 16_384), (4 << 20, 1 << 20)] {
        let mut builder = h2::server::Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(window.max(65_535)).max_frame_size(frame);
        let connection = to_their_server(builder).await;
        for size in [0, 1, 999, 1_001, 16_375, 16_376, 100_000, 8 << 20] {
            let (mut send, mut recv) = open(&connection).await;
            let data = words(size);
            let sending = async {
                send.send(&data).await.unwrap();
                send.finish();
            };
            let ((), heard) = timeout(LONG, async { tokio::join!(sending, read_to_end(&mut recv)) }).await.unwrap();
            assert!(heard.unwrap() == data, "{size} bytes with windows of {window}");
        }
    }
}

#[tokio::test]
async fn their_servers_answers_are_told_apart() {
    let connection = to_their_server(h2::server::Builder::new()).await;
    let ask = async |port: u16| connection.open(&Head::to(format!("10.0.0.1:{port}")), LONG, None).await;
    assert_eq!(ask(80).await.unwrap().0.baggage.unwrap().namespace.as_deref(), Some("shop"));
    assert_eq!(ask(401).await.map(drop), Err(OpenError::Refused { status: 401 }));
    assert_eq!(ask(503).await.map(drop), Err(OpenError::Refused { status: 503 }));
    assert_eq!(ask(1).await.map(drop), Err(OpenError::GoAway), "a refused stream may be asked for elsewhere");
    assert_eq!(ask(2).await.map(drop), Err(OpenError::Reset));
    let (mut send, mut recv) = ask(3).await.unwrap().1.split();
    assert_eq!(recv.recv().await.unwrap().as_deref(), Some(&b"last words"[..]));
    send.send(b"now").await.unwrap();
    assert_eq!(timeout(LONG, recv.recv()).await.unwrap(), Err(StreamError::Reset));
    assert_eq!(timeout(LONG, send.closed_by_peer()).await.unwrap(), StreamError::Reset);
    drop((send, recv));
    assert_eq!(connection.in_use(), 0);
}

#[tokio::test]
async fn many_streams_at_once_through_their_server() {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(200_000).max_concurrent_streams(20);
    let connection = to_their_server(builder).await;
    // Until its SETTINGS have come, more may be asked for than it takes.
    drop(open(&connection).await);
    let streams: Vec<_> = (0..60)
        .map(|number| {
            let connection = connection.clone();
            tokio::spawn(async move {
                let (mut send, mut recv) = open(&connection).await;
                let data = words(200_000 + number);
                let sending = async {
                    send.send(&data).await.unwrap();
                    send.finish();
                };
                let ((), heard) = tokio::join!(sending, read_to_end(&mut recv));
                assert!(heard.unwrap() == data, "stream {number}");
            })
        })
        .collect();
    for stream in streams {
        timeout(LONG, stream).await.unwrap().unwrap();
    }
}

/// Our server, and their client that asks it.
async fn their_client(builder: h2::client::Builder) -> h2::client::SendRequest<Bytes> {
    let (client, server) = encrypted(&Mesh::new()).await;
    tokio::spawn(async move {
        let server = server::Connection::handshake(server, &Config::default()).await.unwrap();
        serve(server, echo).await.unwrap()
    });
    let (sender, connection) = builder.handshake(Raw::from(client)).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

fn connect(authority: &str) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::try_from(authority).unwrap();
    request
}

#[tokio::test]
async fn our_server_serves_their_client_with_windows_of_every_size() {
    for (window, frame) in [(1_000, 16_384), (65_535, 16_384), (4 << 20, 1 << 20)] {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(window.max(65_535)).max_frame_size(frame);
        let mut sender = their_client(builder).await;
        for size in [0, 1, 999, 1_001, 16_375, 16_376, 100_000, 8 << 20] {
            sender = sender.ready().await.unwrap();
            let (reply, send) = sender.send_request(connect("10.0.0.1:80"), false).unwrap();
            let (reply, data) = (reply.await.unwrap(), words(size));
            assert_eq!(reply.status(), StatusCode::OK);
            let mut body = reply.into_body();
            let sending = their_words(send, data.clone().into());
            let receiving = async {
                let mut heard = Vec::new();
                while let Some(some) = body.data().await {
                    let some = some.unwrap();
                    body.flow_control().release_capacity(some.len()).unwrap();
                    heard.extend_from_slice(&some);
                }
                heard
            };
            let ((), heard) = timeout(LONG, async { tokio::join!(sending, receiving) }).await.unwrap();
            assert!(heard == data, "{size} bytes with windows of {window}");
        }
    }
}

async fn their_words(mut send: SendStream<Bytes>, mut data: Bytes) {
    while !data.is_empty() {
        send.reserve_capacity(data.len().min(70_000));
        std::future::poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
        let some = data.split_to(send.capacity().min(data.len()));
        send.send_data(some, false).unwrap();
    }
    send.send_data(Bytes::new(), true).unwrap();
}

#[tokio::test]
async fn heads_survive_their_encoder_with_huffman_and_tables() {
    let (client, server) = encrypted(&Mesh::new()).await;
    let mut server = tokio::spawn(async move { server::Connection::handshake(server, &Config::default()).await });
    let (mut sender, connection) = h2::client::handshake(Raw::from(client)).await.unwrap();
    tokio::spawn(connection);
    let mut server = (&mut server).await.unwrap().unwrap();
    for number in 0..50 {
        let mut request = connect("10.0.0.1:80");
        let baggage = format!("k8s.cluster.name=c1,k8s.namespace.name=shop-{number}");
        let forwarded = format!("for=\"10.1.2.3:{}\";host=\"db.shop:5432\"", 4000 + number % 7);
        request.headers_mut().insert("baggage", baggage.parse().unwrap());
        request.headers_mut().insert("forwarded", forwarded.parse().unwrap());
        request.headers_mut().insert("x-other", "ignored".parse().unwrap());
        sender = sender.ready().await.unwrap();
        let (_reply, _send) = sender.send_request(request, false).unwrap();
        let asked = timeout(LONG, server.accept()).await.unwrap().unwrap().unwrap();
        assert_eq!(asked.head().baggage, Baggage::parse(&baggage).ok());
        assert_eq!(asked.head().forwarded, Forwarded::parse(&forwarded).ok());
        assert_eq!(asked.ignored_headers(), 0);
        asked.refuse(Status::Denied);
    }
}

#[tokio::test]
async fn their_client_hears_resets_and_farewells() {
    let (client, server) = encrypted(&Mesh::new()).await;
    let (mut sender, connection) = h2::client::handshake(Raw::from(client)).await.unwrap();
    let ended = tokio::spawn(connection);
    let mut server = server::Connection::handshake(server, &Config::default()).await.unwrap();
    let (reply, mut send) = sender.send_request(connect("10.0.0.1:80"), false).unwrap();
    let (mut ours, mut theirs) = server.accept().await.unwrap().unwrap().accept(None).unwrap().split();
    let serving = tokio::spawn(async move {
        // Moves the connection's bytes.
        server.drain();
        server.accept().await.map(drop)
    });
    let mut body = reply.await.unwrap().into_body();
    // GOAWAY leaves what is open alone.
    send.send_data(Bytes::from_static(b"ask"), false).unwrap();
    assert_eq!(theirs.recv().await.unwrap().as_deref(), Some(&b"ask"[..]));
    ours.send(b"answer").await.unwrap();
    ours.reset();
    assert_eq!(body.data().await.unwrap().unwrap(), &b"answer"[..]);
    assert_eq!(body.data().await.unwrap().unwrap_err().reason(), Some(Reason::CANCEL));
    drop((theirs, send, body, sender));
    assert!(timeout(LONG, serving).await.unwrap().unwrap().is_none());
    timeout(LONG, ended).await.unwrap().unwrap().unwrap();
}

//! Authenticated peers that speak HTTP/2 badly, on purpose: named, bounded, and nobody else notices.

use std::time::Duration;

use mesh_net::tls::raw::Raw;
use mesh_net::tunnel::{Config, ConnectionError, server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::pair::{Driver, LONG, Mesh, echo, encrypted, open, read_to_end, serve};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// HPACK without indexing: CONNECT to 10.0.0.1:80.
fn connect_block() -> Vec<u8> {
    let mut block = vec![0x02, 7];
    block.extend(b"CONNECT");
    block.extend([0x01, 11]);
    block.extend(b"10.0.0.1:80");
    block
}

fn opening() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// A serving end for one peer that then writes what it likes.
async fn victim() -> (Raw, JoinHandle<Result<(), ConnectionError>>) {
    let (client, server) = encrypted(&Mesh::new()).await;
    let serving = tokio::spawn(async move {
        let connection = server::Connection::handshake(server, &Config::default()).await?;
        serve(connection, echo).await.unwrap()
    });
    (client.into(), serving)
}

/// Writes `attack` while reading along; yields how the serving end ended.
async fn ends(attack: Vec<u8>) -> &'static str {
    let (client, serving) = victim().await;
    let (mut read, mut write) = tokio::io::split(client);
    let reader = tokio::spawn(async move { while matches!(read.read(&mut [0; 4096]).await, Ok(1..)) {} });
    let writer = tokio::spawn(async move {
        let _ = write.write_all(&attack).await;
        let _ = write.flush().await;
        write
    });
    let ended = timeout(LONG, serving).await.expect("the serving end gives up").unwrap();
    reader.abort();
    writer.abort();
    ended.map_or_else(|e| e.reason(), |()| "ok")
}

#[tokio::test]
async fn malformed_connections_end_with_a_reason_while_others_are_served() {
    let (honest, _driver, server) = crate::pair::tunnel(&Config::default()).await;
    let _server: Driver = serve(server, echo);
    let with = |bytes: Vec<u8>| [opening(), bytes].concat();
    let flood = |n: usize, each: Vec<u8>| each.repeat(n);
    let big_field = [&[0x00, 1, b'a', 0x7f, 0x81, 0xfe, 0x00][..], &[b'x'; 16384]].concat();
    let attacks: Vec<(&str, Vec<u8>)> = vec![
        ("bad preface", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()),
        ("frame above the maximum", with(frame(0, 0, 1, &vec![0; (1 << 20) + 1]))),
        ("settings of odd length", with(frame(SETTINGS, 0, 0, &[1]))),
        ("settings on a stream", with(frame(SETTINGS, 0, 1, &[]))),
        ("data on an idle stream", with(frame(0, 0, 1, b"x"))),
        ("an even stream", with(frame(HEADERS, END_HEADERS, 2, &connect_block()))),
        ("broken HPACK", with(frame(HEADERS, END_HEADERS, 1, &[0xff; 64]))),
        ("window overflow", with(frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]))),
        (
            "CONTINUATION flood",
            with([frame(HEADERS, 0, 1, &connect_block()), flood(100_000, frame(CONTINUATION, 0, 1, b""))].concat()),
        ),
        (
            "CONTINUATION flood with fields",
            with([frame(HEADERS, 0, 1, &connect_block()), flood(2000, frame(CONTINUATION, 0, 1, &big_field))].concat()),
        ),
        (
            "rapid reset",
            with(
                (0..20_000u32)
                    .flat_map(|i| {
                        [
                            frame(HEADERS, END_HEADERS, 2 * i + 1, &connect_block()),
                            frame(RST_STREAM, 0, 2 * i + 1, &[0, 0, 0, 8]),
                        ]
                        .concat()
                    })
                    .collect(),
            ),
        ),
        (
            "empty DATA flood",
            with([frame(HEADERS, END_HEADERS, 1, &connect_block()), flood(10_000, frame(0, 0, 1, b""))].concat()),
        ),
        ("PING of odd length", with(frame(PING, 0, 0, b"1234567"))),
    ];
    for (name, attack) in attacks {
        assert_eq!(ends(attack).await, "tunnel_protocol", "{name}");
        let (mut send, mut recv) = open(&honest).await;
        send.send(b"unharmed").await.unwrap();
        send.finish();
        assert_eq!(timeout(LONG, read_to_end(&mut recv)).await.unwrap().unwrap(), b"unharmed", "{name}");
    }
}

/// Who floods and never reads is stopped by its own socket: what we owe it is bounded.
#[tokio::test]
async fn floods_that_ask_for_answers_are_bounded() {
    for (name, each) in
        [("PING", frame(PING, 0, 0, b"12345678")), ("SETTINGS", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]))]
    {
        let (mut client, serving) = victim().await;
        client.write_all(&opening()).await.unwrap();
        let block = each.repeat(4096);
        let mut written = 0;
        while written < 512 << 20 {
            match timeout(Duration::from_secs(2), client.write_all(&block)).await {
                Ok(Ok(())) => written += block.len(),
                Ok(Err(_)) | Err(_) => break,
            }
        }
        assert!(written < 64 << 20, "{name}: {written}");
        serving.abort();
    }
}

#[tokio::test]
async fn a_peer_that_says_nothing_after_tls_is_given_up() {
    let (_client, server) = encrypted(&Mesh::new()).await;
    let config = Config { handshake_timeout: Duration::from_millis(50), ..Config::default() };
    let ended = server::Connection::handshake(server, &config).await.map(drop);
    assert_eq!(ended.unwrap_err().reason(), "tunnel_timeout");
}

/// The first HEADERS or RST_STREAM frame on `stream`.
async fn answer_on(client: &mut Raw, stream: u32) -> (u8, Vec<u8>) {
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        client.read_exact(&mut payload).await.unwrap();
        if head[5..] == stream.to_be_bytes() && [HEADERS, RST_STREAM].contains(&head[3]) {
            return (head[3], payload);
        }
    }
}

#[tokio::test]
async fn requests_that_are_no_connect_are_answered_with_400() {
    let (mut client, serving) = victim().await;
    let mut get = vec![0x82, 0x87, 0x84, 0x01, 11];
    get.extend(b"10.0.0.1:80");
    let mut no_port = vec![0x02, 7];
    no_port.extend(b"CONNECT");
    no_port.extend([0x01, 8]);
    no_port.extend(b"10.0.0.1");
    client.write_all(&opening()).await.unwrap();
    for (stream, block) in [(1, get), (3, no_port)] {
        client.write_all(&frame(HEADERS, END_HEADERS, stream, &block)).await.unwrap();
        client.flush().await.unwrap();
        let (kind, payload) = timeout(LONG, answer_on(&mut client, stream)).await.unwrap();
        // Index 12 of HPACK's static table is `:status: 400`.
        assert_eq!((kind, payload[0]), (HEADERS, 0x8c));
    }
    let connect = frame(HEADERS, END_HEADERS, 5, &connect_block());
    client.write_all(&connect).await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(timeout(LONG, answer_on(&mut client, 5)).await.unwrap(), (HEADERS, vec![0x88]));
    serving.abort();
}

#[tokio::test]
async fn a_head_above_16_kib_is_refused_and_the_connection_goes_on() {
    let (mut client, serving) = victim().await;
    client.write_all(&opening()).await.unwrap();
    let mut block = connect_block();
    for _ in 0..40 {
        block.extend([0x00, 1, b'a', 0x7f, 0xf1, 0x02]);
        block.extend([b'x'; 496]);
    }
    client.write_all(&frame(HEADERS, END_HEADERS, 1, &block)).await.unwrap();
    client.flush().await.unwrap();
    let (kind, payload) = timeout(LONG, answer_on(&mut client, 1)).await.unwrap();
    assert!(kind == RST_STREAM || payload[0] != 0x88, "{kind} {payload:x?}");
    client.write_all(&frame(HEADERS, END_HEADERS, 3, &connect_block())).await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(timeout(LONG, answer_on(&mut client, 3)).await.unwrap(), (HEADERS, vec![0x88]));
    serving.abort();
}

#[tokio::test]
async fn streams_above_the_limit_are_refused() {
    let (mut client, serving) = victim().await;
    client.write_all(&opening()).await.unwrap();
    for i in 0..201u32 {
        client.write_all(&frame(HEADERS, END_HEADERS, 2 * i + 1, &connect_block())).await.unwrap();
    }
    client.flush().await.unwrap();
    let (kind, payload) = timeout(LONG, answer_on(&mut client, 401)).await.unwrap();
    // REFUSED_STREAM, RFC 9113, section 7.
    assert_eq!((kind, payload), (RST_STREAM, vec![0, 0, 0, 7]));
    serving.abort();
}

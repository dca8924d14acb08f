//! Bytes to and from a waypoint, with a clock, and frames of HTTP/2 written by hand.

use std::net::SocketAddr;
use std::time::Duration;

use http::Request;
use mesh_core::l7::destination::Destination;
use mesh_core::l7::{Layer7, PortRules, Protocol};
use mesh_net::http2::frame::{HEAD, Head, PREFACE, flag, kind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::bench::{Bench, key};

/// More than anything here takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Backends are spoken to by HTTP/1.1, whatever the client speaks.
pub(crate) fn first_only(model: &mut Layer7) {
    let plain = || Destination { protocols: [(80, Protocol::Http)].into(), ..Destination::default() };
    model.destinations = ["web", "raw"].into_iter().map(|name| (key(name), plain())).collect();
}

/// All requests go to `raw`.
pub(crate) fn to_raw(model: &mut Layer7) {
    first_only(model);
    let raw = serde_json::json!({ "service": { "service": key("raw"), "port": 80, "subset": null } });
    let routes = serde_json::json!({
        "entries": [{ "rule": 0 }],
        "rules": [{ "origin": "r", "action": { "forward": { "backends": [{ "weight": 1, "to": raw }], "otherwise": 503 } } }],
    });
    let http = Some(serde_json::from_value(routes).unwrap());
    model.ports = [(80, PortRules { protocol: Protocol::Http, http, ..PortRules::default() })].into();
}

/// Hears a request's head on each connection, says `said` and, `closes`, goes.
pub(crate) async fn raw(said: Vec<u8>, closes: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let said = said.clone();
            tokio::spawn(async move {
                let mut heard = Vec::new();
                loop {
                    match stream.read_buf(&mut heard).await {
                        Ok(some) if some > 0 => {}
                        _ => return,
                    }
                    if heard.windows(4).any(|end| end == b"\r\n\r\n") {
                        heard.clear();
                        if stream.write_all(&said).await.is_err() || closes {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

/// Another client is served meanwhile.
pub(crate) async fn neighbour(bench: &Bench) {
    let asked = bench.ask(Request::get("/").body("").unwrap());
    assert_eq!(timeout(LONG, asked).await.expect("a neighbour waits").status(), 200);
}

/// Bytes that are taken of `piece` again and again, until none is for a while or `most` are.
pub(crate) async fn taken(stream: &mut (impl AsyncWrite + Unpin), piece: &[u8], most: usize) -> usize {
    let mut taken = 0;
    while taken < most {
        match timeout(Duration::from_secs(1), stream.write(&piece[taken % piece.len()..])).await {
            Ok(Ok(some)) => taken += some,
            _ => break,
        }
    }
    taken
}

/// All that is said until the end, which has to come.
pub(crate) async fn all(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    timeout(LONG, stream.read_to_end(&mut all)).await.expect("the connection is not ended").unwrap();
    all
}

/// A stream that says `sent` while it hears all that comes until the end.
pub(crate) async fn exchange(bench: &Bench, sent: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(bench.stream().0);
    // Who is refused may not be heard to the end.
    let (_, heard) = tokio::join!(write.write_all(sent), all(&mut read));
    heard
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let head = Head { length: u32::try_from(payload.len()).unwrap(), kind, flags, stream };
    [&head.write()[..], payload].concat()
}

/// What a client says first.
pub(crate) fn hello(settings: &[u8]) -> Vec<u8> {
    [&PREFACE[..], &frame(kind::SETTINGS, 0, 0, settings)].concat()
}

/// Fields, of which no table learns.
pub(crate) fn block(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    let string = |out: &mut Vec<u8>, string: &[u8]| {
        let mut length = string.len();
        if length < 127 {
            out.push(length as u8);
        } else {
            length -= 127;
            out.push(127);
            while length >= 128 {
                out.push((length % 128) as u8 | 128);
                length /= 128;
            }
            out.push(length as u8);
        }
        out.extend_from_slice(string);
    };
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name.as_bytes());
        string(&mut block, value);
    }
    block
}

pub(crate) const GET: [(&str, &[u8]); 4] =
    [(":method", b"GET"), (":scheme", b"http"), (":authority", b"web"), (":path", b"/")];
pub(crate) const POST: [(&str, &[u8]); 4] =
    [(":method", b"POST"), (":scheme", b"http"), (":authority", b"web"), (":path", b"/")];

/// A request's head that is whole.
pub(crate) fn head(stream: u32, end: bool, fields: &[(&str, &[u8])]) -> Vec<u8> {
    let flags = flag::END_HEADERS | if end { flag::END_STREAM } else { 0 };
    frame(kind::HEADERS, flags, stream, &block(fields))
}

/// The frames in `bytes`.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<(Head, &[u8])> {
    let mut frames = Vec::new();
    while let Some((first, rest)) = bytes.split_first_chunk::<HEAD>() {
        let head = Head::read(*first);
        let Some((payload, rest)) = rest.split_at_checked(head.length as usize) else { break };
        frames.push((head, payload));
        bytes = rest;
    }
    frames
}

/// What comes until a frame that `is_last`, or the end.
pub(crate) async fn until(stream: &mut (impl AsyncRead + Unpin), is_last: impl Fn(&(Head, &[u8])) -> bool) -> Vec<u8> {
    let mut heard = Vec::new();
    let hearing = async {
        while !frames(&heard).iter().any(&is_last) {
            if stream.read_buf(&mut heard).await.unwrap() == 0 {
                break;
            }
        }
    };
    timeout(LONG, hearing).await.expect("nothing of the kind comes");
    heard
}

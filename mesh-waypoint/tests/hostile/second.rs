//! Clients that speak HTTP/2.

use std::time::Duration;

use mesh_net::http2::frame::{Code, flag, kind, setting};
use mesh_waypoint::keys::Keys;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use super::bench::{Bench, Server};
use super::support::{
    GET, LONG, POST, all, block, exchange, first_only, frame, frames, head, hello, neighbour, taken, to_raw, until,
};

/// Frames, made for each of the streams 1, 3, 5 ...
fn each(count: u32, make: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..count).flat_map(|at| make(1 + 2 * at)).collect()
}

const CANCEL: [u8; 4] = [0, 0, 0, 8];

#[tokio::test]
async fn who_breaks_the_rules_of_a_connection_is_ended() {
    let bench = Bench::new(&[], Keys::default(), first_only).await;
    let entering = [&[0x40, 1, b'x', 0x7f, 0x81, 0x1e][..], &[b'y'; 4000]].concat();
    for (name, sent, code) in [
        (
            "rapid reset",
            each(1000, |stream| [head(stream, true, &GET), frame(kind::RST_STREAM, 0, stream, &CANCEL)].concat()),
            Code::ENHANCE_YOUR_CALM,
        ),
        (
            "resets that we are made to send",
            [
                head(1, false, &POST),
                each(1000, |stream| {
                    let spoiled = frame(kind::WINDOW_UPDATE, 0, stream + 2, &[0; 4]);
                    [head(stream + 2, false, &POST), spoiled, frame(kind::DATA, 0, 1, b"x")].concat()
                }),
            ]
            .concat(),
            Code::ENHANCE_YOUR_CALM,
        ),
        (
            "endless CONTINUATION",
            [frame(kind::HEADERS, 0, 1, &block(&GET)), frame(kind::CONTINUATION, 0, 1, b"").repeat(1000)].concat(),
            Code::ENHANCE_YOUR_CALM,
        ),
        (
            "a field section without end",
            [
                frame(kind::HEADERS, 0, 1, &block(&GET)),
                frame(kind::CONTINUATION, 0, 1, &block(&[("x", &[b'y'; 16_000])])).repeat(10),
            ]
            .concat(),
            Code::ENHANCE_YOUR_CALM,
        ),
        (
            "empty DATA",
            [head(1, false, &POST), frame(kind::DATA, 0, 1, b"").repeat(2000)].concat(),
            Code::ENHANCE_YOUR_CALM,
        ),
        ("PRIORITY", frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 1]).repeat(2000), Code::ENHANCE_YOUR_CALM),
        (
            "a window that overflows",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255]).repeat(2),
            Code::FLOW_CONTROL_ERROR,
        ),
        (
            "more than a stream's window",
            [head(1, false, &POST), frame(kind::DATA, 0, 1, &[0; 60_000]).repeat(2)].concat(),
            Code::FLOW_CONTROL_ERROR,
        ),
        ("data behind the end", [head(1, true, &POST), frame(kind::DATA, 0, 1, b"more")].concat(), Code::STREAM_CLOSED),
        ("no HPACK", frame(kind::HEADERS, flag::END_HEADERS, 1, &[0xff, 0xff, 0xff]), Code::COMPRESSION_ERROR),
        ("a stream of ours", head(2, true, &GET), Code::PROTOCOL_ERROR),
        ("data of nothing", frame(kind::DATA, 0, 1, b"x"), Code::PROTOCOL_ERROR),
        // What comes behind it is read first.
        (
            "many references to a large field, and an end",
            [
                frame(
                    kind::HEADERS,
                    flag::END_HEADERS | flag::END_STREAM,
                    1,
                    &[&block(&GET)[..], &entering, &[0xbe; 50_000]].concat(),
                ),
                frame(kind::PUSH_PROMISE, 0, 1, &[]),
            ]
            .concat(),
            Code::PROTOCOL_ERROR,
        ),
    ] {
        println!("{name}");
        let heard = exchange(&bench, &[hello(&[]), sent].concat()).await;
        let last = frames(&heard).into_iter().rfind(|(head, _)| head.kind == kind::GOAWAY);
        let (_, said) = last.unwrap_or_else(|| panic!("{name}: no GOAWAY"));
        assert_eq!(said[4..8], code.0.to_be_bytes(), "{name}");
        neighbour(&bench).await;
    }
}

/// Of one connection, one after the other: what is malformed never gets to a backend.
#[tokio::test]
async fn requests_that_could_be_read_in_two_ways_are_none() {
    let bench = Bench::new(&[], Keys::default(), first_only).await;
    let with = |extra: &[(&'static str, &'static [u8])]| [&GET[..], extra].concat();
    let but = |at: usize, value: &'static [u8]| {
        let mut fields = GET;
        fields[at].1 = value;
        fields.to_vec()
    };
    for (name, fields) in [
        ("upper case", with(&[("X-A", b"1")])),
        ("connection", with(&[("connection", b"close")])),
        ("transfer-encoding", with(&[("transfer-encoding", b"chunked")])),
        ("te", with(&[("te", b"gzip")])),
        ("a line end", with(&[("x", b"1\r\nhost: evil")])),
        ("half a line end", with(&[("x", b"1\nhost: evil")])),
        ("NUL", with(&[("x", b"1\x002")])),
        ("a field in a name", with(&[("x: 1\r\ny", b"2")])),
        ("a line end in the path", but(3, b"/ HTTP/1.1\r\nx: y")),
        ("a blank in the path", but(3, b"/?a HTTP/1.1")),
        ("no path", but(3, b"")),
        ("another's path", but(3, b"http://evil/")),
        ("a line end in the host", but(2, b"web\r\nx: y")),
        ("a line in the method", but(0, b"GET / HTTP/1.1\r\nx:")),
        ("no scheme", GET.into_iter().filter(|(name, _)| *name != ":scheme").collect()),
        ("a method twice", with(&[(":method", b"POST")])),
        ("a field before", [&[("x", &b"1"[..])], &GET[..]].concat()),
        ("a status", with(&[(":status", b"200")])),
        ("a body that does not come", with(&[("content-length", b"5")])),
        ("a length that is none", with(&[("content-length", b"+0")])),
        ("two lengths", with(&[("content-length", b"0"), ("content-length", b"5")])),
        ("too much", with(&[("x", &[b'y'; 62_000])])),
    ] {
        // With an end, and with a body to come.
        for end in [true, false] {
            if name == "a body that does not come" && !end {
                continue;
            }
            let (mut stream, _) = bench.stream();
            stream.write_all(&[hello(&[]), head(1, end, &fields)].concat()).await.unwrap();
            let heard = until(&mut stream, |(head, _)| matches!(head.kind, kind::RST_STREAM | kind::HEADERS)).await;
            let (head, code) = *frames(&heard).last().unwrap();
            assert_eq!((head.kind, code), (kind::RST_STREAM, &[0, 0, 0, 1][..]), "{name}");
        }
    }
    for host in ["web evil", "me@web", "web/x", "web?x", "web#x", "web\\x"] {
        let mut fields = GET;
        fields[2].1 = host.as_bytes();
        let (mut stream, _) = bench.stream();
        stream.write_all(&[hello(&[]), head(1, true, &fields)].concat()).await.unwrap();
        let heard = until(&mut stream, |(head, _)| head.kind == kind::HEADERS).await;
        // 400, of the fixed table.
        assert_eq!(frames(&heard).last().unwrap().1[0], 0x8c, "{host}");
    }
    assert_eq!(bench.backend.count(), 0);
    neighbour(&bench).await;
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_it_says_is_no_request() {
    let bench = Bench::new(&[], Keys::default(), first_only).await;
    for body in ["much longer", "less"] {
        let fields = [&POST[..], &[("content-length", b"5")]].concat();
        let sent = [hello(&[]), head(1, false, &fields), frame(kind::DATA, flag::END_STREAM, 1, body.as_bytes())];
        let (mut stream, _) = bench.stream();
        stream.write_all(&sent.concat()).await.unwrap();
        let heard = until(&mut stream, |(head, _)| matches!(head.kind, kind::RST_STREAM | kind::HEADERS)).await;
        let (head, said) = *frames(&heard).last().unwrap();
        assert!(head.kind == kind::RST_STREAM || said[0] == 0x8c, "{body}: {head:?}");
    }
    assert_eq!(bench.backend.count(), 0);
}

#[tokio::test]
async fn who_says_much_and_does_not_listen_is_not_read() {
    let bench = Bench::new(&[], Keys::default(), first_only).await;
    for (name, piece) in [("PING", frame(kind::PING, 0, 0, &[0; 8])), ("SETTINGS", frame(kind::SETTINGS, 0, 0, &[]))] {
        let (mut stream, _) = bench.stream();
        stream.write_all(&hello(&[])).await.unwrap();
        let taken = taken(&mut stream, &piece.repeat(1000), 64 << 20).await;
        assert!(taken < 4 << 20, "{name}: {taken} bytes were taken");
        neighbour(&bench).await;
    }
}

#[tokio::test]
async fn streams_above_the_limit_are_refused() {
    let silent = Server::silent().await;
    let mut bench = Bench::new(&[("raw", silent)], Keys::default(), to_raw).await;
    bench.limit(|limits| limits.max_streams = 10);
    let before = tasks();
    let (mut stream, _) = bench.stream();
    stream.write_all(&[hello(&[]), each(50, |stream| head(stream, true, &GET))].concat()).await.unwrap();
    stream.write_all(&frame(kind::PING, 0, 0, b"all seen")).await.unwrap();
    let heard = until(&mut stream, |(_, said)| *said == b"all seen").await;
    let refused = frames(&heard).iter().filter(|(head, code)| head.kind == kind::RST_STREAM && code[3] == 7).count();
    assert_eq!(refused, 40);
    // One for each stream, and one for the connection.
    fewer(before + 12).await;
    // Nobody works for what was given up, also if it was asked for in full.
    stream.write_all(&each(5, |stream| frame(kind::RST_STREAM, 0, stream, &CANCEL))).await.unwrap();
    fewer(before + 7).await;
    drop(stream);
    fewer(before + 1).await;
}

/// A backend that has its answer before it has all of the request, and the rest of that never comes.
#[tokio::test]
async fn nobody_waits_for_the_rest_of_a_request_that_is_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bench = Bench::new(&[("raw", listener.local_addr().unwrap())], Keys::default(), |model| {
        to_raw(model);
        model.destinations.clear();
    })
    .await;
    tokio::spawn(async move {
        let mut backend = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
        let mut kept = Vec::new();
        while let Some(Ok((request, mut respond))) = backend.accept().await {
            respond.send_response(http::Response::builder().status(413).body(()).unwrap(), true).unwrap();
            kept.push(request);
        }
    });
    let (mut stream, _) = bench.stream();
    stream.write_all(&hello(&[])).await.unwrap();
    let mut first = None;
    for at in 0..20 {
        let number = 1 + 2 * at;
        stream.write_all(&[head(number, false, &POST), frame(kind::DATA, 0, number, b"some")].concat()).await.unwrap();
        until(&mut stream, |(head, _)| head.kind == kind::RST_STREAM && head.stream == number).await;
        first.get_or_insert_with(tasks);
    }
    fewer(first.unwrap() + 1).await;
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Waits until no more than `most` tasks are alive.
async fn fewer(most: usize) {
    let fewer = async {
        while tasks() > most {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let came = tokio::time::timeout(LONG, fewer).await.is_ok();
    assert!(came, "{} tasks instead of {most}", tasks());
}

#[tokio::test]
async fn who_dawdles_is_ended() {
    let mut bench = Bench::new(&[], Keys::default(), first_only).await;
    bench.limit(|limits| {
        (limits.head_timeout, limits.idle_timeout) = (Duration::from_millis(300), Duration::from_millis(500))
    });
    for (name, sent, is_told) in [
        ("half a greeting", hello(&[])[..30].to_vec(), false),
        ("a section without end", [hello(&[]), frame(kind::HEADERS, 0, 1, &block(&GET))].concat(), false),
        ("half a frame", [hello(&[]), head(1, true, &GET)[..12].to_vec()].concat(), false),
        ("nothing more", hello(&[]), true),
        ("nothing more after a request", [hello(&[]), head(1, true, &GET)].concat(), true),
    ] {
        let (mut stream, served) = bench.stream();
        stream.write_all(&sent).await.unwrap();
        let heard = all(&mut stream).await;
        assert_eq!(frames(&heard).iter().any(|(head, _)| head.kind == kind::GOAWAY), is_told, "{name}");
        served.await.unwrap();
    }
    neighbour(&bench).await;
}

#[tokio::test]
async fn a_window_of_one_byte_is_served_byte_by_byte() {
    let bench = Bench::new(&[], Keys::default(), first_only).await;
    let (mut stream, _) = bench.stream();
    let narrow = [&setting::INITIAL_WINDOW_SIZE.to_be_bytes()[..], &[0, 0, 0, 1]].concat();
    stream.write_all(&[hello(&narrow), head(1, true, &GET)].concat()).await.unwrap();
    let heard = until(&mut stream, |(head, _)| head.kind == kind::DATA).await;
    assert_eq!(frames(&heard).last().unwrap().1, b"o");
    neighbour(&bench).await;
    stream.write_all(&frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])).await.unwrap();
    let heard = until(&mut stream, |(head, _)| head.kind == kind::DATA).await;
    let (head, data) = *frames(&heard).last().unwrap();
    assert!(head.has(flag::END_STREAM) && data == b"k");
}

/// Padding is given back, as data is.
#[tokio::test]
async fn padding_uses_up_no_window() {
    let bench = Bench::new(&[], Keys::default(), first_only).await;
    let (mut stream, _) = bench.stream();
    stream.write_all(&[hello(&[]), head(1, false, &POST)].concat()).await.unwrap();
    let padded = [&[255, b'x'][..], &[0; 255]].concat();
    for round in 0..10 {
        let ping = [round; 8];
        let data = frame(kind::DATA, flag::PADDED, 1, &padded).repeat(100);
        stream.write_all(&[data, frame(kind::PING, 0, 0, &ping)].concat()).await.unwrap();
        until(&mut stream, |(head, said)| head.kind == kind::PING && **said == ping).await;
        // Readers have their turn.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stream.write_all(&frame(kind::DATA, flag::END_STREAM, 1, b"")).await.unwrap();
    until(&mut stream, |(head, _)| head.kind == kind::DATA && head.has(flag::END_STREAM)).await;
    assert_eq!(bench.backend.seen()[0].body().len(), 1000);
}

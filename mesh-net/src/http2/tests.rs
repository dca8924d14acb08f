//! Connections fed by hand: what a peer may do, and what ends it.

use bytes::Bytes;
use expect_test::{Expect, expect};
use http::{HeaderValue, Method, StatusCode};
use proptest::prelude::*;

use super::connection::{Connection, Event, Limits, NotOpened, Role};
use super::fields::{Fields, Pseudo};
use super::frame::{Code, HEAD, Head, PREFACE, flag, kind};

const LIMITS: Limits = Limits {
    first_window: 100_000,
    stream_window: 400_000,
    growth: 500_000,
    max_frame: 1 << 20,
    max_streams: 3,
    max_head: 16 << 10,
};

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&Head { length: payload.len() as u32, kind, flags, stream }.write()[..], payload].concat()
}

/// CONNECT to a:1, every field a literal.
fn connect() -> Vec<u8> {
    [&[0x02, 7][..], b"CONNECT", &[0x01, 3], b"a:1"].concat()
}

/// What a connection says, frame by frame.
fn said(connection: &mut Connection) -> Vec<String> {
    let output = connection.take_output().unwrap_or_default();
    let mut rest = output.strip_prefix(&PREFACE[..]).unwrap_or(&output);
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (head, after) = rest.split_at(HEAD);
        let head = Head::read(head.try_into().unwrap());
        let (payload, after) = after.split_at(head.length as usize);
        rest = after;
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        frames.push(match head.kind {
            kind::DATA => format!("DATA {} {} bytes flags {}", head.stream, head.length, head.flags),
            kind::HEADERS => format!("HEADERS {} flags {}", head.stream, head.flags),
            kind::CONTINUATION => format!("CONTINUATION {} flags {}", head.stream, head.flags),
            kind::RST_STREAM => format!("RST_STREAM {} {}", head.stream, Code(number(0))),
            kind::SETTINGS => format!("SETTINGS flags {} {} entries", head.flags, payload.len() / 6),
            kind::PING => format!("PING flags {}", head.flags),
            kind::GOAWAY => format!("GOAWAY last {} {}", number(0), Code(number(4))),
            kind::WINDOW_UPDATE => format!("WINDOW_UPDATE {} by {}", head.stream, number(0)),
            other => format!("kind {other}"),
        });
    }
    frames
}

fn happened(connection: &mut Connection, bytes: Vec<u8>) -> Vec<String> {
    let mut events = Vec::new();
    let received = connection.receive(bytes.into(), |event| {
        events.push(match event {
            Event::Head { stream, fields, end } => {
                let fields = told(&fields);
                format!("head {stream} {} end {end}", fields.join(" "))
            }
            Event::Data { stream, bytes } => format!("data {stream} {} bytes", bytes.len()),
            Event::End { stream } => format!("end {stream}"),
            Event::Reset { stream, code } => format!("reset {stream} {code}"),
            Event::Credit { stream } => format!("credit {stream}"),
            Event::GoAway { last, code } => format!("go away {last} {code}"),
            Event::Pong(payload) => format!("pong {payload}"),
        });
    });
    events.extend(received.err().map(|violation| format!("over: {violation}")));
    events
}

/// Names and values, pseudo-fields first.
pub(super) fn told(fields: &Fields) -> Vec<String> {
    let Pseudo { method, scheme, authority, path, protocol, status } = &fields.pseudo;
    let text = |bytes: &Option<Bytes>| bytes.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let pseudo = [
        (":method", method.as_ref().map(ToString::to_string)),
        (":scheme", text(scheme)),
        (":authority", text(authority)),
        (":path", text(path)),
        (":protocol", text(protocol)),
        (":status", status.map(|status| status.as_str().to_owned())),
    ];
    let pseudo = pseudo.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    let headers =
        fields.headers.iter().map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value.as_bytes())));
    pseudo.chain(headers).collect()
}

/// A server that has greeted its client, with a stream open.
fn server() -> Connection {
    let mut server = Connection::new(Role::Server, LIMITS);
    assert_eq!(said(&mut server), ["SETTINGS flags 0 4 entries", "WINDOW_UPDATE 0 by 67043329"]);
    let opening = [&PREFACE[..], &frame(kind::SETTINGS, 0, 0, &[])].concat();
    assert_eq!(happened(&mut server, opening), ["credit 0"]);
    assert_eq!(said(&mut server), ["SETTINGS flags 1 0 entries"]);
    let events = happened(&mut server, frame(kind::HEADERS, flag::END_HEADERS, 1, &connect()));
    assert_eq!(events, ["head 1 :method=CONNECT :authority=a:1 end false"]);
    server
}

/// A client that has been greeted, with a stream open that has been answered.
fn client() -> Connection {
    let mut client = Connection::new(Role::Client, LIMITS);
    assert_eq!(client.open(&request(), false), Ok(1));
    assert_eq!(said(&mut client), ["SETTINGS flags 0 4 entries", "WINDOW_UPDATE 0 by 67043329", "HEADERS 1 flags 4"]);
    let answer = [frame(kind::SETTINGS, 0, 0, &[]), frame(kind::HEADERS, flag::END_HEADERS, 1, &[0x88])].concat();
    assert_eq!(happened(&mut client, answer), ["credit 0", "head 1 :status=200 end false"]);
    said(&mut client);
    client
}

fn request() -> Fields {
    let authority = Some(Bytes::from_static(b"a:1"));
    Pseudo { method: Some(Method::CONNECT), authority, ..Pseudo::default() }.into()
}

/// What a connection makes of `bytes`, and what it answers.
fn check(mut connection: Connection, bytes: Vec<u8>, expect: Expect) {
    let mut lines = happened(&mut connection, bytes);
    lines.extend(said(&mut connection).into_iter().map(|frame| format!("> {frame}")));
    expect.assert_eq(&lines.join("\n"));
}

#[test]
fn streams_end_on_each_side_for_itself() {
    let data = frame(kind::DATA, flag::END_STREAM, 1, b"hello");
    let mut server = server();
    assert_eq!(happened(&mut server, data), ["data 1 5 bytes", "end 1"]);
    server.reply(1, &Pseudo::reply(StatusCode::OK).into(), false);
    assert_eq!(server.streams(), 1);
    assert_eq!(server.data_head(1, 3, true), Head { length: 3, kind: kind::DATA, flags: 1, stream: 1 }.write());
    assert_eq!((server.streams(), server.credit(1)), (0, 0));
    assert_eq!(said(&mut server), ["HEADERS 1 flags 4"]);
    // Nothing is said of what is gone.
    server.reset(1, Code::CANCEL);
    server.end(1);
    server.consumed(1, 5);
    assert!(said(&mut server).is_empty());
}

#[test]
fn what_follows_a_message_ends_it_on_either_side() {
    let trailers = |block: &[u8], flags| frame(kind::HEADERS, flag::END_HEADERS | flags, 1, block);
    let good = trailers(b"\x00\x01x\x01y", flag::END_STREAM);
    check(server(), good.clone(), expect!["head 1 x=y end true"]);
    check(client(), good, expect!["head 1 x=y end true"]);
    for bad in
        [trailers(b"\x00\x01x\x01y", 0), trailers(&[0x88], flag::END_STREAM), trailers(&[0x84], flag::END_STREAM)]
    {
        for mut connection in [server(), client()] {
            assert_eq!(happened(&mut connection, bad.clone()), ["reset 1 PROTOCOL_ERROR"]);
            assert_eq!(said(&mut connection), ["RST_STREAM 1 PROTOCOL_ERROR"]);
        }
    }
    let mut fields = Fields::default();
    fields.headers.insert("x", HeaderValue::from_static("y"));
    for mut connection in [server(), client()] {
        connection.reply(1, &fields, true);
        connection.reply(1, &fields, true);
        assert_eq!((said(&mut connection), connection.credit(1)), (vec!["HEADERS 1 flags 5".to_owned()], 0));
    }
}

#[test]
fn replies_may_be_announced() {
    let reply = |block: &[u8], flags| frame(kind::HEADERS, flag::END_HEADERS | flags, 1, block);
    let client = || {
        let mut client = Connection::new(Role::Client, LIMITS);
        client.open(&request(), false).unwrap();
        happened(&mut client, frame(kind::SETTINGS, 0, 0, &[]));
        said(&mut client);
        client
    };
    let (hints, switching) = (b"\x08\x03103", b"\x08\x03101");
    check(
        client(),
        [reply(hints, 0), reply(hints, 0), reply(&[0x88], flag::END_STREAM)].concat(),
        expect![[r#"
            head 1 :status=103 end false
            head 1 :status=103 end false
            head 1 :status=200 end true"#]],
    );
    // No reply comes behind its end, none says that the protocol is another now, and each has a status and nothing of a request.
    let malformed = [
        reply(hints, flag::END_STREAM),
        reply(switching, 0),
        reply(b"\x00\x01x\x01y", 0),
        reply(&[0x88, 0x84], 0),
        reply(b"\x08\x0299", 0),
    ];
    for bytes in malformed {
        assert_eq!(happened(&mut client(), bytes), ["reset 1 PROTOCOL_ERROR"]);
    }
    let data = frame(kind::DATA, 0, 1, b"x");
    let events = happened(&mut client(), [reply(hints, 0), data].concat());
    assert_eq!(events[1], "over: data before a reply (PROTOCOL_ERROR)");
    // And a request has no status.
    let request = frame(kind::HEADERS, flag::END_HEADERS, 3, &[0x82, 0x88]);
    assert_eq!(happened(&mut server(), request), ["reset 3 PROTOCOL_ERROR"]);
}

#[test]
fn padding_is_no_data_but_counts() {
    let padded = [&[3][..], b"hello", &[0; 3]].concat();
    check(server(), frame(kind::DATA, flag::PADDED, 1, &padded), expect!["data 1 5 bytes"]);
    check(server(), frame(kind::DATA, flag::PADDED | flag::END_STREAM, 1, &[2, 0, 0]), expect!["end 1"]);
    check(
        server(),
        frame(kind::DATA, flag::PADDED, 1, &[3, 0, 0]),
        expect![[r#"
            over: more padding than frame (PROTOCOL_ERROR)
            > GOAWAY last 1 PROTOCOL_ERROR"#]],
    );
    let headers = [&[2, 0, 0, 0, 0, 7][..], &connect(), &[0, 0]].concat();
    check(
        server(),
        frame(kind::HEADERS, flag::END_HEADERS | flag::PADDED | flag::PRIORITY, 3, &headers),
        expect!["head 3 :method=CONNECT :authority=a:1 end false"],
    );
}

#[test]
fn sections_may_come_in_pieces_and_not_be_interrupted() {
    let (a, b) = (&connect()[..4], &connect()[4..]);
    let begun = frame(kind::HEADERS, 0, 3, a);
    let whole =
        [begun.clone(), frame(kind::CONTINUATION, 0, 3, &[]), frame(kind::CONTINUATION, flag::END_HEADERS, 3, b)];
    check(server(), whole.concat(), expect!["head 3 :method=CONNECT :authority=a:1 end false"]);
    for interrupting in [frame(kind::PING, 0, 0, &[0; 8]), frame(kind::CONTINUATION, 0, 5, b), frame(200, 0, 0, &[])] {
        check(
            server(),
            [begun.clone(), interrupting].concat(),
            expect![[r#"
                over: a field section was interrupted (PROTOCOL_ERROR)
                > GOAWAY last 1 PROTOCOL_ERROR"#]],
        );
    }
    check(
        server(),
        frame(kind::CONTINUATION, 0, 1, b""),
        expect![[r#"
            over: CONTINUATION of nothing (PROTOCOL_ERROR)
            > GOAWAY last 1 PROTOCOL_ERROR"#]],
    );
}

#[test]
fn messages_against_the_rules_cost_their_stream_and_no_other() {
    let literal = |name: &[u8], value: &[u8]| [&[0, name.len() as u8][..], name, &[value.len() as u8], value].concat();
    let malformed = [
        literal(b"Upper", b"x"),
        literal(b"connection", b"close"),
        literal(b"te", b"gzip"),
        literal(b"", b"x"),
        literal(b"a b", b"x"),
        literal(b"a", b"x\r\ny"),
        literal(b"a", b" x"),
        literal(b":unknown", b"x"),
        [literal(b"a", b"x"), literal(b":path", b"/")].concat(),
        [literal(b":path", b"/"), literal(b":path", b"/")].concat(),
    ];
    for block in malformed {
        let block = [connect(), block].concat();
        let mut server = server();
        let events = happened(&mut server, frame(kind::HEADERS, flag::END_HEADERS, 3, &block));
        assert_eq!(
            (events, said(&mut server)),
            (vec!["reset 3 PROTOCOL_ERROR".to_owned()], vec!["RST_STREAM 3 PROTOCOL_ERROR".to_owned()]),
            "{block:?}"
        );
        assert_eq!(server.streams(), 1);
    }
    // More than it takes, in few bytes: an entry of the table again and again.
    let entry = [&[0x40, 1, b'a', 0x7f, 0xf1, 0x02][..], &[b'x'; 496]].concat();
    let bomb = [connect(), entry, vec![0x80 | 62; 20_000]].concat();
    check(
        server(),
        frame(kind::HEADERS, flag::END_HEADERS, 3, &bomb),
        expect![[r#"
            reset 3 PROTOCOL_ERROR
            > RST_STREAM 3 PROTOCOL_ERROR"#]],
    );
}

#[test]
fn what_breaks_the_connections_rules_ends_it() {
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("over: a frame is longer than we take (FRAME_SIZE_ERROR)", frame(kind::DATA, 0, 1, &vec![0; (1 << 20) + 1])),
        ("over: SETTINGS on a stream (PROTOCOL_ERROR)", frame(kind::SETTINGS, 0, 1, &[])),
        ("over: a frame of a size that cannot be (FRAME_SIZE_ERROR)", frame(kind::SETTINGS, 0, 0, &[0; 5])),
        ("over: a frame of a size that cannot be (FRAME_SIZE_ERROR)", frame(kind::SETTINGS, flag::ACK, 0, &[0; 6])),
        ("over: a setting that cannot be (PROTOCOL_ERROR)", frame(kind::SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2])),
        ("over: a window that cannot be (FLOW_CONTROL_ERROR)", frame(kind::SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])),
        ("over: a setting that cannot be (PROTOCOL_ERROR)", frame(kind::SETTINGS, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff])),
        ("over: a frame of a size that cannot be (FRAME_SIZE_ERROR)", frame(kind::PING, 0, 0, &[0; 7])),
        ("over: PING on a stream (PROTOCOL_ERROR)", frame(kind::PING, 0, 1, &[0; 8])),
        ("over: a frame of a size that cannot be (FRAME_SIZE_ERROR)", frame(kind::RST_STREAM, 0, 1, &[0; 3])),
        ("over: a reset of a stream that never was (PROTOCOL_ERROR)", frame(kind::RST_STREAM, 0, 3, &[0; 4])),
        ("over: a frame of a size that cannot be (FRAME_SIZE_ERROR)", frame(kind::WINDOW_UPDATE, 0, 1, &[0; 5])),
        ("over: a window that grows by nothing (PROTOCOL_ERROR)", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("over: credit for a stream that never was (PROTOCOL_ERROR)", frame(kind::WINDOW_UPDATE, 0, 9, &[0, 0, 0, 1])),
        (
            "over: a window that cannot be (FLOW_CONTROL_ERROR)",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        ),
        ("over: data on a stream that never was (PROTOCOL_ERROR)", frame(kind::DATA, 0, 3, b"x")),
        ("over: data on a stream that never was (PROTOCOL_ERROR)", frame(kind::DATA, 0, 0, b"x")),
        ("over: HEADERS of no stream (PROTOCOL_ERROR)", frame(kind::HEADERS, flag::END_HEADERS, 0, &connect())),
        (
            "over: HEADERS on a stream that nobody opened (PROTOCOL_ERROR)",
            frame(kind::HEADERS, flag::END_HEADERS, 2, &connect()),
        ),
        (
            "over: a stream that depends on itself (PROTOCOL_ERROR)",
            frame(kind::HEADERS, flag::END_HEADERS | flag::PRIORITY, 3, &[0, 0, 0, 3, 0]),
        ),
        (
            "over: a field section is no HPACK (COMPRESSION_ERROR)",
            frame(kind::HEADERS, flag::END_HEADERS, 3, &[0xff; 9]),
        ),
        (
            "over: a field section or another message is too long (ENHANCE_YOUR_CALM)",
            frame(kind::HEADERS, 0, 3, &vec![0; 70_000]),
        ),
        ("over: a push, which nobody asked for (PROTOCOL_ERROR)", frame(kind::PUSH_PROMISE, 0, 1, &[0; 4])),
        ("over: GOAWAY on a stream (PROTOCOL_ERROR)", frame(kind::GOAWAY, 0, 1, &[0; 8])),
        ("over: a frame of a size that cannot be (FRAME_SIZE_ERROR)", frame(kind::GOAWAY, 0, 0, &[0; 7])),
        ("over: a frame of a size that cannot be (FRAME_SIZE_ERROR)", frame(kind::PRIORITY, 0, 1, &[0; 4])),
    ];
    for (expected, bytes) in cases {
        let mut server = server();
        let head = bytes[..HEAD].to_vec();
        assert_eq!(happened(&mut server, bytes), [expected], "{head:?}");
        assert!(said(&mut server).last().unwrap().starts_with("GOAWAY last"), "{expected}");
        // Whatever comes then is nobody's.
        assert!(happened(&mut server, frame(kind::PING, 0, 0, &[0; 8])).is_empty() && said(&mut server).is_empty());
        assert!(server.is_leaving());
    }
    check(
        Connection::new(Role::Server, LIMITS),
        b"GET / HTTP/1.1\r\n".to_vec(),
        expect![[r#"
            over: no HTTP/2 preface (PROTOCOL_ERROR)
            > SETTINGS flags 0 4 entries
            > WINDOW_UPDATE 0 by 67043329
            > GOAWAY last 0 PROTOCOL_ERROR"#]],
    );
    check(
        Connection::new(Role::Server, LIMITS),
        [&PREFACE[..], &frame(kind::PING, 0, 0, &[0; 8])].concat(),
        expect![[r#"
            over: the first frame is not SETTINGS (PROTOCOL_ERROR)
            > SETTINGS flags 0 4 entries
            > WINDOW_UPDATE 0 by 67043329
            > GOAWAY last 0 PROTOCOL_ERROR"#]],
    );
    check(
        client(),
        frame(kind::HEADERS, flag::END_HEADERS, 2, &[0x88]),
        expect![[r#"
            over: a server opened a stream (PROTOCOL_ERROR)
            > GOAWAY last 0 PROTOCOL_ERROR"#]],
    );
}

#[test]
fn what_is_unknown_or_says_nothing_is_passed_over() {
    let harmless = [
        frame(200, 0xff, 77, b"what?"),
        frame(kind::PRIORITY, 0, 9, &[0; 5]),
        frame(kind::SETTINGS, 0, 0, &[0, 99, 0, 0, 0, 1]),
    ];
    check(
        server(),
        harmless.concat(),
        expect![[r#"
        credit 0
        > SETTINGS flags 1 0 entries"#]],
    );
    check(server(), frame(kind::PING, flag::ACK, 0, &[0, 0, 0, 0, 0, 0, 0, 7]), expect!["pong 7"]);
}

#[test]
fn data_behind_a_stream_that_was_given_up_is_thrown_away_and_behind_its_end_is_an_error() {
    let mut server = server();
    server.reset(1, Code::CANCEL);
    let late = [
        frame(kind::DATA, 0, 1, &[0; 50_000]),
        frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
        frame(kind::RST_STREAM, 0, 1, &[0; 4]),
    ];
    assert!(happened(&mut server, late.concat()).is_empty());
    check(
        self::server(),
        [frame(kind::DATA, flag::END_STREAM, 1, b""), frame(kind::DATA, 0, 1, b"x")].concat(),
        expect![[r#"
            end 1
            over: data behind a stream's end (STREAM_CLOSED)
            > GOAWAY last 1 STREAM_CLOSED"#]],
    );
}

#[test]
fn windows_are_what_was_granted() {
    let mut server = server();
    // Half a window taken is told, and the window grows with what is taken.
    assert_eq!(happened(&mut server, frame(kind::DATA, 0, 1, &[0; 60_000])), ["data 1 60000 bytes"]);
    server.consumed(1, 49_999);
    assert!(said(&mut server).is_empty());
    server.consumed(1, 10_001);
    assert_eq!(said(&mut server), ["WINDOW_UPDATE 1 by 160000"]);
    check(
        server,
        frame(kind::DATA, 0, 1, &[0; 200_001]),
        expect![[r#"
            over: more data than a stream's window (FLOW_CONTROL_ERROR)
            > GOAWAY last 1 FLOW_CONTROL_ERROR"#]],
    );
    // Growth has an end for a stream, and for all together.
    let mut server = self::server();
    for stream in [3, 5] {
        happened(&mut server, frame(kind::HEADERS, flag::END_HEADERS, stream, &connect()));
    }
    let mut granted = Vec::new();
    for stream in [1, 3, 5] {
        let mut window = 100_000;
        loop {
            happened(&mut server, frame(kind::DATA, 0, stream, &vec![0; window]));
            server.consumed(stream, window);
            let [update] =
                &said(&mut server).into_iter().filter(|f| !f.starts_with("WINDOW_UPDATE 0")).collect::<Vec<_>>()[..]
            else {
                panic!()
            };
            let update: usize = update.rsplit(' ').next().unwrap().parse().unwrap();
            if update == window {
                break;
            }
            window = update;
        }
        granted.push(window);
    }
    assert_eq!(granted, [400_000, 300_000, 100_000]);
    // And what has grown is there for others when the stream is over.
    server.reset(1, Code::CANCEL);
    said(&mut server);
    happened(&mut server, frame(kind::DATA, 0, 5, &[0; 100_000]));
    server.consumed(5, 100_000);
    assert_eq!(said(&mut server), ["WINDOW_UPDATE 5 by 200000"]);
}

#[test]
fn credit_is_what_both_windows_allow() {
    let mut client = client();
    assert_eq!(client.credit(1), 65_535);
    assert_eq!(happened(&mut client, frame(kind::WINDOW_UPDATE, 0, 1, &[0, 1, 0, 0])), ["credit 1"]);
    assert_eq!(client.credit(1), 65_535, "the connection's window is smaller");
    assert_eq!(happened(&mut client, frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0x40, 0])), ["credit 0"]);
    assert_eq!(client.credit(1), 65_535 + 16_384);
    client.data_head(1, 80_000, false);
    assert_eq!(client.credit(1), 1_919);
    // A smaller first window holds for streams that are open, below zero even.
    assert_eq!(happened(&mut client, frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 10])), ["credit 0"]);
    assert_eq!(client.credit(1), 0);
    happened(&mut client, frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0x40, 0]));
    assert_eq!(client.credit(1), 1_919);
    check(
        client,
        frame(kind::WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]),
        expect![[r#"
            reset 1 FLOW_CONTROL_ERROR
            > SETTINGS flags 1 0 entries
            > RST_STREAM 1 FLOW_CONTROL_ERROR"#]],
    );
}

#[test]
fn no_more_streams_than_allowed() {
    let mut server = server();
    for stream in [3, 5] {
        happened(&mut server, frame(kind::HEADERS, flag::END_HEADERS, stream, &connect()));
    }
    check(server, frame(kind::HEADERS, flag::END_HEADERS, 7, &connect()), expect!["> RST_STREAM 7 REFUSED_STREAM"]);
    let mut client = client();
    assert_eq!(client.open(&request(), false), Ok(3));
    assert_eq!(client.open(&request(), false), Ok(5));
    assert_eq!(client.open(&request(), false), Err(NotOpened::Full));
    assert_eq!(happened(&mut client, frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1])), ["credit 0"]);
    client.reset(5, Code::CANCEL);
    assert_eq!((client.available(), client.open(&request(), false)), (0, Err(NotOpened::Full)));
}

#[test]
fn who_leaves_finishes_what_was_begun() {
    let mut client = client();
    assert_eq!(client.open(&request(), false), Ok(3));
    let farewell = frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(happened(&mut client, farewell), ["reset 3 REFUSED_STREAM", "go away 1 NO_ERROR"]);
    assert_eq!((client.streams(), client.open(&request(), false)), (1, Err(NotOpened::Leaving)));
    assert_eq!(happened(&mut client, frame(kind::DATA, flag::END_STREAM, 1, b"x")), ["data 1 1 bytes", "end 1"]);

    let mut server = server();
    server.go_away(Code::NO_ERROR);
    server.go_away(Code::NO_ERROR);
    assert_eq!(said(&mut server), ["GOAWAY last 1 NO_ERROR"]);
    assert!(happened(&mut server, frame(kind::HEADERS, flag::END_HEADERS, 3, &connect())).is_empty());
    assert_eq!(server.streams(), 1);
}

#[test]
fn floods_end_the_connection() {
    let mut server = server();
    let events = happened(&mut server, frame(kind::DATA, 0, 1, b"").repeat(1_001));
    assert_eq!(events, ["over: much that is of no use, one after the other (ENHANCE_YOUR_CALM)"]);
    // With something of use between, it goes on for ever.
    let mut server = self::server();
    for _ in 0..10 {
        let round = [frame(kind::DATA, 0, 1, b"").repeat(900), frame(kind::DATA, 0, 1, b"x")].concat();
        assert_eq!(happened(&mut server, round), ["data 1 1 bytes"]);
    }
    let mut server = self::server();
    let mut events = Vec::new();
    for stream in (3..2_000).step_by(2) {
        let given_up = [
            frame(kind::HEADERS, flag::END_HEADERS, stream, &connect()),
            frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]),
        ];
        events = happened(&mut server, given_up.concat());
        if events.len() > 2 {
            break;
        }
    }
    assert_eq!(events.last().unwrap(), "over: too many streams were given up (ENHANCE_YOUR_CALM)");
}

#[test]
fn a_long_section_is_sent_in_frames_that_every_peer_takes() {
    let mut client = client();
    let long = "x".repeat(40_000);
    let mut fields = request();
    fields.headers.insert("long", long.parse().unwrap());
    client.open(&fields, true).unwrap();
    assert_eq!(said(&mut client), ["HEADERS 3 flags 1", "CONTINUATION 3 flags 0", "CONTINUATION 3 flags 4"]);
}

#[test]
fn a_smaller_table_of_the_peers_is_told_before_the_next_section() {
    let mut client = client();
    happened(&mut client, frame(kind::SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]));
    said(&mut client);
    client.open(&request(), false).unwrap();
    let output = client.take_output().unwrap();
    assert_eq!(output[HEAD], 0x20, "a table of no bytes: {output:?}");
}

proptest! {
    /// Wherever the bytes are cut, the same happens.
    #[test]
    fn cuts_do_not_matter(cuts in prop::collection::vec(1_usize..30, 1..30)) {
        let wire = [
            frame(kind::HEADERS, 0, 3, &connect()[..5]),
            frame(kind::CONTINUATION, flag::END_HEADERS, 3, &connect()[5..]),
            frame(kind::DATA, flag::PADDED, 3, &[&[4][..], b"hello", &[0; 4]].concat()),
            frame(kind::PING, 0, 0, &[7; 8]),
            frame(kind::DATA, flag::PADDED, 3, &[0]),
            frame(kind::DATA, flag::END_STREAM, 3, b"end"),
        ].concat();
        let mut rest = &wire[..];
        let (mut server, mut data, mut ends) = (server(), Vec::new(), 0);
        for cut in cuts.iter().cycle() {
            let (part, after) = rest.split_at(rest.len().min(*cut));
            rest = after;
            server.receive(Bytes::copy_from_slice(part), |event| match event {
                Event::Data { stream: 3, bytes } => data.extend_from_slice(&bytes),
                Event::End { stream: 3 } => ends += 1,
                Event::Head { stream: 3, .. } => assert!(data.is_empty()),
                other => panic!("{other:?}"),
            }).unwrap();
            if rest.is_empty() { break; }
        }
        prop_assert_eq!((&data[..], ends), (&b"helloend"[..], 1));
        prop_assert_eq!(said(&mut server), ["PING flags 1"]);
    }

    #[test]
    fn nothing_that_a_peer_sends_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = server().receive(bytes.clone().into(), drop);
        let _ = client().receive(bytes.into(), drop);
    }

    /// Frames that are nearly right reach further.
    #[test]
    fn no_frame_that_a_peer_sends_panics(
        frames in prop::collection::vec((0_u8..12, any::<u8>(), 0_u32..8, prop::collection::vec(any::<u8>(), 0..40)), 0..20)
    ) {
        let wire: Vec<u8> = frames.iter().flat_map(|(kind, flags, stream, payload)| frame(*kind, *flags, *stream, payload)).collect();
        for mut connection in [server(), client()] {
            let _ = connection.receive(wire.clone().into(), drop);
            connection.consumed(1, 1_000_000);
            connection.end(1);
            connection.reset(3, Code::CANCEL);
            let _ = connection.take_output();
        }
    }
}

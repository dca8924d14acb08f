//! Against the RFC's examples, an encoder and a decoder of others, and peers who mean harm.

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use proptest::prelude::*;

use super::decoder::{Decoded, Decoder};
use super::encoder::Encoder;
use super::{NotHpack, TABLE, huffman, integer};
use crate::header_list::HeaderList;
use crate::http2::fields::{Fields, Pseudo};
use crate::http2::tests::told;

mod examples;
mod cost;

/// More than any section here has.
const MOST: usize = 64 << 10;

fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Option<Fields>, NotHpack> {
    Ok(match decoder.decode(block, MOST)? {
        Decoded::Fields(fields) => Some(*fields),
        Decoded::Malformed => None,
    })
}

fn write(encoder: &mut Encoder, fields: &Fields) -> Vec<u8> {
    let mut block = Vec::new();
    encoder.encode(&fields.pseudo, &fields.headers, &mut block);
    block
}

fn headers(fields: &[(&'static str, &str)]) -> Fields {
    let header = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
    Fields { headers: fields.iter().map(header).collect(), ..Fields::default() }
}

/// A literal of which the table learns nothing.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8][..], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

#[test]
fn a_section_has_as_many_fields_as_a_head_of_http_1_may_have() {
    let section = |fields: usize| literal("x-a", "1").repeat(fields);
    let most = read(&mut Decoder::new(), &section(100)).unwrap().unwrap();
    assert_eq!(most.headers.len(), 100);
    assert_eq!(read(&mut Decoder::new(), &section(101)), Ok(None));
    assert_eq!(read(&mut Decoder::new(), &section(5000)), Ok(None));
}

#[test]
fn what_no_encoder_writes_is_refused() {
    let cases: [(&str, &[u8]); 17] = [
        ("index 0", &[0x80]),
        ("an index behind the tables", &[0xbe]),
        ("a name behind the tables", &[0x7e, 1, b'x']),
        ("an index cut short", &[0xff]),
        ("an index cut short later", &[0xff, 0x80]),
        ("a number above 32 bits", &[0xff, 0xff, 0xff, 0xff, 0xff, 0x10]),
        ("a number without end", &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00]),
        ("no name", &[0x00]),
        ("a name cut short", &[0x00, 2, b'x']),
        ("no value", &[0x00, 1, b'x']),
        ("a value cut short", &[0x00, 1, b'x', 2, b'y']),
        ("a table larger than allowed", &[0x3f, 0xe2, 0x1f]),
        ("a table's size behind a field", &[0x82, 0x20]),
        ("the end's symbol in a string", &[0x00, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
        ("a whole byte of padding", &[0x00, 1, b'x', 0x82, 0x07, 0xff]),
        ("padding of zeros", &[0x00, 1, b'x', 0x81, 0x00]),
        ("a symbol cut short", &[0x00, 1, b'x', 0x82, 0xff, 0xc0]),
    ];
    for (what, block) in cases {
        assert_eq!(read(&mut Decoder::new(), block), Err(NotHpack), "{what}");
    }
    // What is next to these is good.
    for good in [&[0x20, 0x3f, 0xe1, 0x1f, 0x82][..], &[0x00, 1, b'x', 0x81, 0x07]] {
        assert!(read(&mut Decoder::new(), good).is_ok(), "{good:x?}");
    }
}

#[test]
fn a_section_against_the_rules_leaves_the_table_as_its_sender_has_it() {
    let mut decoder = Decoder::new();
    // `Upper: 1`, `a:  b` and `good: 1` enter.
    let block = b"\x40\x05Upper\x011\x40\x01a\x02 b\x40\x04good\x011";
    assert_eq!(read(&mut decoder, block), Ok(None));
    assert_eq!(read(&mut decoder, &[0xbe]), Ok(Some(headers(&[("good", "1")]))));
    assert_eq!(read(&mut decoder, &[0xbf]), Ok(None));
    assert_eq!(read(&mut decoder, &[0xc0]), Ok(None));
    // The name of a field is good whatever its value was.
    assert_eq!(read(&mut decoder, b"\x0f\x30\x01c"), Ok(Some(headers(&[("a", "c")]))));
    assert_eq!(read(&mut decoder, b"\x0f\x31\x01c"), Ok(None));
}

#[test]
fn fields_are_counted_and_kept_in_their_order() {
    let block = [&b"\x40\x01a\x01x"[..], &literal("b", "y"), &[0xbe], &literal("a", "z"), &[0xbe]].concat();
    let fields = headers(&[("a", "x"), ("b", "y"), ("a", "x"), ("a", "z"), ("a", "x")]);
    let size = 5 * (2 + 32);
    let decoded = |most| Decoder::new().decode(&block, most);
    assert_eq!(decoded(size), Ok(Decoded::Fields(Box::new(fields))));
    assert_eq!(decoded(size - 1), Ok(Decoded::Malformed));
}

#[test]
fn more_names_than_a_map_holds_are_malformed() {
    let block: Vec<u8> = (0..40_000).flat_map(|n| literal(&format!("n{n}"), "")).collect();
    assert_eq!(Decoder::new().decode(&block, usize::MAX), Ok(Decoded::Malformed));
}

#[test]
fn pieces_of_cookies_are_joined() {
    let block = [literal("cookie", "a=1"), literal("x", "y"), b"\x1f\x11\x03b=2".to_vec(), literal("cookie", "c=3")];
    let fields = read(&mut Decoder::new(), &block.concat()).unwrap().unwrap();
    assert_eq!(fields, headers(&[("cookie", "a=1; b=2; c=3"), ("x", "y")]));
    // One of them was never to be indexed.
    assert!(fields.headers.get(COOKIE).unwrap().is_sensitive());
    let one = read(&mut Decoder::new(), &literal("cookie", "a=1")).unwrap().unwrap();
    assert!(!one.headers.get(COOKIE).unwrap().is_sensitive());
}

#[test]
fn what_is_sent_for_the_second_time_enters_the_table() {
    let mut encoder = Encoder::new();
    let fields = headers(&[("x-client", "version 7")]);
    let first = write(&mut encoder, &fields);
    assert_eq!(first, literal("x-client", "version 7"));
    let second = write(&mut encoder, &fields);
    assert!(second[0] == 0x40 && second.len() < first.len(), "{second:x?}");
    assert_eq!(write(&mut encoder, &fields), [0xbe]);
    assert_eq!(write(&mut encoder, &fields), [0xbe]);
    // What never comes again drives nothing out, and what is known without a table needs none.
    for n in 0..1_000 {
        let request = Pseudo { path: Some(Bytes::from(format!("/{n}"))), ..Pseudo::default() };
        assert_eq!(write(&mut encoder, &request.into())[0], 0x04);
    }
    assert_eq!(write(&mut encoder, &fields), [0xbe]);
    assert_eq!(write(&mut encoder, &Pseudo::reply(StatusCode::NOT_FOUND).into()), [0x8d]);
    assert_eq!(write(&mut encoder, &headers(&[("accept-encoding", "gzip, deflate")])), [0x90]);
}

#[test]
fn what_is_secret_or_somebodys_or_large_stays_out_of_the_table() {
    let mut encoder = Encoder::new();
    let mut secret = headers(&[("x-key", "k")]);
    let mut key = secret.headers.get("x-key").unwrap().clone();
    key.set_sensitive(true);
    secret.headers.insert("x-key", key);
    let token = headers(&[("authorization", "t")]);
    let large = headers(&[("x", &"y".repeat(TABLE / 4))]);
    for _ in 0..4 {
        assert_eq!(write(&mut encoder, &secret)[0], 0x10);
        assert_eq!(write(&mut encoder, &token), [0x0f, 8, 1, b't']);
        assert_eq!(write(&mut encoder, &large)[0], 0x00);
    }
    // And who passes it on, knows.
    let block = write(&mut encoder, &secret);
    let read = read(&mut Decoder::new(), &block).unwrap().unwrap();
    assert!(read.headers.get("x-key").unwrap().is_sensitive());
    assert!(!token.headers.get(AUTHORIZATION).unwrap().is_sensitive());
}

#[test]
fn sizes_of_the_table_are_told_and_followed() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let fields = headers(&[("a", "b")]);
    let exchange = |encoder: &mut Encoder, decoder: &mut Decoder| {
        let block = write(encoder, &fields);
        assert_eq!(read(decoder, &block), Ok(Some(fields.clone())));
        block
    };
    (0..2).for_each(|_| drop(exchange(&mut encoder, &mut decoder)));
    assert_eq!(exchange(&mut encoder, &mut decoder), [0xbe]);
    // Smaller and larger again: the table was empty in between.
    encoder.resize(0);
    encoder.resize(100_000);
    assert_eq!(exchange(&mut encoder, &mut decoder)[..4], [0x20, 0x3f, 0xe1, 0x1f]);
    (0..2).for_each(|_| drop(exchange(&mut encoder, &mut decoder)));
    assert_eq!(exchange(&mut encoder, &mut decoder), [0xbe]);
    encoder.resize(34);
    assert_eq!(exchange(&mut encoder, &mut decoder)[..2], [0x3f, 0x03]);
    assert_eq!((decoder.size(), decoder.len()), (34, 1));
    encoder.resize(33);
    exchange(&mut encoder, &mut decoder);
    assert_eq!((decoder.size(), decoder.len()), (0, 0));
}

/// Of few, so that they come again.
fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec!["", "gzip", "gzip, deflate", "a", "/", "https", "x"]).prop_map(str::to_owned),
        2 => "[!-~]{1,40}",
        1 => "[!-~]{500,1500}",
    ]
}

fn sections() -> impl Strategy<Value = Fields> {
    let names = prop::sample::select(vec![
        "accept",
        "accept-encoding",
        "set-cookie",
        "x-a",
        "x-b",
        "x-c",
        "authorization",
        "via",
        "x-long-name-of-a-field",
    ]);
    let header = (names, values(), any::<bool>());
    let pseudo = (
        prop::option::of(prop::sample::select(vec![Method::GET, Method::POST, Method::PUT])),
        prop::option::of(values()),
        prop::option::of(values()),
        prop::option::of(prop::sample::select(vec![StatusCode::OK, StatusCode::NOT_FOUND, StatusCode::IM_A_TEAPOT])),
    );
    (pseudo, prop::collection::vec(header, 0..12)).prop_map(|((method, path, authority, status), list)| {
        let pseudo = Pseudo {
            method,
            // Other decoders refuse a section that says nothing but a table's size.
            scheme: Some(Bytes::from_static(b"http")),
            path: path.map(Into::into),
            authority: authority.map(Into::into),
            status,
            ..Pseudo::default()
        };
        let mut headers = HeaderList::new();
        for (name, value, sensitive) in list {
            let mut value = HeaderValue::try_from(value).unwrap();
            value.set_sensitive(sensitive && name.starts_with('x'));
            headers.append(name, value);
        }
        Fields { pseudo, headers }
    })
}

proptest! {
    #[test]
    fn integers_survive_the_wire(value in any::<u32>(), prefix in 1_u32..=8) {
        let mut wire = Vec::new();
        integer::write(value as usize, prefix, 0, &mut wire);
        let mut rest = &wire[..];
        prop_assert_eq!(integer::read(&mut rest, prefix), Ok(value as usize));
        prop_assert!(rest.is_empty());
    }

}

proptest! {
    // The other decoder is slow.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn strings_survive_the_wire(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let (mut wire, mut read) = (Vec::new(), Vec::new());
        huffman::encode(&text, &mut wire);
        prop_assert_eq!(wire.len(), huffman::length(&text));
        prop_assert_eq!(huffman::decode(&wire, &mut read), Ok(()));
        prop_assert_eq!(&read, &text);
        // And an independent reader reads the same.
        if wire.len() < 127 {
            let block = [&[0x00, 1, b'x', 0x80 | wire.len() as u8], &wire[..]].concat();
            prop_assert_eq!(loona_hpack::Decoder::new().decode(&block).unwrap(), vec![(b"x".to_vec(), text)]);
        }
    }

    /// What one encoder writes, its decoder reads, and so does another's; also with tables that change.
    #[test]
    fn sections_survive_the_wire(sections in prop::collection::vec((sections(), prop::option::weighted(0.1, 0_u32..5000)), 1..20)) {
        let (mut encoder, mut decoder, mut other) = (Encoder::new(), Decoder::new(), loona_hpack::Decoder::new());
        for (fields, size) in sections {
            if let Some(size) = size {
                encoder.resize(size);
            }
            let block = write(&mut encoder, &fields);
            let read = read(&mut decoder, &block).unwrap().unwrap();
            prop_assert_eq!(&read, &fields);
            let sensitive = |fields: &Fields| fields.headers.iter().map(|(_, value)| value.is_sensitive()).collect::<Vec<_>>();
            prop_assert_eq!(sensitive(&read), sensitive(&fields));
            let others = other.decode(&block).unwrap().into_iter();
            let others: Vec<_> = others.map(|(name, value)| [name, value].join(&b'=')).collect();
            prop_assert_eq!(others, told(&fields).into_iter().map(String::into_bytes).collect::<Vec<_>>());
        }
    }

    #[test]
    fn sections_of_another_encoder_are_read(sections in prop::collection::vec(sections(), 1..20)) {
        let (mut encoder, mut decoder) = (loona_hpack::Encoder::new(), Decoder::new());
        for fields in sections {
            let told = told(&fields);
            let pairs = told.iter().map(|field| {
                let at = field[1..].find('=').unwrap() + 1;
                (&field.as_bytes()[..at], &field.as_bytes()[at + 1..])
            });
            let block = encoder.encode(pairs);
            prop_assert_eq!(read(&mut decoder, &block).unwrap().unwrap(), fields);
        }
    }

}

proptest! {
    /// Nothing panics, and no more is kept than a table holds.
    #[test]
    fn hostile_bytes_cost_little(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..10)) {
        let mut decoder = Decoder::new();
        for block in blocks {
            let _ = decoder.decode(&block, 4096);
            prop_assert!(decoder.size() <= TABLE && decoder.len() <= TABLE / 32);
        }
    }

    /// Fields that are nearly right reach further.
    #[test]
    fn hostile_fields_cost_little(
        fields in prop::collection::vec((0_u8..=255, prop::collection::vec(any::<u8>(), 0..100), any::<bool>()), 1..80),
        most in 0_usize..5000,
    ) {
        let mut block = Vec::new();
        for (first, text, coded) in fields {
            let length = text.len() as u8 | if coded { 0x80 } else { 0 };
            match first {
                0x80.. => block.push(first.min(0xc8)),
                _ => block.extend([&[first & 0x4f, 1, b'x', length][..], &text].concat()),
            }
        }
        let mut decoder = Decoder::new();
        for _ in 0..3 {
            if let Ok(Decoded::Fields(fields)) = decoder.decode(&block, most) {
                let size: usize = fields.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
                prop_assert!(size <= most);
            }
            prop_assert!(decoder.size() <= TABLE && decoder.len() <= TABLE / 32);
        }
    }
}

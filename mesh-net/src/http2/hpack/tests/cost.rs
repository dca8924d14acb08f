//! What a section costs: `cargo test --release --workspace --lib hpack::tests::cost -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::Instant;

use super::*;

/// Requests, one after the other: eight fields are the same in all, three in none.
const REQUESTS: u64 = 256;

fn request(n: u64) -> Fields {
    // Hex digits that look like an identifier's.
    let digits = |salt: u64| format!("{:016x}", (n * 8 + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut fields = headers(&[
        ("user-agent", "grpc-go/1.71.0 (linux; amd64)"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip"),
        ("content-type", "application/json; charset=utf-8"),
        ("x-client-version", "2026.11.3"),
        ("x-request-id", &format!("{}{}", digits(0), digits(1))),
        ("traceparent", &format!("00-{}{}-{}-01", digits(2), digits(3), digits(4))),
    ]);
    fields.pseudo = Pseudo {
        method: Some(Method::GET),
        scheme: Some(Bytes::from_static(b"http")),
        authority: Some(Bytes::from_static(b"catalogue.shop.svc.cluster.local:8080")),
        path: Some(Bytes::from(format!("/api/v1/items/{n}?page={}", digits(5)))),
        ..Pseudo::default()
    };
    fields
}

/// The best of many rounds, in nanoseconds for each of `items`.
fn best<T, R>(items: &[T], mut each: impl FnMut(&T) -> R) -> u128 {
    let mut round = || {
        let begun = Instant::now();
        items.iter().for_each(|item| drop(black_box(each(item))));
        begun.elapsed().as_nanos() / items.len() as u128
    };
    (0..1_000).map(|_| round()).min().unwrap()
}

#[test]
#[ignore = "prints times, which nobody checks"]
fn of_a_request() {
    let requests: Vec<Fields> = (0..REQUESTS).map(request).collect();
    let (mut encoder, mut decoder, mut out) = (Encoder::new(), Decoder::new(), Vec::new());
    for fields in &requests {
        read(&mut decoder, &write(&mut encoder, fields)).unwrap();
    }
    let blocks: Vec<Vec<u8>> = requests.iter().map(|fields| write(&mut encoder, fields)).collect();
    let decoding = best(&blocks, |block| decoder.decode(block, MOST));
    let encoding = best(&requests, |fields| {
        out.clear();
        encoder.encode(&fields.pseudo, &fields.headers, &mut out);
    });
    let copying = best(&requests, |fields| fields.headers.clone());
    println!(
        "decode {decoding} ns, encode {encoding} ns, {} bytes; to clone and drop the map {copying} ns",
        blocks[1].len()
    );
}

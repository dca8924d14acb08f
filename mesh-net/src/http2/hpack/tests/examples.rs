//! Appendix C of RFC 7541.

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Blocks, one after the other, and what each says; behind it the table's size.
fn check(blocks: &[(&str, &[&str], usize)]) {
    let mut decoder = Decoder::new();
    for (hex, expected, size) in blocks {
        let fields = read(&mut decoder, &bytes(hex)).unwrap().unwrap();
        assert_eq!(
            (told(&fields), decoder.size()),
            (expected.iter().map(|&field| field.to_owned()).collect(), *size),
            "{hex}"
        );
    }
}

#[test]
fn integers() {
    for (value, prefix, hex) in [(10, 5, "0a"), (1337, 5, "1f9a0a"), (42, 8, "2a")] {
        let mut wire = Vec::new();
        integer::write(value, prefix, 0, &mut wire);
        assert_eq!((&wire, integer::read(&mut &wire[..], prefix)), (&bytes(hex), Ok(value)));
    }
}

#[test]
fn single_fields() {
    check(&[("400a637573746f6d2d6b65790d637573746f6d2d686561646572", &["custom-key=custom-header"], 55)]);
    check(&[("040c2f73616d706c652f70617468", &[":path=/sample/path"], 0)]);
    check(&[("100870617373776f726406736563726574", &["password=secret"], 0)]);
    check(&[("82", &[":method=GET"], 0)]);
}

#[test]
fn requests() {
    let expected: [&[&str]; 3] = [
        &[":method=GET", ":scheme=http", ":authority=www.example.com", ":path=/"],
        &[":method=GET", ":scheme=http", ":authority=www.example.com", ":path=/", "cache-control=no-cache"],
        &[":method=GET", ":scheme=https", ":authority=www.example.com", ":path=/index.html", "custom-key=custom-value"],
    ];
    let plain = [
        "828684410f7777772e6578616d706c652e636f6d",
        "828684be58086e6f2d6361636865",
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
    ];
    let coded = [
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ];
    for [a, b, c] in [plain, coded] {
        check(&[(a, expected[0], 57), (b, expected[1], 110), (c, expected[2], 164)]);
    }
}

/// With a table of 256 bytes, which the first block says here.
#[test]
fn replies() {
    let (date, later) = ("date=Mon, 21 Oct 2013 20:13:21 GMT", "date=Mon, 21 Oct 2013 20:13:22 GMT");
    let location = "location=https://www.example.com";
    let cookie = "set-cookie=foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    let expected: [&[&str]; 3] = [
        &[":status=302", "cache-control=private", date, location],
        &[":status=307", "cache-control=private", date, location],
        &[":status=200", "cache-control=private", later, location, "content-encoding=gzip", cookie],
    ];
    let plain = [
        "3fe1014803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
        "4803333037c1c0bf",
        "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
    ];
    let coded = [
        "3fe101488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
        "4883640effc1c0bf",
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
    ];
    for [a, b, c] in [plain, coded] {
        check(&[(a, expected[0], 222), (b, expected[1], 222), (c, expected[2], 215)]);
    }
}

use mesh_net::header_list::HeaderList;
use proptest::prelude::*;

use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn headers(lines: &[(&'static str, &str)]) -> HeaderList {
    lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

/// `trace span decision`, `-` for what is not there.
fn told(lines: &[(&'static str, &str)]) -> String {
    let Incoming { parent, sampled, .. } = Incoming::read(&headers(lines));
    let parent = parent.map_or("- -".to_owned(), |ids| format!("{:x} {:x}", ids.trace, ids.span));
    format!("{parent} {}", sampled.map_or("-", |sampled| if sampled { "yes" } else { "no" }))
}

#[test]
fn contexts_are_read() {
    let known = |decision: &str| format!("{TRACE} f067aa0ba902b7 {decision}");
    let w3c = |flags: &str| format!("00-{TRACE}-{SPAN}-{flags}");
    let b3 = |rest: &str| format!("{TRACE}-{SPAN}{rest}");
    let one = |name, value: &str| told(&[(name, value)]);
    for (flags, decision) in [("01", "yes"), ("00", "no"), ("03", "yes"), ("02", "no"), ("ff", "yes")] {
        assert_eq!(one("traceparent", &w3c(flags)), known(decision), "{flags}");
    }
    assert_eq!(one("traceparent", &format!("01-{TRACE}-{SPAN}-01-later")), known("yes"));
    for (rest, decision) in [("", "-"), ("-1", "yes"), ("-0", "no"), ("-d", "yes"), ("-1-05e3ac9a4f6e3b90", "yes")] {
        assert_eq!(one("b3", &b3(rest)), known(decision), "{rest}");
    }
    assert_eq!(one("b3", "0"), "- - no");
    assert_eq!(one("b3", "d"), "- - yes");
    assert_eq!(one("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-1"), "a3ce929d0e0e4736 f067aa0ba902b7 yes");
    let multi =
        |lines: &[(&'static str, &str)]| told(&[&[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)], lines].concat());
    assert_eq!(multi(&[]), known("-"));
    assert_eq!(multi(&[("x-b3-sampled", "1"), ("x-b3-parentspanid", SPAN)]), known("yes"));
    assert_eq!(multi(&[("x-b3-sampled", "0")]), known("no"));
    assert_eq!(multi(&[("x-b3-sampled", "false")]), known("no"));
    assert_eq!(multi(&[("x-b3-flags", "1")]), known("yes"));
    assert_eq!(one("x-b3-sampled", "0"), "- - no");
    // Both: the W3C's.
    assert_eq!(
        told(&[("traceparent", &w3c("01")), ("b3", "1111111111111111-1-0"), ("x-b3-sampled", "0")]),
        known("yes")
    );
}

#[test]
fn what_is_malformed_is_not_there() {
    let zero = "0".repeat(32);
    for value in [
        String::new(),
        "00".to_owned(),
        format!("00-{TRACE}-{SPAN}"),
        format!("00-{TRACE}-{SPAN}-01-more"),
        format!("00-{TRACE}-{SPAN}-1"),
        format!("00-{zero}-{SPAN}-01"),
        format!("00-{TRACE}-{}-01", &zero[..16]),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        format!("00-{TRACE}0-{SPAN}-01"),
        format!("00-+{}-{SPAN}-01", &TRACE[1..]),
        format!("0-{TRACE}-{SPAN}-01"),
    ] {
        assert_eq!(told(&[("traceparent", &value)]), "- - -", "{value}");
    }
    for value in ["", "2", "x-y-1", "1-2-1", &format!("{TRACE}-{SPAN}-2"), &format!("{TRACE}-{SPAN}-1-2-3"), &zero] {
        assert_eq!(told(&[("b3", value)]), "- - -", "{value}");
    }
    let two = format!("00-{TRACE}-{SPAN}-01");
    let mut headers = headers(&[("traceparent", &two)]);
    headers.append("traceparent", two.parse().unwrap());
    assert_eq!(Incoming::read(&headers), Incoming::default());
}

#[test]
fn a_request_goes_on_in_the_forms_it_came_in() {
    let own = Ids { trace: u128::from_str_radix(TRACE, 16).unwrap(), span: 0xa };
    let outgoing =
        Outgoing { own, parent: Some(0xb), sampled: true, is_short: false, flags: 2, forms: Forms::default() };
    let told = |outgoing: Outgoing, lines: &[(&'static str, &str)]| {
        let mut headers = headers(lines);
        outgoing.write(&mut headers);
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    };
    let w3c = Outgoing { forms: Forms { w3c: true, ..Forms::default() }, ..outgoing };
    let lines = [("traceparent", "x"), ("tracestate", "a=1"), ("b3", "untouched")];
    let traceparent = format!("traceparent: 00-{TRACE}-000000000000000a-03");
    assert_eq!(told(w3c, &lines), ["b3: untouched", &traceparent, "tracestate: a=1"]);
    // The first of its trace has no state.
    assert_eq!(told(Outgoing { parent: None, ..w3c }, &lines[..2]), [traceparent.as_str()]);
    let single = Outgoing { forms: Forms { b3_single: true, ..Forms::default() }, ..outgoing };
    assert_eq!(told(single, &lines), [format!("b3: {TRACE}-000000000000000a-1-000000000000000b")]);
    let own = Ids { trace: 0xc, span: 0xa };
    let multi = Forms { b3_multi: true, ..Forms::default() };
    let multi = Outgoing { own, sampled: false, is_short: true, forms: multi, ..outgoing };
    assert_eq!(
        told(multi, &[]),
        [
            "x-b3-parentspanid: 000000000000000b",
            "x-b3-sampled: 0",
            "x-b3-spanid: 000000000000000a",
            "x-b3-traceid: 000000000000000c"
        ]
    );
}

proptest! {
    #[test]
    fn whatever_comes_is_read(w3c in "[0-9a-f-]{0,60}", b3 in "[0-9a-fd-]{0,60}", other: Vec<u8>) {
        for value in [w3c.as_bytes(), b3.as_bytes(), &other] {
            let Ok(value) = HeaderValue::from_bytes(value) else { continue };
            for name in [TRACEPARENT, B3, B3_TRACE, B3_SPAN, B3_SAMPLED] {
                let mut headers = headers(&[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)]);
                headers.insert(name, value.clone());
                let _ = Incoming::read(&headers);
            }
        }
    }

    #[test]
    fn what_is_written_is_read(trace in 1..u128::MAX, span in 1..u64::MAX, parent: Option<u64>, sampled: bool, which in 0..3) {
        let forms = Forms { w3c: which == 0, b3_single: which == 1, b3_multi: which == 2 };
        let outgoing = Outgoing { own: Ids { trace, span }, parent, sampled, is_short: false, flags: 0, forms };
        let mut headers = HeaderList::new();
        outgoing.write(&mut headers);
        let read = Incoming::read(&headers);
        prop_assert_eq!((read.parent, read.sampled), (Some(Ids { trace, span }), Some(sampled)));
        prop_assert_eq!(read.forms, forms);
    }
}

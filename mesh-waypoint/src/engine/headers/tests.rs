use std::time::{Duration, SystemTime};

use expect_test::{Expect, expect};
use mesh_net::header_list::HeaderList;
use proptest::prelude::*;

use super::*;
use crate::engine::head::Request;
use crate::engine::sample::{Asked, lines};

/// `-name`, `name=set`, `name+=added`.
fn ops(text: &str) -> HeaderOps {
    let mut ops = HeaderOps::default();
    for word in text.split_whitespace() {
        if let Some(name) = word.strip_prefix('-') {
            ops.remove.push(name.into());
        } else if let Some((name, value)) = word.split_once("+=") {
            ops.add.push((name.into(), value.into()));
        } else {
            let (name, value) = word.split_once('=').unwrap();
            ops.set.push((name.into(), value.into()));
        }
    }
    ops
}

#[track_caller]
fn check(request: &str, rule: &str, destination: &str, expected: Expect) {
    let mut asked = Asked::new(request);
    let (rule, destination) = (Ops::for_requests(&ops(rule)).unwrap(), Ops::for_requests(&ops(destination)).unwrap());
    let request = asked.request();
    let host = rule.host(&request).or_else(|| destination.host(&request));
    let edits = Edits::of_request(&rule, Some(&destination), &request);
    // Whoever copies without a map comes to the same lines.
    let stay = asked.headers.iter().filter(|(name, _)| !edits.replaces(name));
    let mut copied: Vec<String> =
        stay.chain(edits.lines()).map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap())).collect();
    let mut headers = asked.headers.clone();
    edits.apply(&mut headers);
    let mut applied: Vec<String> = lines(&headers).lines().map(|line| format!("{line}\n")).collect();
    expected.assert_eq(&format!(
        "{}{}",
        host.map_or(String::new(), |host| format!("[{}]\n", host.to_str().unwrap())),
        applied.concat()
    ));
    copied.sort();
    applied.sort();
    assert_eq!(copied, applied);
    asked.headers = headers;
}

#[test]
fn the_destination_sets_over_the_rule() {
    check(
        "GET a/ x=client",
        "x=rule y=rule",
        "x=destination",
        expect![[r#"
        x: destination
        y: rule
    "#]],
    );
}

#[test]
fn what_is_added_comes_behind_the_clients_lines() {
    check(
        "GET a/ x=client",
        "x+=rule",
        "x+=destination",
        expect![[r#"
        x: client
        x: rule
        x: destination
    "#]],
    );
    check(
        "GET a/ x=client",
        "x+=added",
        "x=set",
        expect![[r#"
        x: set
        x: added
    "#]],
    );
}

#[test]
fn removals_come_first() {
    check(
        "GET a/ x=client y=client",
        "-x x=set -y",
        "",
        expect![[r#"
        x: set
    "#]],
    );
    check("GET a/ x=client", "-x copy=%REQ(x)%", "", expect![""]);
}

#[test]
fn of_two_hosts_the_rules_counts() {
    check("GET a/", "host=rule", "host=destination", expect!["[rule]\n"]);
    check("GET a/", "", "Host+=destination", expect!["[destination]\n"]);
    assert_eq!(Ops::for_requests(&ops("-host")).unwrap_err(), BadOps::Host);
}

#[test]
fn values_are_format_strings() {
    check(
        "GET a/p?q x=1",
        "a=%REQ(x)% b=%REQ(none)% c=<%REQ(None?X)%> d=100%% e=%REQ(:path):3% f=%REQ(:METHOD)%-%REQ(:authority)%",
        "g=%RESPONSE_CODE% h=%PROTOCOL% i=%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% j=%DOWNSTREAM_REMOTE_ADDRESS% k=%START_TIME% l=%DOWNSTREAM_PEER_URI_SAN% m=%RESP(x)%",
        expect![[r#"
            x: 1
            a: 1
            c: <1>
            d: 100%
            e: /p?
            f: GET-a
            g: 0
            h: HTTP/1.1
            i: 10.0.0.7
            j: 10.0.0.7:4711
            k: 1970-01-01T00:00:00.000Z
            l: spiffe://td/ns/x/sa/y
        "#]],
    );
}

#[test]
fn an_absent_value_leaves_the_header_as_it_was() {
    check(
        "GET a/ x=client",
        "x=%REQ(none)%",
        "",
        expect![[r#"
        x: client
    "#]],
    );
}

#[test]
fn replies_have_their_own_facts() {
    let asked = Asked::new("GET a/ x=1");
    let request = asked.request();
    let rule =
        Ops::for_responses(&ops("code=%RESPONSE_CODE% was=%RESP(server)% asked=%REQ(x)% server=mine -gone")).unwrap();
    let mut headers: HeaderList = [("server", "nginx"), ("gone", "1")]
        .map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()))
        .into_iter()
        .collect();
    ReplyOps::new(&rule, None, &request).apply(503, &mut headers);
    finish_reply(&mut headers);
    expect![[r#"
        server: istio-envoy
        code: 503
        was: nginx
        asked: 1
    "#]]
    .assert_eq(&lines(&headers));
}

#[test]
fn what_is_no_format_is_refused() {
    let check = |text: &str, expected: Expect| expected.assert_eq(&Format::new(text).unwrap_err().to_string());
    check("100%", expect!["a % begins what does not end; a % sign is written %%"]);
    check("%WHAT%", expect!["%WHAT% is not known"]);
    check("%REQ(x%", expect!["%REQ(x% is not known"]);
    check("%REQ(x)y%", expect!["%REQ(x)y% is not known"]);
    check("%REQ(x):y%", expect!["%REQ(x):y% is not known"]);
    check("%REQ(a b)%", expect![[r#"no header is called "a b""#]]);
    check("a\nb", expect![[r#""a\nb" cannot stand in a header"#]]);
    let error = Ops::for_responses(&ops("a/b=1")).unwrap_err();
    assert_eq!(error.to_string(), r#"no header is called "a/b""#);
}

#[test]
fn times_are_utc_to_the_millisecond() {
    let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 7);
    let value = |seconds| {
        let asked = Asked::new("GET a/");
        let request = Request { received: at(seconds), ..asked.request() };
        Format::new("%START_TIME%").unwrap().value(&Facts::of_request(&request)).unwrap()
    };
    assert_eq!(value(951_782_399), "2000-02-28T23:59:59.007Z");
    assert_eq!(value(951_868_800), "2000-03-01T00:00:00.007Z");
    assert_eq!(value(1_767_225_599), "2025-12-31T23:59:59.007Z");
}

#[track_caller]
fn sanitised(request: &str, expected: Expect) {
    let mut headers = Asked::new(request).headers;
    sanitise(&mut headers);
    expected.assert_eq(&lines(&headers));
}

#[test]
fn hop_by_hop_headers_end_here() {
    sanitised(
        "GET a/ connection=close,X-Mine connection=y keep-alive=1 proxy-connection=z x-mine=1 y=2 z=3",
        expect![[r#"
        z: 3
    "#]],
    );
    sanitised(
        "GET a/ te=gzip,trailers connection=te",
        expect![[r#"
        te: trailers
    "#]],
    );
    sanitised("GET a/ te=gzip", expect![""]);
    sanitised(
        "GET a/ connection=content-length,host,, content-length=3 host=a",
        expect![[r#"
            content-length: 3
            host: a
        "#]],
    );
}

#[test]
fn a_client_says_nothing_in_the_meshs_name() {
    sanitised(
        "GET a/ x-envoy-retry-on=5xx x-envoy-upstream-rq-timeout-ms=1 x-forwarded-client-cert=By b3=1",
        expect![[r#"
        b3: 1
    "#]],
    );
    sanitised(
        "GET a/ x-forwarded-for=1.2.3.4 forwarded=for=x x-forwarded-host=h traceparent=t x-request-id=i",
        expect![[r#"
        x-forwarded-for: 1.2.3.4
        forwarded: for=x
        x-forwarded-host: h
        traceparent: t
        x-request-id: i
    "#]],
    );
}

#[test]
fn a_request_has_an_id() {
    let mut headers = HeaderList::new();
    ensure_request_id(&mut headers, || HeaderValue::from_static("one"));
    ensure_request_id(&mut headers, || HeaderValue::from_static("two"));
    assert_eq!(lines(&headers), "x-request-id: one\n");
}

proptest! {
    #[test]
    fn arbitrary_formats_never_panic(text in "[ -~ü\\n]{0,20}|(%REQ\\([a-z?:]{0,9}\\)(:[0-9]{0,3})?%|%%|x){0,4}") {
        let asked = Asked::new("GET a/p x=1 y=2");
        if let Ok(format) = Format::new(&text) {
            format.value(&Facts::of_request(&asked.request()));
        }
    }

    #[test]
    fn arbitrary_connection_headers_never_panic(named in "[a-z,: -]{0,30}") {
        let mut headers = HeaderList::new();
        headers.insert("connection", named.parse().unwrap());
        headers.insert("te", named.parse().unwrap());
        sanitise(&mut headers);
    }
}

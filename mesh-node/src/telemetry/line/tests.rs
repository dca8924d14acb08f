use std::time::{Instant, UNIX_EPOCH};

use mesh_core::addr::{PodAddr, TunnelAddr};
use mesh_net::logging::line::{Clock, Form};

use super::*;
use crate::connection::{Direction, Facts, Security};
use crate::telemetry::ACCESS;

fn written(form: Form, facts: Facts, end: &End) -> String {
    let live = Live::new(7, facts, Instant::now(), Arc::default(), None);
    live.count_all(5, 6);
    let mut text = Vec::new();
    let mut line = Line::begin(&mut text, form, &mut Clock::default(), UNIX_EPOCH, ACCESS, MESSAGE);
    fill(&live, end, &mut line);
    line.end();
    String::from_utf8(text).expect("text")
}

fn facts() -> Facts {
    Facts::new(Direction::Outbound, ([10, 0, 0, 1], 40000).into(), ([10, 0, 0, 2], 80).into())
}

/// What tracing's own writers made of the same fields, by which people have set up their collectors.
#[test]
fn a_line_says_what_is_known() {
    let mut facts = facts();
    facts.security = Security::MutualTls;
    facts.source_identity = SpiffeId::new("td", "shop", "web").ok();
    facts.from_node = true;
    facts.target = Some(PodAddr::new(([10, 0, 0, 3], 8080).into()));
    facts.tunnel = Some(TunnelAddr::new(([10, 0, 0, 3], 15008).into()));
    let end = End::because("reset", "the \"client\" reset it");
    assert_eq!(
        written(Form::Json, facts.clone(), &end),
        concat!(
            r#"{"timestamp":"1970-01-01T00:00:00.000000Z","level":"INFO","message":"connection complete","#,
            r#""direction":"outbound","src.addr":"10.0.0.1:40000","src.identity":"spiffe://td/ns/shop/sa/web","#,
            r#""src.node":true,"dst.addr":"10.0.0.3:8080","dst.hbone_addr":"10.0.0.3:15008","security":"mutual_tls","#,
            r#""bytes_sent":6,"bytes_recv":5,"duration_ms":0,"reason":"reset","error":"the \"client\" reset it","#,
            r#""target":"access"}"#,
            "\n"
        )
    );
    assert_eq!(
        written(Form::Text, facts, &end),
        concat!(
            r#"1970-01-01T00:00:00.000000Z  INFO access: connection complete direction="outbound" src.addr=10.0.0.1:40000 "#,
            r#"src.identity="spiffe://td/ns/shop/sa/web" src.node=true dst.addr=10.0.0.3:8080 "#,
            r#"dst.hbone_addr="10.0.0.3:15008" security="mutual_tls" bytes_sent=6 bytes_recv=5 duration_ms=0 "#,
            r#"reason="reset" error="the \"client\" reset it""#,
            "\n"
        )
    );
}

#[test]
fn an_orderly_end_is_no_error_and_what_went_wrong_has_a_word_at_least() {
    let complete = written(Form::Json, facts(), &End::complete());
    assert!(complete.contains(r#""reason":"complete","target""#), "{complete}");
    let silent = written(Form::Json, facts(), &End::because("reset", ""));
    assert!(silent.contains(r#""reason":"reset","error":"reset""#), "{silent}");
}

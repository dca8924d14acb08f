use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_core::identity::SpiffeId;
use proptest::prelude::*;
use tracing::info;

use super::*;
use crate::client::Client;
use crate::telemetry::record::GrpcStatus;

fn record(words: &[(Word, &str)]) -> Record {
    let client = Client {
        identity: SpiffeId::new("td", "shop", "web").unwrap(),
        address: "10.0.0.9:4000".parse().unwrap(),
        workload: None,
    };
    let mut record = Record::new(Arc::new(client), "[2001:db8::7]:80".parse().unwrap(), "HTTP/1.1");
    record.took = Duration::from_micros(1_001_999);
    for (word, text) in words {
        record.texts.set(*word, text);
    }
    record
}

/// What the log's own writer makes of the same fields.
fn by_the_log(record: &Record, form: Form) -> String {
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let sink = Sink::default();
    let make = {
        let sink = sink.clone();
        move || sink.clone()
    };
    let tell = || {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let word = |word| some(record.texts.get(word));
        info!(
            target: ACCESS,
            method = word(Word::Method),
            path = word(Word::Path),
            protocol = record.protocol,
            authority = word(Word::Authority),
            response_code = record.status,
            response_flags = record.flags,
            response_code_details = some(&record.details),
            grpc_status = record.grpc_status.map(|status| status.0.to_string()),
            upstream_transport_failure_reason = some(&record.failure),
            bytes_received = record.received,
            bytes_sent = record.sent,
            duration = 1001_u64,
            attempts = record.attempts,
            x_forwarded_for = word(Word::ForwardedFor),
            user_agent = word(Word::UserAgent),
            request_id = word(Word::RequestId),
            upstream_host = record.upstream.map(|address| address.to_string()),
            upstream_cluster = None::<String>,
            upstream_workload = None::<String>,
            downstream_local_address = %record.asked,
            downstream_remote_address = %record.client.address,
            downstream_identity = %record.client.identity,
            downstream_workload = None::<String>,
            route_name = record.route.as_deref(),
            "request complete"
        );
    };
    let log = tracing_subscriber::fmt().with_writer(make).with_ansi(false);
    match form {
        Form::Text => tracing::subscriber::with_default(log.finish(), tell),
        Form::Json => {
            tracing::subscriber::with_default(log.json().flatten_event(true).with_current_span(false).finish(), tell)
        }
    }
    let written = sink.0.lock().unwrap().clone();
    String::from_utf8(written).unwrap()
}

fn ours(record: &Record, form: Form) -> String {
    let mut line = Vec::new();
    append(record, form, &mut Clock::default(), &mut line);
    String::from_utf8(line).unwrap()
}

/// Without the time, which is as long in each.
fn undated(line: &str, form: Form) -> (String, usize) {
    let at = if form == Form::Json { "{\"timestamp\":\"".len() } else { 0 };
    let time = "2026-11-22T07:45:16.000001Z".len();
    (format!("{}{}", &line[..at], &line[at + time..]), line.len())
}

#[test]
fn a_line_is_what_the_log_would_have_written() {
    let mut full = record(&[
        (Word::Method, "GET"),
        (Word::Path, "/a?\"b\"\\"),
        (Word::Authority, "web"),
        (Word::RequestId, "7"),
        (Word::UserAgent, "curl/8 (é)"),
        (Word::ForwardedFor, "10.0.0.1"),
    ]);
    full.status = 503;
    full.flags = "UF";
    full.details = "via_upstream".into();
    full.failure = "dial 10.0.0.1:80: \tno".to_owned();
    full.grpc_status = Some(GrpcStatus(14));
    full.upstream = Some("10.0.0.255:65535".parse().unwrap());
    full.route = Some("shop/r".into());
    (full.received, full.sent, full.attempts) = (u64::MAX, 10, 3);
    for record in [full, record(&[])] {
        for form in [Form::Text, Form::Json] {
            let ours = ours(&record, form);
            assert_eq!(undated(&ours, form), undated(&by_the_log(&record, form), form));
        }
    }
}

proptest! {
    #[test]
    fn whatever_a_client_says_a_line_is_one_line(path: String, agent: Vec<u8>) {
        let mut record = record(&[(Word::Path, &path)]);
        record.texts.set_bytes(Word::UserAgent, &agent);
        for form in [Form::Text, Form::Json] {
            let line = ours(&record, form);
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(line.ends_with('\n'));
            if form == Form::Json {
                let read: serde_json::Value = serde_json::from_str(&line).unwrap();
                prop_assert_eq!(read["path"].as_str().unwrap_or_default(), &path);
            }
        }
    }
}

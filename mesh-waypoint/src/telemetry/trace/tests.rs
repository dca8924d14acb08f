use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, UNIX_EPOCH};

use expect_test::expect;
use http::{HeaderName, HeaderValue};
use mesh_core::identity::SpiffeId;
use mesh_core::l7::telemetry::Place;
use mesh_net::header_list::HeaderList;
use prost::Message;

use super::*;
use crate::client::Client;
use crate::telemetry::record::{GrpcStatus, Word};

fn provider(protocol: ProviderProtocol) -> Provider {
    let place = Place::Host("collector".into());
    let (headers, timeout, longest_path) = (Vec::new(), None, None);
    Provider { protocol, place, port: 1, path: "".into(), headers, timeout, longest_path, short_ids: false }
}

fn tracer(protocol: ProviderProtocol) -> (Tracer, Receiver<Told>) {
    Tracer::new(Some(provider(protocol)), origin(), Counts::default())
}

fn origin() -> Origin {
    Origin {
        service: "gate.shop".to_owned(),
        gateway: "gate".into(),
        namespace: "shop".into(),
        cluster: "c".into(),
        mesh: "td".into(),
        pod: "gate-1".into(),
    }
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderList {
    lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

fn record() -> Record {
    let client = Client {
        identity: SpiffeId::new("td", "shop", "web").unwrap(),
        address: SocketAddr::from(([10, 0, 0, 9], 4000)),
        workload: None,
    };
    let mut record = Record::new(Arc::new(client), SocketAddr::from(([10, 96, 0, 7], 80)), "HTTP/2");
    for (word, text) in [(Word::Method, "GET"), (Word::Path, "/a?b"), (Word::Authority, "web"), (Word::RequestId, "7")]
    {
        record.texts.set(word, text);
    }
    (record.status, record.received, record.sent) = (503, 1, 2);
    record.upstream = Some(SocketAddr::from(([10, 0, 0, 1], 8080)));
    record.grpc_status = Some(GrpcStatus(14));
    record.took = Duration::from_micros(1500);
    record
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

#[test]
fn what_was_decided_holds_and_the_rest_is_drawn() {
    let (tracer, _told) = tracer(ProviderProtocol::OtlpGrpc);
    let decide = |percent: Option<f64>, lines: &[(&'static str, &str)], forced| {
        let model = Tracing { sampling: percent.map(Share::percent), ..Tracing::default() };
        let begun = tracer.begin(&model, &headers(lines), forced);
        begun.map(|begun| begun.told.is_some())
    };
    let ids = [("x-b3-traceid", "00000000000000010000000000000001"), ("x-b3-spanid", "0000000000000001")];
    // `None`: nothing of it is touched.
    for (percent, lines, forced, told) in [
        (Some(0.0), &[("traceparent", PARENT)][..], false, Some(true)),
        (Some(100.0), &[("traceparent", UNSAMPLED)], false, None),
        (Some(100.0), &[("traceparent", UNSAMPLED)], true, None),
        (Some(100.0), &[("b3", "0")], false, None),
        (Some(0.0), &[("x-b3-sampled", "1")], false, Some(true)),
        (Some(100.0), &ids, false, Some(true)),
        (Some(0.0), &ids, false, Some(false)),
        (Some(100.0), &[], false, Some(true)),
        (Some(0.0), &[], false, Some(false)),
        (Some(0.0), &[], true, Some(true)),
    ] {
        assert_eq!(decide(percent, lines, forced), told, "{percent:?} {lines:?} {forced}");
    }
    let told = (0..20_000).filter(|_| decide(None, &[], false) == Some(true)).count();
    assert!((100..320).contains(&told), "{told} of 20,000 at one in a hundred");
}

#[test]
fn without_a_collector_or_where_it_is_off_requests_go_on_as_they_came() {
    let traced = headers(&[("traceparent", PARENT)]);
    assert!(Tracer::default().begin(&Tracing::default(), &traced, true).is_none());
    let (none, _told) = Tracer::new(None, origin(), Counts::default());
    assert!(none.begin(&Tracing::default(), &traced, true).is_none());
    // A model may name one.
    let named = Tracing { provider: Some(Arc::new(provider(ProviderProtocol::Zipkin))), ..Tracing::default() };
    assert!(none.begin(&named, &traced, false).is_some());
    let (tracer, _told) = tracer(ProviderProtocol::Zipkin);
    let off = Tracing { disabled: true, ..Tracing::default() };
    assert!(tracer.begin(&off, &traced, true).is_none());
}

#[test]
fn a_trace_that_begins_here_is_written_as_the_collector_knows_it() {
    for (protocol, names) in [
        (ProviderProtocol::OtlpGrpc, &["traceparent"][..]),
        (ProviderProtocol::OtlpHttp, &["traceparent"]),
        (ProviderProtocol::Zipkin, &["x-b3-sampled", "x-b3-spanid", "x-b3-traceid"]),
    ] {
        let (tracer, _told) = tracer(protocol);
        for forced in [true, false] {
            let model = Tracing { sampling: Some(Share(0)), ..Tracing::default() };
            let mut headers = HeaderList::new();
            tracer.begin(&model, &headers, forced).unwrap().write(&mut headers);
            let mut written: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
            written.sort_unstable();
            assert_eq!(written, names);
            assert_eq!(Incoming::read(&headers).sampled, Some(forced));
        }
    }
}

#[test]
fn tags_come_from_texts_the_environment_and_headers() {
    let path = env::var("PATH").unwrap();
    let tag = |value| serde_json::from_value::<Tag>(value).unwrap();
    let tags: BTreeMap<Arc<str>, Tag> = [
        ("literal".into(), tag(serde_json::json!({ "literal": "x" }))),
        ("path".into(), tag(serde_json::json!({ "environment": { "name": "PATH", "default": "d" } }))),
        ("none".into(), tag(serde_json::json!({ "environment": { "name": "WEFT_NO_SUCH", "default": "d" } }))),
        ("header".into(), tag(serde_json::json!({ "header": { "name": "x-team", "default": "d" } }))),
        ("absent".into(), tag(serde_json::json!({ "header": { "name": "x-no", "default": "d" } }))),
        ("nothing".into(), tag(serde_json::json!({ "header": { "name": "x-no", "default": "" } }))),
    ]
    .into();
    let model = Tracing { tags, ..Tracing::default() };
    let told: Vec<_> = super::tags(&model, &headers(&[("x-team", "blue")]));
    let told: Vec<_> = told.iter().map(|(name, value)| (&**name, value.as_str())).collect();
    let all = [("absent", "d"), ("header", "blue"), ("literal", "x"), ("none", "d"), ("path", &*path)];
    assert_eq!(told, all);
}

#[test]
fn ids_and_paths_are_as_long_as_the_provider_says() {
    let (tracer, mut told) = tracer(ProviderProtocol::OtlpGrpc);
    let own = Provider { longest_path: Some(2), short_ids: true, ..provider(ProviderProtocol::Zipkin) };
    let model = Tracing { provider: Some(Arc::new(own)), ..Tracing::default() };
    let parent = [("x-b3-traceid", "463ac35c9f6413ad48485a3953bb6124"), ("x-b3-spanid", "0000000000000001")];
    for (lines, digits) in [(&[][..], 16), (&parent[..], 32)] {
        let mut headers = headers(lines);
        let begun = tracer.begin(&model, &headers, true).unwrap();
        begun.write(&mut headers);
        assert_eq!(headers.get("x-b3-traceid").unwrap().len(), digits, "{lines:?}");
        tracer.end(begun, &record());
        let (_, span) = told.try_recv().unwrap();
        let url = span.tags.iter().find(|(name, _)| name == "http.url").map(|(_, url)| url.as_str());
        assert_eq!(url, Some("http://web/a"));
    }
}

/// One span, with ids and times that are known.
fn span(lines: &[(&'static str, &str)]) -> Span {
    let (tracer, mut told) = tracer(ProviderProtocol::Zipkin);
    let tags = [("http.method".into(), Tag::Literal("mine".into()))].into();
    let model = Tracing { tags, ..Tracing::default() };
    let begun = tracer.begin(&model, &headers(lines), true).unwrap();
    tracer.end(begun, &record());
    let (_, mut span) = told.try_recv().unwrap();
    (span.ids.span, span.began) = (0xabc, UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_123));
    span
}

#[test]
fn zipkin_is_told_in_its_json() {
    let written =
        zipkin::request(&[span(&[("x-b3-traceid", "00000000000000ff"), ("x-b3-spanid", "0000000000000001")])]);
    let read: serde_json::Value = serde_json::from_slice(&written).unwrap();
    expect![[r#"
        [
          {
            "duration": 1500,
            "id": "0000000000000abc",
            "kind": "SERVER",
            "localEndpoint": {
              "serviceName": "gate.shop"
            },
            "name": "10.96.0.7:80/*",
            "parentId": "0000000000000001",
            "remoteEndpoint": {
              "ipv4": "10.0.0.9",
              "port": 4000
            },
            "tags": {
              "component": "proxy",
              "downstream_cluster": "-",
              "error": "true",
              "grpc.status_code": "14",
              "guid:x-request-id": "7",
              "http.method": "mine",
              "http.protocol": "HTTP/2",
              "http.status_code": "503",
              "http.url": "http://web/a?b",
              "istio.canonical_revision": "latest",
              "istio.canonical_service": "gate",
              "istio.cluster_id": "c",
              "istio.mesh_id": "td",
              "istio.namespace": "shop",
              "istio.source_principal": "spiffe://td/ns/shop/sa/web",
              "node_id": "gate-1",
              "peer.address": "10.0.0.9",
              "request_size": "1",
              "response_flags": "-",
              "response_size": "2",
              "upstream_address": "10.0.0.1:8080",
              "upstream_cluster": "-",
              "upstream_cluster.name": "-"
            },
            "timestamp": 1700000000000000,
            "traceId": "00000000000000ff"
          }
        ]"#]]
    .assert_eq(&serde_json::to_string_pretty(&read).unwrap());
}

#[test]
fn otlp_is_told_in_its_protobuf() {
    let mut span = span(&[("traceparent", PARENT), ("tracestate", "a=1")]);
    span.tags.truncate(1);
    let message = otlp::request(&[span]);
    let [of_one] = &message.resource_spans[..] else { panic!("one origin") };
    let hex: String = of_one.scope_spans[0].spans[0].encode_to_vec().iter().map(|byte| format!("{byte:02x}")).collect();
    // Each line: the field's number and kind, its length, its value (opentelemetry.proto.trace.v1.Span).
    let expected = [
        "0a10 4bf92f3577b34da6a3ce929d0e0e4736",
        "1208 0000000000000abc",
        "1a03 613d31",
        "2208 00f067aa0ba902b7",
        "2a0e 31302e39362e302e373a38302f2a",
        "30 02",
        "39 7b002a36fe9c9717",
        "41 dbe34036fe9c9717",
        "4a14 0a09 636f6d706f6e656e74 1207 0a05 70726f7879",
        "7a02 18 02",
        "8501 01030000",
    ];
    assert_eq!(hex, expected.concat().replace(' ', ""));
    let resource = of_one.resource.as_ref().unwrap().attributes.iter();
    let name = resource.filter(|pair| pair.key == "service.name").map(|pair| format!("{:?}", pair.value));
    assert!(name.eq(["Some(AnyValue { value: Some(StringValue(\"gate.shop\")) })"]));
}

#[test]
fn a_queue_that_is_full_costs_spans_and_nothing_else() {
    let counts = Counts::default();
    let (tracer, told) = Tracer::new(Some(provider(ProviderProtocol::Zipkin)), origin(), counts.clone());
    for _ in 0..WAITING + 10 {
        let begun = tracer.begin(&Tracing::default(), &HeaderList::new(), true).unwrap();
        tracer.end(begun, &record());
    }
    assert_eq!(told.len(), WAITING);
    assert_eq!(counts.dropped.get_or_create(&Reason { reason: "queue" }).get(), 10);
}

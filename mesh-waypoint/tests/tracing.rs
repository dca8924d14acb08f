//! Spans of requests through a waypoint: what backends and collectors see, and what collectors that fail cost.

#[path = "support/bench.rs"]
#[allow(dead_code)]
mod bench;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bench::{Bench, Body, Server, key, nobody, text};
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use mesh_core::l7::route::Share;
use mesh_core::l7::telemetry::{FieldValue, Place, Provider, ProviderProtocol};
use mesh_waypoint::export::Running;
use mesh_waypoint::keys::Keys;
use mesh_waypoint::telemetry::trace::{Counts, Origin, Tracer};
use mesh_waypoint::wire::opentelemetry::proto::trace::v1::{ExportTraceServiceRequest, Span};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use prost::Message;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

struct Traced {
    bench: Bench,
    counts: Counts,
    running: Running,
}

impl Traced {
    /// All requests are told to `collector`, which is a service of the mesh unless it is named by its address.
    async fn new(collector: std::net::SocketAddr, protocol: ProviderProtocol, is_service: bool) -> Self {
        let mut bench = Bench::new(&[("collector", collector)], Keys::default(), |model| {
            model.telemetry.tracing.sampling = Some(Share::ALL);
        })
        .await;
        let (host, port) = match is_service {
            true => (key("collector").hostname, 80),
            false => (collector.ip().to_string().into(), collector.port()),
        };
        let counts = Counts::default();
        let provider = provider(protocol, Place::Host(host), port);
        let (tracer, told) = Tracer::new(Some(provider), Origin::default(), counts.clone());
        let running = bench.exporter(counts.clone()).start(told);
        bench.trace(tracer);
        Self { bench, counts, running }
    }

    /// `sent dropped-by-the-collector`, when there is something to say.
    async fn counted(&self) -> String {
        until(|| {
            let mut registry = Registry::default();
            self.counts.register(&mut registry);
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            let value = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name));
                line.map_or("0", |value| value.trim()).to_owned()
            };
            let (sent, dropped) =
                (value("weft_spans_sent_total "), value("weft_spans_dropped_total{reason=\"collector\"} "));
            (sent != "0" || dropped != "0").then(|| format!("{sent} {dropped}"))
        })
        .await
    }
}

fn provider(protocol: ProviderProtocol, place: Place, port: u16) -> Provider {
    let (headers, timeout, longest_path) = (Vec::new(), None, None);
    Provider { protocol, place, port, path: "".into(), headers, timeout, longest_path, short_ids: false }
}

async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An answer of gRPC: a message and a status.
fn grpc(message: &'static [u8], status: &'static str) -> Response<Body> {
    let framed = [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()], message].concat();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    let body = Full::new(Bytes::from(framed)).with_trailers(std::future::ready(Some(Ok(trailers)))).boxed_unsync();
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

fn spans(body: &Bytes) -> Vec<Span> {
    let message = ExportTraceServiceRequest::decode(body.clone()).unwrap();
    message.resource_spans.into_iter().flat_map(|of| of.scope_spans).flat_map(|of| of.spans).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn request(traceparent: &str) -> Request<&'static str> {
    let request = Request::get("/a?b").header("traceparent", traceparent).header("tracestate", "v=1");
    request.header("x-request-id", "7").body("").unwrap()
}

#[tokio::test]
async fn a_backend_is_a_child_of_the_span_that_a_collector_hears_of() {
    let collector = Server::start(|_| grpc(&[], "0")).await;
    let traced = Traced::new(collector.address, ProviderProtocol::OtlpGrpc, true).await;
    let response = traced.bench.ask(request(&format!("00-{TRACE}-00f067aa0ba902b7-01"))).await;
    assert_eq!(response.status(), 200);
    let told = until(|| collector.seen().into_iter().next()).await;
    assert_eq!(told.uri().path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    assert_eq!(told.headers()["content-type"], "application/grpc");
    let mut body = told.body().clone();
    assert_eq!((body.get_u8(), body.get_u32() as usize), (0, body.len()));
    let [span] = &spans(&body)[..] else { panic!("one span") };
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), "00f067aa0ba902b7".to_owned()));
    assert_eq!(span.trace_state, "v=1");
    assert_eq!(span.name, "web.shop.svc.cluster.local:80/*");
    assert!(span.end_time_unix_nano > span.start_time_unix_nano);
    let tag = |name: &str| {
        let found = span.attributes.iter().find(|pair| pair.key == name);
        found.map(|pair| format!("{:?}", pair.value)).unwrap_or_default()
    };
    for (name, value) in [("http.status_code", "200"), ("guid:x-request-id", "7"), ("http.url", "http://web/a?b")] {
        assert!(tag(name).contains(value), "{name}: {}", tag(name));
    }
    let passed = &traced.bench.backend.seen()[0];
    assert_eq!(passed.headers()["traceparent"], format!("00-{TRACE}-{}-01", hex(&span.span_id)));
    assert_eq!(passed.headers()["tracestate"], "v=1");
    assert_eq!(traced.counted().await, "1 0");
}

#[tokio::test]
async fn zipkin_hears_of_it_and_the_backend_goes_on_in_b3() {
    let collector = Server::start(|_| text(202, "")).await;
    let traced = Traced::new(collector.address, ProviderProtocol::Zipkin, false).await;
    let asked = Request::get("/").header("b3", format!("{TRACE}-00f067aa0ba902b7-1")).body("").unwrap();
    assert_eq!(traced.bench.ask(asked).await.status(), 200);
    let told = until(|| collector.seen().into_iter().next()).await;
    assert_eq!(
        (told.uri().path(), &told.headers()["content-type"]),
        ("/api/v2/spans", &"application/json".parse().unwrap())
    );
    let read: serde_json::Value = serde_json::from_slice(told.body()).unwrap();
    assert_eq!((&read[0]["traceId"], &read[0]["parentId"]), (&TRACE.into(), &"00f067aa0ba902b7".into()));
    let passed = &traced.bench.backend.seen()[0];
    let b3 = format!("{TRACE}-{}-1-00f067aa0ba902b7", read[0]["id"].as_str().unwrap());
    assert_eq!(passed.headers()["b3"], b3);
    assert_eq!(traced.counted().await, "1 0");
}

#[tokio::test]
async fn a_model_names_its_own_collector_and_another_one_later() {
    let (usual, first, second) =
        (Server::start(|_| text(200, "")).await, Server::start(|_| text(200, "")).await, Server::silent().await);
    let others = [("usual", usual.address), ("first", first.address), ("second", second)];
    let collector = |name: &str| Provider {
        path: "/in".into(),
        headers: vec![
            ("x-tenant".into(), FieldValue::Literal("shop".into())),
            ("x-path".into(), FieldValue::Environment("PATH".into())),
            ("x-no".into(), FieldValue::Environment("WEFT_NO_SUCH".into())),
        ],
        timeout: Some(Duration::from_millis(300)),
        ..provider(ProviderProtocol::OtlpHttp, Place::Service(key(name)), 80)
    };
    let mut bench = Bench::new(&others, Keys::default(), |model| {
        model.telemetry.tracing.sampling = Some(Share::ALL);
        model.telemetry.tracing.provider = Some(Arc::new(collector("first")));
    })
    .await;
    let counts = Counts::default();
    let own = provider(ProviderProtocol::OtlpHttp, Place::Service(key("usual")), 80);
    let (tracer, told) = Tracer::new(Some(own), Origin::default(), counts.clone());
    let running = bench.exporter(counts.clone()).start(told);
    bench.trace(tracer);
    let mut traced = Traced { bench, counts, running };
    traced.bench.ask(Request::get("/").body("").unwrap()).await;
    let told = until(|| first.seen().into_iter().next()).await;
    assert_eq!((told.uri().path(), &told.headers()["x-tenant"]), ("/in", &HeaderValue::from_static("shop")));
    assert!(told.headers().contains_key("x-path") && !told.headers().contains_key("x-no"));
    assert_eq!(traced.counted().await, "1 0");
    // One that does not answer is given up when its provider says, and one that is no service of the mesh at once.
    for (name, dropped) in [("second", "1 1"), ("gone", "1 2")] {
        traced.bench.change(|model| model.telemetry.tracing.provider = Some(Arc::new(collector(name))));
        let began = Instant::now();
        traced.bench.ask(Request::get("/").body("").unwrap()).await;
        while traced.counted().await != dropped {
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert!(began.elapsed() < Duration::from_secs(4), "{name}: {}", traced.counted().await);
        }
    }
    traced.bench.change(|model| model.telemetry.tracing.provider = None);
    traced.bench.ask(Request::get("/").body("").unwrap()).await;
    let told = until(|| usual.seen().into_iter().next()).await;
    assert_eq!((told.uri().path(), first.count()), ("/v1/traces", 1));
}

#[tokio::test]
async fn requests_that_come_together_are_told_together() {
    let collector = Server::start(|_| text(200, "")).await;
    let traced = Traced::new(collector.address, ProviderProtocol::OtlpHttp, true).await;
    for _ in 0..20 {
        assert_eq!(traced.bench.ask(Request::get("/").body("").unwrap()).await.status(), 200);
    }
    let told = until(|| {
        let told: Vec<_> = collector.seen().iter().map(|request| spans(request.body()).len()).collect();
        (told.iter().sum::<usize>() == 20).then_some(told)
    })
    .await;
    assert!(told.len() < 10, "{told:?}");
    assert_eq!(collector.seen()[0].uri().path(), "/v1/traces");
}

#[tokio::test]
async fn what_is_not_to_be_told_goes_on_as_it_came() {
    let collector = Server::start(|_| grpc(&[], "0")).await;
    let traced = Traced::new(collector.address, ProviderProtocol::OtlpGrpc, true).await;
    let unsampled = format!("00-{TRACE}-00f067aa0ba902b7-00");
    traced.bench.ask(request(&unsampled)).await;
    assert_eq!(traced.bench.backend.seen()[0].headers()["traceparent"], unsampled);
    traced.bench.ask(request("malformed")).await;
    let told = until(|| collector.seen().into_iter().next()).await;
    let [span] = &spans(&told.body().slice(5..))[..] else { panic!("one span") };
    assert!(hex(&span.trace_id) != TRACE && span.parent_span_id.is_empty() && span.trace_state.is_empty());
    assert!(!traced.bench.backend.seen()[1].headers().contains_key("tracestate"));
}

#[tokio::test]
async fn collectors_that_fail_cost_spans_and_no_time() {
    // 2 of 1 spans refused, in a partial success (field 1 of it), is what a liar says.
    let liar = Server::start(|_| grpc(&[0x0a, 0x02, 0x08, 0x02], "0")).await;
    let busy = Server::start(|_| grpc(&[], "14")).await;
    let mute = Server::start(|_| text(200, "")).await;
    let endless = Server::start(|_| text(200, vec![b'x'; 1 << 20])).await;
    let grpc = ProviderProtocol::OtlpGrpc;
    for (collector, protocol, counted) in [
        (liar.address, grpc, "0 1"),
        (busy.address, grpc, "0 1"),
        (mute.address, grpc, "0 1"),
        (endless.address, ProviderProtocol::Zipkin, "0 1"),
        (nobody().await, ProviderProtocol::Zipkin, "0 1"),
        (Server::silent().await, grpc, "0 1"),
    ] {
        let traced = Traced::new(collector, protocol, true).await;
        let began = Instant::now();
        assert_eq!(traced.bench.ask(Request::get("/").body("").unwrap()).await.status(), 200);
        assert!(began.elapsed() < Duration::from_secs(2), "{collector}");
        assert_eq!(traced.counted().await, counted, "{collector}");
    }
}

#[tokio::test]
async fn a_collector_that_comes_back_is_told_again_and_the_last_spans_go_out_at_the_end() {
    let fails = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let collector = {
        let fails = fails.clone();
        Server::start(move |_| text(if fails.load(std::sync::atomic::Ordering::SeqCst) { 503 } else { 202 }, "")).await
    };
    let traced = Traced::new(collector.address, ProviderProtocol::Zipkin, true).await;
    let ask = || traced.bench.ask(Request::get("/").body("").unwrap());
    ask().await;
    assert_eq!(traced.counted().await, "0 1");
    fails.store(false, std::sync::atomic::Ordering::SeqCst);
    ask().await;
    // It does not wait for the batch to be full, nor for others to come.
    let began = Instant::now();
    traced.running.finish(Duration::from_secs(5)).await;
    assert!(began.elapsed() < Duration::from_millis(900));
    assert_eq!(collector.count(), 2);
}

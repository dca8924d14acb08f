//! Spans as OTLP says them.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;

use super::span::Span;
use crate::wire::opentelemetry::proto::trace::v1 as wire;

/// The method of a collector's service.
pub const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Of the kinds of spans.
const SERVER: i32 = 2;
const ERROR: i32 = 2;
/// What came first is from another process, and that is known (flags of OTLP's `Span`, bits 8 and 9).
const REMOTE: u32 = 0x300;

/// All spans have one origin.
pub fn request(spans: &[Span]) -> wire::ExportTraceServiceRequest {
    let Some(first) = spans.first() else { return wire::ExportTraceServiceRequest::default() };
    let origin = &first.origin;
    let attributes = [
        ("service.name", &*origin.service),
        ("service.namespace", &*origin.namespace),
        ("k8s.cluster.name", &*origin.cluster),
        ("k8s.namespace.name", &*origin.namespace),
        ("k8s.pod.name", &*origin.pod),
    ];
    let scope = wire::InstrumentationScope { name: "weft".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let resource = wire::Resource { attributes: attributes.into_iter().map(|(k, v)| pair(k, v)).collect() };
    let scope_spans = vec![wire::ScopeSpans { scope: Some(scope), spans: spans.iter().map(span).collect() }];
    let of_one = wire::ResourceSpans { resource: Some(resource), scope_spans };
    wire::ExportTraceServiceRequest { resource_spans: vec![of_one] }
}

fn span(span: &Span) -> wire::Span {
    let began = span.began.duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanoseconds = |since: Duration| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
    let parent = span.parent.map(u64::to_be_bytes);
    wire::Span {
        trace_id: Bytes::copy_from_slice(&span.ids.trace.to_be_bytes()),
        span_id: Bytes::copy_from_slice(&span.ids.span.to_be_bytes()),
        trace_state: span.state.clone(),
        parent_span_id: parent.map(|id| Bytes::copy_from_slice(&id)).unwrap_or_default(),
        name: span.name.clone(),
        kind: SERVER,
        start_time_unix_nano: nanoseconds(began),
        end_time_unix_nano: nanoseconds(began + span.took),
        attributes: span.tags.iter().map(|(name, value)| pair(name, value)).collect(),
        status: span.is_error.then(|| wire::Status { message: String::new(), code: ERROR }),
        flags: u32::from(span.flags) | if span.parent.is_some() { REMOTE } else { 0 },
    }
}

fn pair(key: &str, value: &str) -> wire::KeyValue {
    let value = wire::AnyValue { value: Some(wire::any_value::Value::StringValue(value.to_owned())) };
    wire::KeyValue { key: key.to_owned(), value: Some(value) }
}

//! A collector of traces: OTLP over gRPC. For each span it prints a line of JSON with `service` (who tells it), `name`, `trace`,
//! `parent` (both in digits) and `tags`. Runs inside pods.

use std::collections::BTreeMap;

use anyhow::Result;
use mesh_waypoint::wire::opentelemetry::proto::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, KeyValue, any_value,
};
use serde_json::json;
use weft_tests::unary::{self, Method};

fn main() -> Result<()> {
    unary::main::<Export>()
}

struct Export;

impl Method for Export {
    const SERVICE: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
    type Asked = ExportTraceServiceRequest;
    type Answer = ExportTraceServiceResponse;

    fn answer(asked: ExportTraceServiceRequest) -> ExportTraceServiceResponse {
        for told in asked.resource_spans {
            let who = texts(told.resource.iter().flat_map(|resource| &resource.attributes));
            for span in told.scope_spans.iter().flat_map(|scope| &scope.spans) {
                let line = json!({
                    "service": who.get("service.name"),
                    "name": span.name,
                    "trace": digits(&span.trace_id),
                    "parent": digits(&span.parent_span_id),
                    "tags": texts(&span.attributes),
                });
                println!("{line}");
            }
        }
        ExportTraceServiceResponse::default()
    }
}

fn texts<'a>(pairs: impl IntoIterator<Item = &'a KeyValue>) -> BTreeMap<&'a str, &'a str> {
    let text = |pair: &'a KeyValue| {
        let any_value::Value::StringValue(text) = pair.value.as_ref()?.value.as_ref()?;
        Some((pair.key.as_str(), text.as_str()))
    };
    pairs.into_iter().filter_map(text).collect()
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

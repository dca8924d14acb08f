//! A collector of traces: OTLP over gRPC. For each span it prints a line of JSON with `service` (who tells it), `name`, `trace`,
//! `parent` (both in digits) and `tags`. Runs inside pods.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::{Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};
use clap::Parser;
use mesh_waypoint::wire::opentelemetry::proto::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, KeyValue, any_value,
};
use serde_json::json;
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status, body::Body};
use tonic_prost::ProstCodec;

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    port: u16,
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let on = SocketAddr::from((Ipv6Addr::UNSPECIFIED, Arguments::parse().port));
    runtime.block_on(async { Server::builder().add_service(Collector).serve(on).await.context("serve") })
}

#[derive(Clone)]
struct Collector;

impl NamedService for Collector {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl Service<http::Request<Body>> for Collector {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).unary(Export, request).await) })
    }
}

struct Export;

impl UnaryService<ExportTraceServiceRequest> for Export {
    type Response = ExportTraceServiceResponse;
    type Future = Ready<Result<Response<ExportTraceServiceResponse>, Status>>;

    fn call(&mut self, request: Request<ExportTraceServiceRequest>) -> Self::Future {
        for told in request.into_inner().resource_spans {
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
        ready(Ok(Response::new(ExportTraceServiceResponse::default())))
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

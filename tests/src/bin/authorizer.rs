//! An authorizer as the reference's proxy asks it (`envoy.service.auth.v3.Authorization/Check`), with no more of its messages than is
//! needed here: a request whose header `x-pass` is `yes` may pass and is told who let it. Runs inside pods.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::{Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};
use clap::Parser;
use prost::Message;
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

#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    attributes: Option<Attributes>,
}

#[derive(Clone, PartialEq, Message)]
struct Attributes {
    #[prost(message, optional, tag = "4")]
    request: Option<Asked>,
}

#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(message, optional, tag = "2")]
    http: Option<HttpRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct HttpRequest {
    #[prost(map = "string, string", tag = "3")]
    headers: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Code>,
    #[prost(message, optional, tag = "2")]
    denied: Option<Denied>,
    #[prost(message, optional, tag = "3")]
    allowed: Option<Allowed>,
}

/// `google.rpc.Status`, and Envoy's `HttpStatus`.
#[derive(Clone, PartialEq, Message)]
struct Code {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Denied {
    #[prost(message, optional, tag = "1")]
    status: Option<Code>,
    #[prost(string, tag = "3")]
    body: String,
}

#[derive(Clone, PartialEq, Message)]
struct Allowed {
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderOption>,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderOption {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let on = SocketAddr::from((Ipv6Addr::UNSPECIFIED, Arguments::parse().port));
    runtime.block_on(async { Server::builder().add_service(Authorizer).serve(on).await.context("serve") })
}

#[derive(Clone)]
struct Authorizer;

impl NamedService for Authorizer {
    const NAME: &'static str = "envoy.service.auth.v3.Authorization";
}

impl Service<http::Request<Body>> for Authorizer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).unary(Check, request).await) })
    }
}

struct Check;

impl UnaryService<CheckRequest> for Check {
    type Response = CheckResponse;
    type Future = Ready<Result<Response<CheckResponse>, Status>>;

    fn call(&mut self, request: Request<CheckRequest>) -> Self::Future {
        let http = request.into_inner().attributes.and_then(|all| all.request).and_then(|asked| asked.http);
        let passes = http.is_some_and(|http| http.headers.get("x-pass").is_some_and(|value| value == "yes"));
        let header = Header { key: "x-let-in-by".to_owned(), value: "authorizer".to_owned() };
        ready(Ok(Response::new(match passes {
            true => CheckResponse {
                status: Some(Code { code: 0 }),
                denied: None,
                allowed: Some(Allowed { headers: vec![HeaderOption { header: Some(header) }] }),
            },
            false => CheckResponse {
                status: Some(Code { code: 7 }),
                denied: Some(Denied { status: Some(Code { code: 451 }), body: "not without a pass".to_owned() }),
                allowed: None,
            },
        })))
    }
}

//! A gRPC server and its client, both without generated code: one call that is answered once, and one in which both ends
//! speak in turns. The server says that it is healthy when a kubelet asks (`grpc.health.v1`). Runs inside pods.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::{Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream::{self, StreamExt as _};
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming, body::Body};
use tonic_prost::ProstCodec;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    Serve {
        #[arg(long)]
        port: u16,
    },
    /// Asks once for who it is, then says numbers in a stream, each after the answer to the one before
    Call {
        to: SocketAddr,
        #[arg(long, default_value_t = 100)]
        turns: u32,
    },
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match Arguments::parse().role {
            Role::Serve { port } => {
                let on = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
                Server::builder().add_service(Echo).add_service(Health).serve(on).await.context("serve")
            }
            Role::Call { to, turns } => call(to, turns).await,
        }
    })
}

async fn call(to: SocketAddr, turns: u32) -> Result<()> {
    let channel = Endpoint::from_shared(format!("http://{to}"))?.connect().await?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let who = client.unary(Request::new(String::new()), PathAndQuery::from_static(WHO), codec()).await?;
    println!("{}", who.into_inner());

    let (say, said) = tokio::sync::mpsc::channel(1);
    let said = tokio_stream::wrappers::ReceiverStream::new(said);
    client.ready().await?;
    let answers = client.streaming(Request::new(said), PathAndQuery::from_static(CHAT), codec()).await?;
    let mut answers = answers.into_inner();
    for turn in 0..turns {
        say.send(turn.to_string()).await?;
        let answer = answers.next().await.context("the stream ended early")??;
        if answer != turn.to_string() {
            bail!("{answer:?} is no answer to {turn}");
        }
    }
    drop(say);
    if let Some(more) = answers.next().await {
        bail!("{more:?} after the last turn");
    }
    println!("{turns} turns");
    Ok(())
}

/// A string of gRPC is `google.protobuf.StringValue`.
fn codec() -> ProstCodec<String, String> {
    ProstCodec::default()
}

#[derive(Clone)]
struct Echo;

impl tonic::server::NamedService for Echo {
    const NAME: &'static str = "weft.test.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut server = tonic::server::Grpc::new(codec());
            Ok(match request.uri().path() {
                WHO => server.unary(Who, request).await,
                CHAT => server.streaming(Chat, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// Answers with the address that the caller has for the server.
struct Who;

impl Service<Request<String>> for Who {
    type Response = Response<String>;
    type Error = Status;
    type Future = Ready<Result<Response<String>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let caller = request.remote_addr().map(|caller| caller.ip().to_canonical().to_string());
        ready(caller.map(Response::new).ok_or_else(|| Status::internal("no address")))
    }
}

/// Sends back each message of a stream as it comes.
struct Chat;

impl Service<Request<Streaming<String>>> for Chat {
    type Response = Response<Streaming<String>>;
    type Error = Status;
    type Future = Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<String>>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

/// Says of the server as a whole that it serves, and of services by name that there is none.
#[derive(Clone)]
struct Health;

impl tonic::server::NamedService for Health {
    const NAME: &'static str = "grpc.health.v1.Health";
}

impl Service<http::Request<Body>> for Health {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            // A request has a string as its field 1, and an answer an enumeration: what wrappers of a string and a number have.
            let mut server = tonic::server::Grpc::new(ProstCodec::<i32, String>::default());
            Ok(match request.uri().path() {
                CHECK => server.unary(Check, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

struct Check;

impl Service<Request<String>> for Check {
    type Response = Response<i32>;
    type Error = Status;
    type Future = Ready<Result<Response<i32>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        ready(match request.get_ref().as_str() {
            "" => Ok(Response::new(SERVING)),
            other => Err(Status::not_found(format!("no service {other:?}"))),
        })
    }
}

const CHECK: &str = "/grpc.health.v1.Health/Check";
/// Of `grpc.health.v1.HealthCheckResponse.ServingStatus`.
const SERVING: i32 = 1;
const WHO: &str = "/weft.test.Echo/Who";
const CHAT: &str = "/weft.test.Echo/Chat";

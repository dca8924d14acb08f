//! A gRPC server with one method that is answered once, without generated code: what is asked and how it is answered is the
//! program's that runs it.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::net::{Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};
use clap::Parser;
use prost::Message;
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status, body::Body};
use tonic_prost::ProstCodec;

/// The method.
pub trait Method: Send + Sync + 'static {
    /// In full, as in `package.Service`.
    const SERVICE: &'static str;
    type Asked: Message + Default + 'static;
    type Answer: Message + Default + 'static;

    fn answer(asked: Self::Asked) -> Self::Answer;
}

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    port: u16,
}

/// Serves it on the port that the arguments name, every address, until it is ended: all that a program of this kind does.
///
/// # Errors
/// When the port cannot be had.
pub fn main<M: Method>() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let on = SocketAddr::from((Ipv6Addr::UNSPECIFIED, Arguments::parse().port));
    runtime.block_on(async { Server::builder().add_service(Only::<M>(PhantomData)).serve(on).await.context("serve") })
}

struct Only<M>(PhantomData<M>);

impl<M> Clone for Only<M> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<M: Method> NamedService for Only<M> {
    const NAME: &'static str = M::SERVICE;
}

impl<M: Method> Service<http::Request<Body>> for Only<M> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let only = self.clone();
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).unary(only, request).await) })
    }
}

impl<M: Method> UnaryService<M::Asked> for Only<M> {
    type Response = M::Answer;
    type Future = Ready<Result<Response<M::Answer>, Status>>;

    fn call(&mut self, request: Request<M::Asked>) -> Self::Future {
        ready(Ok(Response::new(M::answer(request.into_inner()))))
    }
}

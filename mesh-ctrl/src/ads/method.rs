//! The method as HTTP: gRPC's framing with message bodies that are shared among agents. (tonic's own would copy every message for
//! each agent, and compress it for each.)

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::body::{Body as HttpBody, Frame};
use mesh_net::grpc::DISCOVERY_SERVICE;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::{Request, Status};
use tower_service::Service;

use super::Ads;
use super::requests::Requests;
use super::response::Response;

/// The discovery service with the one method that agents use.
#[derive(Clone)]
pub struct Discovery(pub(super) Ads);

impl NamedService for Discovery {
    const NAME: &'static str = DISCOVERY_SERVICE;
}

impl Service<http::Request<Body>> for Discovery {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let ads = self.0.clone();
        Box::pin(async move { Ok(answer(ads, request).await.unwrap_or_else(Status::into_http)) })
    }
}

async fn answer(ads: Ads, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
    let (head, body) = request.into_parts();
    let method = head.uri.path().rsplit('/').next().unwrap_or_default();
    if method != METHOD {
        return Err(Status::unimplemented(format!("{method} is not served here; {METHOD} is")));
    }
    let zstd = takes_zstd(&head.headers);
    let requests = Requests::new(body, ads.turns.clone());
    let request = Request::from_parts(MetadataMap::from_headers(head.headers), head.extensions, requests);
    let responses = ads.open(request).await?;
    let mut response = http::Response::new(Body::new(Frames { responses, zstd, ready: VecDeque::new(), ended: false }));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if zstd {
        response.headers_mut().insert(ENCODING, HeaderValue::from_static(ZSTD));
    }
    Ok(response)
}

/// Whether the caller reads messages that are compressed so.
fn takes_zstd(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|encoding| encoding.trim() == ZSTD)
}

/// What an agent is told, as the body of a response.
struct Frames {
    responses: mpsc::Receiver<Result<Response, Status>>,
    zstd: bool,
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl HttpBody for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match ready!(self.responses.poll_recv(cx)) {
                Some(Ok(response)) => self.ready = response.frames(self.zstd).into(),
                end => {
                    self.ended = true;
                    let status = end.and_then(Result::err).unwrap_or_else(|| Status::ok(""));
                    let mut trailers = HeaderMap::new();
                    status.add_header(&mut trailers)?;
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
            }
        }
    }
}

const METHOD: &str = "DeltaAggregatedResources";
const ENCODING: &str = "grpc-encoding";
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";
const ZSTD: &str = "zstd";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_names_zstd_gets_it() {
        let takes = |list: &'static str| {
            takes_zstd(&HeaderMap::from_iter([(ACCEPT_ENCODING.parse().unwrap(), HeaderValue::from_static(list))]))
        };
        assert!(takes("zstd,identity"));
        assert!(takes("gzip, zstd"));
        assert!(!takes("gzip,identity"));
        assert!(!takes("zstd2"));
        assert!(!takes_zstd(&HeaderMap::new()));
    }
}

//! The webhook's HTTPS server.
//!
//! HTTP/1.1, one request at a time on a connection: a bound on connections bounds all else, and an API server spreads its
//! questions over the replicas because it opens several.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::debug;

use super::review::{Malformed, Reviewed, review};
use super::{Outcome, Webhook};
use crate::authority::serving::{self, TlsIo};

/// As in the ValidatingWebhookConfiguration.
const PATH: &str = "/validate";
/// Connections served at once; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 128;
/// Reviews read or judged at once; more wait until their API server has waited long enough.
const MAX_REVIEWS: usize = 8;
/// Longest body: the old and the new object, each of which a request to the API server holds (3 MiB at most).
const MAX_BODY_BYTES: usize = 8 << 20;
/// Longest wait for a body; the API server waits for at most 30 seconds, and by our configuration for 3.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a head, which also ends idle connections: after the 90 seconds in which the API server's client does,
/// so that none ends just when it is used.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
const MAX_HEADERS: usize = 64;
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Serves until dropped.
pub(super) async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, webhook: Webhook) {
    let mut tls = (*tls).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (ready, mut accepted) = mpsc::channel(1);
    let reviews = Arc::new(Semaphore::new(MAX_REVIEWS));
    let serving = async {
        let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let place = limit.clone().acquire_owned().await.expect("the semaphore is never closed");
            let Some(Ok(stream)) = accepted.recv().await else { return };
            tokio::spawn(connection(stream, webhook.clone(), reviews.clone(), place));
        }
    };
    tokio::join!(serving::accept(listener, Arc::new(tls), ready), serving);
}

async fn connection(stream: TlsIo, webhook: Webhook, reviews: Arc<Semaphore>, _place: OwnedSemaphorePermit) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (webhook, reviews) = (webhook.clone(), reviews.clone());
        async move { Ok::<_, Infallible>(answer(request, &webhook, reviews).await) }
    });
    let ended = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = ended {
        debug!(%error, "a connection to the webhook ended");
    }
}

async fn answer<B>(request: Request<B>, webhook: &Webhook, reviews: Arc<Semaphore>) -> Response<Full<Bytes>>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    if request.uri().path() != PATH {
        return text(StatusCode::NOT_FOUND, format!("there is {PATH} and nothing else"));
    }
    if request.method() != Method::POST {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "a review comes by POST".to_owned());
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let place = reviews.acquire_owned().await.expect("the semaphore is never closed");
    let body = match read(request.into_body()).await {
        Ok(body) => body,
        Err((status, why)) => {
            webhook.count(None, Outcome::Malformed);
            return text(status, why);
        }
    };
    // Its place is free when it has ended, also if the client no longer waits.
    let judged = tokio::task::spawn_blocking(move || {
        let judged = review(&body);
        drop(place);
        judged
    });
    match judged.await {
        Ok(judged) => told(judged, webhook),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the review failed".to_owned()),
    }
}

async fn read<B>(body: B) -> Result<Bytes, (StatusCode, String)>
where
    B: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY_BYTES).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err((StatusCode::PAYLOAD_TOO_LARGE, format!("a review has {MAX_BODY_BYTES} bytes at most")))
        }
        Ok(Err(error)) => Err((StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}"))),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the body took too long".to_owned())),
    }
}

fn told(judged: Result<Reviewed, Malformed>, webhook: &Webhook) -> Response<Full<Bytes>> {
    let Reviewed { answer, kind, outcome } = match judged {
        Ok(reviewed) => reviewed,
        Err(malformed) => {
            webhook.count(None, Outcome::Malformed);
            return text(StatusCode::BAD_REQUEST, malformed.to_string());
        }
    };
    webhook.count(kind, outcome);
    debug!(?outcome, kind = kind.map(|kind| kind.kind), response = ?answer.response, "reviewed");
    match serde_json::to_vec(&answer) {
        Ok(json) => response(StatusCode::OK, "application/json", json.into()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer cannot be written: {error}")),
    }
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", (text + "\n").into())
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests;

//! A small HTTP/1 server for people and scrapers: readiness, metrics, JSON pages, the log level.
//!
//! Handlers are plain functions run on the blocking pool, so that rendering a large page never holds up a connection of
//! the mesh. Clients are bounded: how many, how long, how large a head.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// Connections served at once; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 64;
/// Longest wait for a request's head, which also ends idle keep-alive connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest life of a connection: a client that reads a page a byte a minute gives its place back.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
const MAX_HEADERS: usize = 64;
const MAX_HEAD_BYTES: usize = 16 * 1024;

pub const TEXT: &str = "text/plain; charset=utf-8";
pub const JSON: &str = "application/json";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Parameters after the `?`, decoded.
pub type Query = BTreeMap<String, String>;
type Handler = Arc<dyn Fn(&Query) -> Response + Send + Sync>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: Bytes,
}

impl Response {
    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self { status, content_type: TEXT, body: body.into() }
    }

    pub fn json(value: &impl Serialize) -> Self {
        match serde_json::to_vec_pretty(value) {
            Ok(body) => Self { status: StatusCode::OK, content_type: JSON, body: body.into() },
            Err(error) => {
                Self::text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot be written as JSON: {error}\n"))
            }
        }
    }
}

/// Which function answers which method and path.
#[derive(Clone, Default)]
pub struct Router {
    pages: BTreeMap<&'static str, Page>,
}

#[derive(Clone, Default)]
struct Page {
    get: Option<Handler>,
    put: Option<Handler>,
}

impl Router {
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers GET and HEAD.
    #[must_use]
    pub fn get(mut self, path: &'static str, handler: impl Fn(&Query) -> Response + Send + Sync + 'static) -> Self {
        self.pages.entry(path).or_default().get = Some(Arc::new(handler));
        self
    }

    /// Answers PUT and POST.
    #[must_use]
    pub fn put(mut self, path: &'static str, handler: impl Fn(&Query) -> Response + Send + Sync + 'static) -> Self {
        self.pages.entry(path).or_default().put = Some(Arc::new(handler));
        self
    }

    /// A JSON page of whatever `view` yields.
    #[must_use]
    pub fn json<T: Serialize>(self, path: &'static str, view: impl Fn() -> T + Send + Sync + 'static) -> Self {
        self.get(path, move |_| Response::json(&view()))
    }

    /// `/healthz/ready`: 200 while `check` finds nothing missing, else 503 with what is.
    #[must_use]
    pub fn ready(self, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.get("/healthz/ready", move |_| match check() {
            Ok(()) => Response::text(StatusCode::OK, "ready\n"),
            Err(missing) => Response::text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {missing}\n")),
        })
    }

    /// `/metrics` (and `/stats/prometheus`, which Istio's scrape annotations may name).
    #[must_use]
    pub fn metrics(self, registry: Arc<Registry>) -> Self {
        let page = move |_: &Query| {
            let mut text = String::new();
            match prometheus_client::encoding::text::encode(&mut text, &registry) {
                Ok(()) => Response { status: StatusCode::OK, content_type: OPENMETRICS, body: text.into() },
                Err(error) => Response::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            }
        };
        self.get("/metrics", page.clone()).get("/stats/prometheus", page)
    }

    /// `PUT` or `POST /logging?level=...`; `set` yields the level in force, or why it did not change. GET shows it.
    #[must_use]
    pub fn logging(self, set: impl Fn(Option<&str>) -> Result<String, String> + Send + Sync + 'static) -> Self {
        let answer = |result| match result {
            Ok(level) => Response::text(StatusCode::OK, format!("{level}\n")),
            Err(why) => Response::text(StatusCode::BAD_REQUEST, format!("{why}\n")),
        };
        let set = Arc::new(set);
        let show = set.clone();
        self.get("/logging", move |_| answer(show(None))).put("/logging", move |query| match query.get("level") {
            Some(level) => answer(set(Some(level))),
            None => answer(Err("which level? /logging?level=info".to_owned())),
        })
    }

    fn find(&self, method: &Method, path: &str) -> Result<Handler, Response> {
        let page = self.pages.get(path).ok_or_else(|| {
            let paths: String = self.pages.keys().map(|path| format!("{path}\n")).collect();
            Response::text(StatusCode::NOT_FOUND, format!("no such page; there are\n{paths}"))
        })?;
        let handler = match *method {
            Method::GET | Method::HEAD => &page.get,
            Method::PUT | Method::POST => &page.put,
            _ => &None,
        };
        handler.clone().ok_or_else(|| Response::text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n"))
    }

    fn allowed(&self, path: &str) -> &'static str {
        match self.pages.get(path).map(|page| (page.get.is_some(), page.put.is_some())) {
            Some((true, true)) => "GET, HEAD, PUT, POST",
            Some((false, true)) => "PUT, POST",
            _ => "GET, HEAD",
        }
    }
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, router: Router) -> Infallible {
    let router = Arc::new(router);
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = limit.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept an admin connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let router = router.clone();
        tokio::spawn(async move {
            match tokio::time::timeout(CONNECTION_TIMEOUT, connection(stream, router)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%peer, %error, "admin connection ended"),
                Err(_) => debug!(%peer, "admin connection lived too long"),
            }
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, router: Arc<Router>) -> hyper::Result<()> {
    let service = service_fn(move |request| answer(router.clone(), request));
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(
    router: Arc<Router>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let query = parse_query(request.uri().query().unwrap_or_default());
    let response = match router.find(&method, &path) {
        Err(response) => response,
        Ok(handler) => tokio::task::spawn_blocking(move || handler(&query))
            .await
            .unwrap_or_else(|_| Response::text(StatusCode::INTERNAL_SERVER_ERROR, "the page failed\n")),
    };
    let status = response.status;
    let mut out = http::Response::new(Full::new(response.body));
    *out.status_mut() = status;
    out.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(response.content_type));
    out.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        out.headers_mut().insert(header::ALLOW, HeaderValue::from_static(router.allowed(&path)));
    }
    Ok(out)
}

fn parse_query(text: &str) -> Query {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// Undoes percent-encoding; what is not valid stays as it stands.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[i], hex(i + 1), hex(i + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                i += 3;
            }
            (byte, ..) => {
                out.push(if byte == b'+' { b' ' } else { byte });
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests;

//! Spans on their way to collectors: in batches, by a task for each collector, so that no request waits and no collector waits for
//! another.
//!
//! A collector that is a service of the mesh is reached through the tunnel, as the waypoint; any other by DNS, in plain TCP.

use std::collections::HashMap;
use std::env;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use mesh_core::l7::telemetry::{FieldValue, Place, Provider, ProviderProtocol};
use mesh_net::header_list::HeaderList;
use prost::Message;
use rand::seq::IndexedRandom;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

use crate::body::{Body, BodyError};
use crate::dial::{Dialler, Endpoint, Unreached};
use crate::engine::balance;
use crate::engine::respond::GRPC_STATUS;
use crate::fetch;
use crate::http1::client::Once;
use crate::io::ByteStream;
use crate::message::{Departing, Response};
use crate::telemetry::trace::{Counts, Span, Told, otlp, zipkin};
use crate::wire::opentelemetry::proto::trace::v1::ExportTraceServiceResponse;
use crate::world::World;
use crate::{http1, http2};

/// Spans of a batch.
const BATCH: usize = 512;
/// Longest that a span waits for others.
const PAUSE: Duration = Duration::from_secs(1);
/// Spans that wait for one collector.
const WAITING: usize = 2048;
/// Collectors at a time. Those of models that are no more count until there are too many.
const MOST: usize = 64;
/// For one batch, of which nobody says otherwise.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer.
const MOST_ANSWER: usize = 64 << 10;

#[derive(Debug, Error)]
enum ExportError {
    #[error("{0} has no healthy endpoint")]
    NoEndpoint(String),
    #[error(transparent)]
    Unreached(#[from] Unreached),
    #[error("connect: {0}")]
    Connect(#[source] io::Error),
    #[error("ask: {0}")]
    Http(#[from] http1::client::Lost),
    #[error("ask: {0}")]
    Stream(#[from] http2::client::Failed),
    #[error("read the answer: {0}")]
    Body(#[source] BodyError),
    #[error("answered with {0}")]
    Status(StatusCode),
    #[error("answered with gRPC status {0}")]
    Grpc(String),
    #[error("no answer in time")]
    Timeout,
}

/// What spans go out by.
#[derive(Clone)]
pub struct Exporter {
    pub world: watch::Receiver<Option<Arc<World>>>,
    pub dialler: Dialler,
    /// In which a collector's name without dots is looked for.
    pub namespace: Arc<str>,
    pub counts: Counts,
}

/// Ends it.
#[derive(Debug)]
pub struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    /// Sends what there is, as far as collectors take it in `patience`.
    pub async fn finish(self, patience: Duration) {
        self.stop.send_replace(true);
        // What is left then is lost with the process.
        let _ = timeout(patience, self.task).await;
    }
}

impl Exporter {
    pub fn start(self, told: Receiver<Told>) -> Running {
        let (stop, stopped) = watch::channel(false);
        Running { stop, task: tokio::spawn(self.sort(told, stopped)) }
    }

    async fn sort(self, mut told: Receiver<Told>, mut stopped: watch::Receiver<bool>) {
        let mut collectors: HashMap<Arc<Provider>, Sender<Span>> = HashMap::new();
        let mut tasks = JoinSet::new();
        let mut is_open = true;
        loop {
            let next = tokio::select! {
                biased;
                next = told.recv() => next,
                _ = stopped.wait_for(|stopped| *stopped), if is_open => {
                    is_open = false;
                    told.close();
                    continue;
                }
            };
            let Some((provider, span)) = next else { break };
            if !collectors.contains_key(&provider) {
                if collectors.len() >= MOST {
                    collectors.clear();
                }
                while tasks.try_join_next().is_some() {}
                let (queue, spans) = mpsc::channel(WAITING);
                tasks.spawn(self.clone().collect(provider.clone(), spans));
                collectors.insert(provider.clone(), queue);
            }
            if collectors.get(&provider).is_none_or(|queue| queue.try_send(span).is_err()) {
                self.counts.dropped("queue", 1);
            }
        }
        drop(collectors);
        while tasks.join_next().await.is_some() {}
    }

    async fn collect(self, provider: Arc<Provider>, mut spans: Receiver<Span>) {
        let mut is_up = true;
        while let Some(first) = spans.recv().await {
            let mut batch = vec![first];
            let until = Instant::now() + PAUSE;
            while batch.len() < BATCH
                && let Ok(Some(span)) = timeout_at(until, spans.recv()).await
            {
                batch.push(span);
            }
            let (host, port, count) = (host(&provider), provider.port, batch.len());
            let body = match provider.protocol {
                ProviderProtocol::OtlpGrpc => framed(&otlp::request(&batch)),
                ProviderProtocol::OtlpHttp => otlp::request(&batch).encode_to_vec().into(),
                ProviderProtocol::Zipkin => zipkin::request(&batch).into(),
            };
            let patience = provider.timeout.unwrap_or(PATIENCE);
            let sending = timeout(patience, self.clone().send(provider.clone(), body));
            match sending.await.unwrap_or(Err(ExportError::Timeout)) {
                Ok(refused) => {
                    let refused = refused.min(count);
                    self.counts.sent(count - refused);
                    if refused > 0 {
                        self.counts.dropped("collector", refused);
                    }
                    if !is_up {
                        info!(%host, port, "a collector takes spans again");
                    }
                    is_up = true;
                }
                Err(error) => {
                    self.counts.dropped("collector", count);
                    if is_up {
                        warn!(%host, port, %error, "a collector takes no spans");
                    }
                    is_up = false;
                }
            }
        }
    }

    /// How many spans the collector has refused.
    async fn send(self, provider: Arc<Provider>, body: Bytes) -> Result<usize, ExportError> {
        let io = self.connected(&provider).await?;
        let host = host(&provider);
        let authority = match host.contains(':') {
            true => format!("[{host}]:{}", provider.port),
            false => format!("{host}:{}", provider.port),
        };
        let (path, kind) = match provider.protocol {
            ProviderProtocol::OtlpGrpc => (otlp::EXPORT, "application/grpc"),
            ProviderProtocol::OtlpHttp => ("/v1/traces", "application/x-protobuf"),
            ProviderProtocol::Zipkin => ("/api/v2/spans", "application/json"),
        };
        let is_grpc = provider.protocol == ProviderProtocol::OtlpGrpc;
        let mut headers = own_fields(&provider);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        match is_grpc {
            true => headers.insert(header::TE, HeaderValue::from_static("trailers")),
            false => headers.insert(header::CONNECTION, HeaderValue::from_static("close")),
        };
        let request = Departing {
            method: Method::POST,
            authority,
            target: if provider.path.is_empty() || is_grpc { path } else { &provider.path }.to_owned(),
            headers: Arc::new(headers),
            upgrade: None,
            body: Body::full(body),
        };
        if !is_grpc {
            let answer = http1::client::Connection::new(io).send(request, Once, MOST_ANSWER).await?;
            let answer = read(answer.response).await?;
            return Ok(if provider.protocol == ProviderProtocol::OtlpHttp { refused(answer.body) } else { 0 });
        }
        let connection = http2::client::Connection::start(io, MOST_ANSWER as u32, PATIENCE);
        let answer = read(connection.send(request).await?.response).await?;
        let status = answer.trailers.get(GRPC_STATUS).or_else(|| answer.headers.get(GRPC_STATUS));
        if status.is_none_or(|status| status != "0") {
            let status = status.map_or("none".into(), |status| String::from_utf8_lossy(status.as_bytes()));
            return Err(ExportError::Grpc(status.into_owned()));
        }
        Ok(refused(answer.body.get(5..).unwrap_or_default()))
    }

    /// Boxed, because the compiler cannot prove of the future as it is that another thread may have it.
    fn connected(&self, provider: &Provider) -> BoxFuture<'static, Result<Box<dyn ByteStream>, ExportError>> {
        let world = self.world.borrow().clone().unwrap_or_default();
        let snapshot = &world.snapshot;
        let (host, port) = (host(provider).to_string(), provider.port);
        let service = match &provider.place {
            Place::Service(key) => match snapshot.service(key) {
                Some(service) if fetch::is_by_name(snapshot, service) => None,
                Some(service) => Some(&**service),
                // It was in the mesh: DNS, and plain TCP, are no other way to it.
                None => return Box::pin(async move { Err(ExportError::NoEndpoint(host)) }),
            },
            Place::Host(host) => fetch::service(snapshot, host, &self.namespace),
        };
        let Some(service) = service else {
            return Box::pin(async move {
                let stream = TcpStream::connect((host, port)).await.map_err(ExportError::Connect)?;
                Ok(Box::new(stream) as Box<dyn ByteStream>)
            });
        };
        let endpoints = balance::endpoints(&world.snapshot, service, port, None);
        let chosen = endpoints.choose(&mut rand::rng());
        let like = service.addresses.first().map_or([0, 0, 0, 0].into(), |address| address.ip);
        let endpoint = chosen.and_then(|chosen| Endpoint::new(&chosen.workload, chosen.port, Some(service), like));
        let dialler = self.dialler.clone();
        Box::pin(async move {
            let endpoint = endpoint.ok_or(ExportError::NoEndpoint(host))?;
            // Nobody's word is given: what goes there is the waypoint's own.
            Ok(dialler.open(&endpoint, None, None, PATIENCE).await?)
        })
    }
}

/// A collector's name.
fn host(provider: &Provider) -> &Arc<str> {
    match &provider.place {
        Place::Service(key) => &key.hostname,
        Place::Host(host) => host,
    }
}

/// Fields that the collector's provider asks for. What is none is left out.
fn own_fields(provider: &Provider) -> HeaderList {
    let fields = provider.headers.iter().filter_map(|(name, value)| {
        let value = match value {
            FieldValue::Literal(text) => text.to_string(),
            FieldValue::Environment(name) => env::var(&**name).ok()?,
        };
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::try_from(value).ok()?))
    });
    let mut own = HeaderList::new();
    for (name, value) in fields {
        own.append(name, value);
    }
    own
}

/// An answer of a collector, read whole.
struct Answer {
    headers: HeaderList,
    body: Bytes,
    trailers: HeaderMap,
}

async fn read(answer: Response) -> Result<Answer, ExportError> {
    let Response { status, headers, body } = answer;
    if !status.is_success() {
        return Err(ExportError::Status(status));
    }
    let body = Limited::new(body, MOST_ANSWER).collect().await.map_err(ExportError::Body)?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    Ok(Answer { headers, body: body.to_bytes(), trailers })
}

/// A message of gRPC, not compressed.
fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // There is room for it.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

/// Spans that a collector says it did not take. What cannot be read says nothing.
fn refused(answer: impl Buf) -> usize {
    let answer = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
    answer.partial_success.and_then(|said| usize::try_from(said.rejected_spans).ok()).unwrap_or(0)
}

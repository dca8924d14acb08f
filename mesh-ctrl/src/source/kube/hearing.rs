//! When the API server last said anything about a kind: the measure of how old what we know may be.
//!
//! A watch on which nothing happens is silent to its reader, and so is one whose peer is gone. The difference is in the
//! bytes: the API server sends a bookmark about once a minute. So what is counted is every piece of every answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use ::kube::client::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::MapFrame;
use hyper::body::Frame;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tower_layer::Layer;
use tower_service::Service;

use super::kinds::{WATCHED, Watched};

type ByKind = [(&'static str, &'static str); 1];

/// What is known of the watches, for metrics and for finding one that is dead.
#[derive(Clone, Debug)]
pub struct Hearing {
    begun: Instant,
    /// By plural name; milliseconds after `begun`.
    last: Arc<BTreeMap<&'static str, AtomicU64>>,
    heard: Family<ByKind, Gauge<f64, AtomicU64>>,
    errors: Family<[(&'static str, &'static str); 2], Counter>,
    lists: Family<ByKind, Counter>,
    doubted: Family<ByKind, Gauge>,
}

/// What went wrong with a watch: a closed set, for a metric's label.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    List,
    Watch,
    /// The API server no longer has the changes since the last one seen (410).
    Gone,
    /// Nothing was heard for so long that the connection is given up.
    Silent,
    /// A list lacks so much of what was there that it is not believed.
    Doubted,
}

impl Trouble {
    fn reason(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Watch => "watch",
            Self::Gone => "gone",
            Self::Silent => "silent",
            Self::Doubted => "doubted",
        }
    }
}

impl Default for Hearing {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            last: Arc::new(WATCHED.iter().map(|watched| (watched.plural, AtomicU64::new(0))).collect()),
            heard: Family::default(),
            errors: Family::default(),
            lists: Family::default(),
            doubted: Family::default(),
        }
    }
}

impl Hearing {
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "weft_source_heard_timestamp",
            "When the API server last said anything about a kind, since 1970; a watch is silent for up to a minute",
            Unit::Seconds,
            self.heard.clone(),
        );
        registry.register("weft_source_errors", "What went wrong with watches, by reason", self.errors.clone());
        registry.register("weft_source_lists", "Complete lists, the first one included", self.lists.clone());
        let help = "Objects that are kept although the last list lacks them";
        registry.register("weft_source_doubted", help, self.doubted.clone());
    }

    /// How long the API server has said nothing about the kind.
    pub(super) fn silence(&self, watched: &Watched) -> Duration {
        let last = self.last.get(watched.plural).map_or(0, |last| last.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(Duration::from_millis(last))
    }

    /// Begins to count the silence anew: a new connection is on its way.
    pub(super) fn expect(&self, watched: &Watched) {
        self.stamp(watched);
    }

    pub(super) fn trouble(&self, watched: &Watched, trouble: Trouble) {
        self.errors.get_or_create(&[("kind", watched.plural), ("reason", trouble.reason())]).inc();
    }

    pub(super) fn listed(&self, watched: &Watched, doubted: usize) {
        self.lists.get_or_create(&[("kind", watched.plural)]).inc();
        self.doubted.get_or_create(&[("kind", watched.plural)]).set(i64::try_from(doubted).unwrap_or(i64::MAX));
    }

    fn hear(&self, watched: &Watched) {
        self.stamp(watched);
        if let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            self.heard.get_or_create(&[("kind", watched.plural)]).set(now.as_secs_f64());
        }
    }

    fn stamp(&self, watched: &Watched) {
        if let Some(last) = self.last.get(watched.plural) {
            let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            last.store(now, Ordering::Relaxed);
        }
    }
}

impl<S> Layer<S> for Hearing {
    type Service = Listening<S>;

    fn layer(&self, inner: S) -> Listening<S> {
        Listening { inner, hearing: self.clone() }
    }
}

/// The client's service, with an ear on what comes back.
#[derive(Debug)]
pub struct Listening<S> {
    inner: S,
    hearing: Hearing,
}

type Heard<B> = MapFrame<B, Box<dyn FnMut(Frame<Bytes>) -> Frame<Bytes> + Send>>;

impl<S, B> Service<Request<Body>> for Listening<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<Heard<B>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let watched = Watched::of_path(request.uri().path());
        let (answer, hearing) = (self.inner.call(request), self.hearing.clone());
        Box::pin(async move {
            let response = answer.await?;
            // A refusal says nothing of the objects.
            let watched = watched.filter(|_| response.status().is_success());
            Ok(response.map(|body| {
                let hear: Box<dyn FnMut(Frame<Bytes>) -> Frame<Bytes> + Send> = Box::new(move |frame| {
                    if let Some(watched) = watched {
                        hearing.hear(watched);
                    }
                    frame
                });
                body.map_frame(hear)
            }))
        })
    }
}

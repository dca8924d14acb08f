//! A waypoint's part in traces: one span for each request, between its client's and its backend's.

pub mod otlp;
pub mod zipkin;
mod span;
mod context;

use mesh_core::l7::route::Share;
use mesh_core::l7::telemetry::{Provider, ProviderProtocol, Tag, Tracing};
use mesh_net::header_list::HeaderList;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rand::RngExt;
use std::env;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::record::Record;
pub use context::Ids;
use context::{Forms, Incoming, Outgoing};
pub use span::{Origin, Span};

/// Of the requests that bring no decision and whose Telemetry says nothing: the reference's default.
const SAMPLING: Share = Share(10_000);
/// Longest path in a tag, in bytes: the reference's default.
const LONGEST_PATH: usize = 256;
/// Spans that wait to be sorted by collector.
const WAITING: usize = 4096;

/// Where spans go. Clones share it; the default takes none.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    /// Of what no model says another.
    provider: Option<Arc<Provider>>,
    origin: Arc<Origin>,
    queue: Sender<Told>,
    counts: Counts,
}

/// A span, and whom it is for.
pub type Told = (Arc<Provider>, Span);

/// What became of spans.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    sent: Counter,
    dropped: Family<Reason, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl Counts {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("weft_spans_sent", "Spans that a collector took", self.sent.clone());
        registry.register("weft_spans_dropped", "Spans that no collector has", self.dropped.clone());
    }

    pub fn sent(&self, spans: usize) {
        self.sent.inc_by(spans as u64);
    }

    /// `reason`: `queue` (there were too many at once), `collector` (it did not take them).
    pub fn dropped(&self, reason: &'static str, spans: usize) {
        self.dropped.get_or_create(&Reason { reason }).inc_by(spans as u64);
    }
}

impl Tracer {
    /// `provider`: where spans go of which no model says another.
    pub fn new(provider: Option<Provider>, origin: Origin, counts: Counts) -> (Self, Receiver<Told>) {
        let (queue, told) = mpsc::channel(WAITING);
        let inner = Inner { provider: provider.map(Arc::new), origin: Arc::new(origin), queue, counts };
        (Self(Some(Arc::new(inner))), told)
    }

    /// Decides on a request's span. `None`: the request goes on as it came. `forced`: the client asks for it to be told.
    pub fn begin(&self, model: &Tracing, headers: &HeaderList, forced: bool) -> Option<Begun> {
        let inner = self.0.as_ref()?;
        if model.disabled {
            return None;
        }
        let provider = model.provider.as_ref().or(inner.provider.as_ref())?;
        let incoming = Incoming::read(headers);
        let mut rng = rand::rng();
        let random = || model.sampling.unwrap_or(SAMPLING).holds(rand::rng().random_range(0..1_000_000));
        let sampled = incoming.sampled.unwrap_or_else(|| forced || random());
        if !sampled && incoming.sampled.is_some() {
            return None;
        }
        let is_b3 = provider.protocol == ProviderProtocol::Zipkin;
        let Forms { w3c, b3_single, b3_multi } = incoming.forms;
        let forms = Forms { w3c: w3c || !is_b3, b3_single, b3_multi: b3_multi || is_b3 && !b3_single };
        let longest_id = if provider.short_ids { u64::MAX.into() } else { u128::MAX };
        let own = Ids {
            trace: incoming.parent.map_or_else(|| rng.random_range(1..=longest_id), |parent| parent.trace),
            span: rng.random_range(1..=u64::MAX),
        };
        let parent = incoming.parent.map(|parent| parent.span);
        let is_short = if parent.is_some() { incoming.is_short } else { provider.short_ids };
        let flags = incoming.flags;
        let outgoing = Outgoing { own, parent, sampled, is_short, flags, forms };
        let told = sampled.then(|| {
            let state = if w3c && parent.is_some() { context::state(headers) } else { String::new() };
            Box::new(ToTell { provider: provider.clone(), began: SystemTime::now(), state, tags: tags(model, headers) })
        });
        Some(Begun { outgoing, told })
    }

    pub(super) fn end(&self, begun: Begun, record: &Record) {
        let (Some(inner), Some(told)) = (&self.0, begun.told) else { return };
        let ToTell { provider, began, state, tags } = *told;
        let longest_path = provider.longest_path.map_or(LONGEST_PATH, |longest| longest as usize);
        let span = Span::new(&begun.outgoing, &inner.origin, record, longest_path, began, state, tags);
        if inner.queue.try_send((provider, span)).is_err() {
            inner.counts.dropped("queue", 1);
        }
    }
}

/// A request's place in its trace.
#[derive(Clone, Debug)]
pub struct Begun {
    outgoing: Outgoing,
    /// `None`: nobody is told of it.
    told: Option<Box<ToTell>>,
}

#[derive(Clone, Debug)]
struct ToTell {
    provider: Arc<Provider>,
    began: SystemTime,
    state: String,
    tags: Vec<(Arc<str>, String)>,
}

impl Begun {
    /// Makes the span the parent of what the backend does.
    pub fn write(&self, headers: &mut HeaderList) {
        self.outgoing.write(headers);
    }
}

/// Tags that a Telemetry adds. One that comes to nothing is left out, as in the reference.
fn tags(model: &Tracing, headers: &HeaderList) -> Vec<(Arc<str>, String)> {
    let value = |tag: &Tag| match tag {
        Tag::Literal(text) => text.to_string(),
        Tag::Environment { name, default } => env::var(&**name).unwrap_or_else(|_| default.to_string()),
        Tag::Header { name, default } => match headers.get(&**name) {
            Some(value) => String::from_utf8_lossy(value.as_bytes()).into_owned(),
            None => default.to_string(),
        },
    };
    let tags = model.tags.iter().map(|(name, tag)| (name.clone(), value(tag)));
    tags.filter(|(_, value)| !value.is_empty()).collect()
}

#[cfg(test)]
mod tests;

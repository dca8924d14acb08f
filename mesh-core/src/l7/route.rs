//! Where a request or a connection goes, and what is done to it on the way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::text::TextMatch;
use crate::workload::{ServiceKey, Uid};

/// All HTTP routes of a port. A request takes the first entry that holds; with none it is answered 404.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpRoutes {
    pub entries: Vec<Entry>,
    /// Several entries may lead to one rule.
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    #[serde(default)]
    pub matches: Match,
    /// Index into [`HttpRoutes::rules`].
    pub rule: usize,
}

/// What is set is ANDed; what is not set says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    pub path: Option<PathMatch>,
    pub method: Option<TextMatch>,
    pub scheme: Option<TextMatch>,
    /// Of the Host header (`:authority`) as it was sent.
    pub authority: Option<TextMatch>,
    pub headers: Vec<HeaderMatch>,
    pub query: Vec<QueryMatch>,
    pub source: Option<SourceMatch>,
}

/// Of the path without query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathMatch {
    pub kind: PathKind,
    pub value: Arc<str>,
    /// Does nothing to a regular expression.
    #[serde(default)]
    pub ignore_case: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    Exact,
    /// A prefix of bytes (VirtualService).
    Prefix,
    /// A prefix of path elements (Gateway API); a trailing `/` of the value does not count.
    Elements,
    Regex,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderMatch {
    /// In lower case.
    pub name: Arc<str>,
    pub value: TextMatch,
    /// Holds when `value` does not, also when the header is missing (`withoutHeaders`).
    #[serde(default)]
    pub inverted: bool,
}

/// Of the first parameter of that name, not percent-decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryMatch {
    pub name: Arc<str>,
    pub value: TextMatch,
}

/// About the client. Both have to hold if both are set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceMatch {
    /// The client's namespace is one of these.
    pub namespaces: BTreeSet<Arc<str>>,
    /// The client is one of these workloads: those that `sourceLabels` select.
    pub workloads: Option<BTreeSet<Uid>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `kind/namespace/name` of what it comes from, with the rule's own name or index behind a `#`.
    pub origin: Arc<str>,
    pub action: Action,
    #[serde(default)]
    pub request_headers: HeaderOps,
    #[serde(default)]
    pub response_headers: HeaderOps,
    /// For the whole exchange, tries and waits between them included, but not injected delays. `None`: none.
    #[serde(default)]
    pub timeout: Option<Duration>,
    #[serde(default)]
    pub retries: Retries,
    #[serde(default)]
    pub fault: Fault,
    #[serde(default)]
    pub cors: Option<Cors>,
    #[serde(default)]
    pub mirrors: Vec<Mirror>,
    #[serde(default)]
    pub session: Option<SessionPersistence>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Forward(Forward),
    Redirect(Redirect),
    Respond(Respond),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Drawn for each request by weight. Nothing that can be drawn: answered with `otherwise`.
    pub backends: Vec<Backend>,
    #[serde(default)]
    pub rewrite: Rewrite,
    /// Status when all weights are 0 or there are no backends: 503 of a VirtualService, 500 or 404 of the Gateway API.
    pub otherwise: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    pub weight: u32,
    pub to: BackendRef,
    #[serde(default)]
    pub request_headers: HeaderOps,
    #[serde(default)]
    pub response_headers: HeaderOps,
    /// Instead of the rule's.
    #[serde(default)]
    pub rewrite: Option<Rewrite>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendRef {
    Service {
        service: ServiceKey,
        port: u16,
        subset: Option<Arc<str>>,
    },
    /// The host, subset, port or grant is not there: its share is answered with `status`.
    Missing {
        status: u16,
        why: Arc<str>,
    },
}

/// Removals first, then `set`, then `add`. Names in lower case; values are format strings (`%REQ(x)%`, `%%`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderOps {
    pub remove: Vec<Arc<str>>,
    pub set: Vec<(Arc<str>, Arc<str>)>,
    pub add: Vec<(Arc<str>, Arc<str>)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rewrite {
    pub path: Option<PathRewrite>,
    /// The new `Host`.
    pub authority: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathRewrite {
    /// The bytes that the entry's prefix matched; with an exact or regex match the whole path, without a path match the
    /// leading `/`.
    Prefix(Arc<str>),
    /// The path elements that the entry's [`PathKind::Elements`] matched.
    Elements(Arc<str>),
    Full(Arc<str>),
    /// Every occurrence in the path; `\1` stands for a group.
    Regex {
        pattern: Arc<str>,
        substitution: Arc<str>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    pub status: u16,
    #[serde(default)]
    pub scheme: Option<Arc<str>>,
    #[serde(default)]
    pub authority: Option<Arc<str>>,
    #[serde(default)]
    pub port: RedirectPort,
    /// In [`PathRewrite::Full`], a query replaces the request's.
    #[serde(default)]
    pub path: Option<PathRewrite>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedirectPort {
    /// The Host's own; a change of scheme drops the old scheme's default port.
    #[default]
    Keep,
    /// Nothing but the scheme's.
    Default,
    Number(u16),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    pub status: u16,
    #[serde(default)]
    pub body: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retries {
    /// On top of the first try.
    pub attempts: u32,
    pub on: RetryOn,
    #[serde(default)]
    pub per_try_timeout: Option<Duration>,
    /// Base of the jittered, growing wait.
    pub backoff: Duration,
    /// Another endpoint than those tried, where there is one.
    pub other_host: bool,
}

impl Default for Retries {
    /// As without any resource: twice, when nothing of the request can have been acted upon.
    fn default() -> Self {
        let on = RetryOn {
            connect_failure: true,
            refused_stream: true,
            grpc: BTreeSet::from([GrpcStatus::CANCELLED, GrpcStatus::UNAVAILABLE]),
            ..RetryOn::default()
        };
        Self { attempts: 2, on, per_try_timeout: None, backoff: Duration::from_millis(25), other_host: true }
    }
}

/// Names of the reference's `retryOn`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryOn {
    pub connect_failure: bool,
    pub refused_stream: bool,
    /// The connection broke, or the try timed out, before any reply.
    pub reset: bool,
    /// As `reset`, but nothing of the request had been sent.
    pub reset_before_request: bool,
    /// 409.
    pub retriable_4xx: bool,
    /// 5xx, and everything that `reset` and `connect_failure` cover.
    pub any_5xx: bool,
    /// 502, 503, 504 and what `reset` covers.
    pub gateway_error: bool,
    pub statuses: BTreeSet<u16>,
    pub grpc: BTreeSet<GrpcStatus>,
    /// With the header there (`retriable-headers`), lower case.
    pub headers: BTreeSet<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GrpcStatus(pub u8);

impl GrpcStatus {
    pub const CANCELLED: Self = Self(1);
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    pub const INTERNAL: Self = Self(13);
    pub const UNAVAILABLE: Self = Self(14);
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fault {
    pub delay: Option<Delay>,
    pub abort: Option<Abort>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    pub share: Share,
    pub time: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abort {
    pub share: Share,
    pub with: AbortWith,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbortWith {
    Http(u16),
    Grpc(GrpcStatus),
}

/// Parts of a million: 0 to 1,000,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Share(pub u32);

impl Share {
    pub const ALL: Self = Self(1_000_000);

    pub fn percent(percent: f64) -> Self {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Self((percent.clamp(0.0, 100.0) * 10_000.0).round() as u32)
    }

    /// Whether a number drawn evenly from 0 to 999,999 falls into it.
    pub fn holds(self, drawn: u32) -> bool {
        drawn < self.0
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// One of them matches the Origin header. [`TextMatch::Present`]: any origin.
    pub origins: Vec<TextMatch>,
    #[serde(default)]
    pub methods: Vec<Arc<str>>,
    #[serde(default)]
    pub headers: Vec<Arc<str>>,
    #[serde(default)]
    pub expose: Vec<Arc<str>>,
    #[serde(default)]
    pub max_age: Option<Duration>,
    #[serde(default)]
    pub credentials: bool,
    /// A preflight from an origin that is not allowed goes to the backend; else it is answered 200 without CORS headers.
    pub forward_unmatched: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    pub to: BackendRef,
    pub share: Share,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionPersistence {
    pub by: SessionBy,
    #[serde(default)]
    pub absolute_timeout: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionBy {
    Cookie { name: Arc<str>, permanent: bool, path: Arc<str> },
    Header { name: Arc<str> },
}

/// For a connection of bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpRoute {
    pub origin: Arc<str>,
    /// One of them; empty: always.
    #[serde(default)]
    pub sources: Vec<SourceMatch>,
    /// Shares by service and weight.
    pub backends: Vec<(u32, BackendRef)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsRoute {
    /// Exact, or `*.` and a suffix, or `*`; in lower case.
    pub sni: Vec<Arc<str>>,
    pub then: TcpRoute,
}

/// Where the request's share falls, by weight: `drawn` is from 0 to the sum of the weights, exclusively.
pub fn by_weight<T>(weighted: impl IntoIterator<Item = (u32, T)>, drawn: u64) -> Option<T> {
    let mut left = drawn;
    for (weight, item) in weighted {
        if left < u64::from(weight) {
            return Some(item);
        }
        left -= u64::from(weight);
    }
    None
}

//! HTTPRoute, as it is written.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::Metadata;
use super::http_filter::Filter;
use super::reference::{BackendObject, ParentRef};
use super::scalar::duration;

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct HttpRoute {
    pub metadata: Metadata,
    pub spec: HttpRouteSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteSpec {
    pub parent_refs: Vec<ParentRef>,
    pub hostnames: Vec<Arc<str>>,
    pub rules: Vec<HttpRouteRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteRule {
    pub name: Arc<str>,
    /// None: every request.
    pub matches: Vec<HttpRouteMatch>,
    pub filters: Vec<Filter>,
    pub backend_refs: Vec<WeightedBackend>,
    pub timeouts: Timeouts,
    pub retry: Option<Retry>,
    pub session_persistence: Option<SessionPersistence>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteMatch {
    pub path: Option<PathCondition>,
    pub headers: Vec<Condition>,
    pub query_params: Vec<Condition>,
    pub method: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PathCondition {
    #[serde(rename = "type", default)]
    pub kind: PathConditionKind,
    #[serde(default = "root")]
    pub value: Arc<str>,
}

fn root() -> Arc<str> {
    "/".into()
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum PathConditionKind {
    Exact,
    #[default]
    PathPrefix,
    RegularExpression,
}

/// Of a header or a query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Condition {
    #[serde(rename = "type", default)]
    pub kind: Comparison,
    pub name: Arc<str>,
    pub value: Arc<str>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Comparison {
    #[default]
    Exact,
    RegularExpression,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct WeightedBackend {
    #[serde(flatten)]
    pub backend: BackendObject,
    #[serde(default = "one")]
    pub weight: u32,
    #[serde(default)]
    pub filters: Vec<Filter>,
}

fn one() -> u32 {
    1
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeouts {
    #[serde(deserialize_with = "duration")]
    pub request: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub backend_request: Option<Duration>,
}

/// Of the experimental channel.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Retry {
    pub codes: Vec<u16>,
    pub attempts: Option<u32>,
    #[serde(deserialize_with = "duration")]
    pub backoff: Option<Duration>,
}

/// Of the experimental channel.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionPersistence {
    pub session_name: Arc<str>,
    #[serde(deserialize_with = "duration")]
    pub absolute_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub idle_timeout: Option<Duration>,
    #[serde(rename = "type")]
    pub kind: SessionKind,
    pub cookie_config: CookieConfig,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum SessionKind {
    #[default]
    Cookie,
    Header,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CookieConfig {
    pub lifetime_type: Lifetime,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Lifetime {
    Permanent,
    #[default]
    Session,
}

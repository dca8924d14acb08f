//! VirtualService, as it is written; what it comes to for a service is the index's matter. Values have been checked as
//! admission checks them (`mesh_analysis`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::present::present;
use super::scalar::duration;
use super::text::Text;
use super::{Labels, Metadata};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct VirtualService {
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: VirtualServiceSpec,
    /// Fields that are carried out nowhere, and why.
    #[serde(skip)]
    pub unused: Vec<(String, &'static str)>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VirtualServiceSpec {
    /// Empty in a delegate.
    pub hosts: Vec<Arc<str>>,
    pub gateways: Vec<Arc<str>>,
    pub http: Vec<HttpRule>,
    pub tls: Vec<TlsRule>,
    pub tcp: Vec<TcpRule>,
    pub export_to: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRule {
    pub name: Arc<str>,
    #[serde(rename = "match")]
    pub matches: Vec<HttpMatch>,
    pub route: Vec<HttpDestination>,
    pub redirect: Option<Redirect>,
    pub direct_response: Option<DirectResponse>,
    pub delegate: Option<Delegate>,
    pub rewrite: Option<Rewrite>,
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    pub retries: Option<Retries>,
    pub fault: Option<Fault>,
    pub mirror: Option<Destination>,
    pub mirrors: Vec<Mirror>,
    #[serde(alias = "mirror_percent")]
    pub mirror_percent: Option<u32>,
    pub mirror_percentage: Option<Percent>,
    pub cors_policy: Option<CorsPolicy>,
    pub headers: Headers,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMatch {
    pub uri: Option<Text>,
    pub scheme: Option<Text>,
    pub method: Option<Text>,
    pub authority: Option<Text>,
    pub headers: BTreeMap<Arc<str>, Text>,
    pub without_headers: BTreeMap<Arc<str>, Text>,
    pub query_params: BTreeMap<Arc<str>, Text>,
    pub ignore_uri_case: bool,
    #[serde(flatten)]
    pub client: ClientMatch,
}

/// What all three kinds of rules ask of the client, and of the port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientMatch {
    /// 0: any.
    pub port: u16,
    pub source_labels: Labels,
    pub source_namespace: Arc<str>,
    pub gateways: Vec<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct HttpDestination {
    pub destination: Destination,
    #[serde(default)]
    pub weight: u32,
    #[serde(default)]
    pub headers: Headers,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Destination {
    pub host: Arc<str>,
    pub subset: Arc<str>,
    pub port: Option<PortSelector>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PortSelector {
    pub number: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Headers {
    pub request: HeaderOperations,
    pub response: HeaderOperations,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HeaderOperations {
    pub set: BTreeMap<Arc<str>, Arc<str>>,
    pub add: BTreeMap<Arc<str>, Arc<str>>,
    pub remove: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Redirect {
    pub uri: Arc<str>,
    pub authority: Arc<str>,
    pub port: Option<u16>,
    pub scheme: Arc<str>,
    pub redirect_code: u16,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct DirectResponse {
    pub status: u16,
    #[serde(default)]
    pub body: Body,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Body {
    pub string: String,
    /// In base64.
    pub bytes: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Delegate {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rewrite {
    pub uri: Arc<str>,
    pub authority: Arc<str>,
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RegexRewrite {
    #[serde(rename = "match")]
    pub pattern: Arc<str>,
    pub rewrite: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Retries {
    pub attempts: u32,
    #[serde(deserialize_with = "duration")]
    pub per_try_timeout: Option<Duration>,
    pub retry_on: String,
    pub retry_ignore_previous_hosts: Option<bool>,
    #[serde(deserialize_with = "duration")]
    pub backoff: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Fault {
    pub delay: Option<FaultDelay>,
    pub abort: Option<FaultAbort>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FaultDelay {
    #[serde(deserialize_with = "duration")]
    pub fixed_delay: Option<Duration>,
    pub percentage: Option<Percent>,
    pub percent: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FaultAbort {
    pub http_status: Option<u16>,
    pub grpc_status: Option<String>,
    pub percentage: Option<Percent>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Percent {
    pub value: f64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Mirror {
    pub destination: Destination,
    #[serde(default)]
    pub percentage: Option<Percent>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CorsPolicy {
    pub allow_origin: Vec<Arc<str>>,
    pub allow_origins: Vec<Text>,
    pub allow_methods: Vec<Arc<str>>,
    pub allow_headers: Vec<Arc<str>>,
    pub expose_headers: Vec<Arc<str>>,
    #[serde(deserialize_with = "duration")]
    pub max_age: Option<Duration>,
    pub allow_credentials: Option<bool>,
    pub unmatched_preflights: UnmatchedPreflights,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum UnmatchedPreflights {
    #[default]
    Unspecified,
    Forward,
    Ignore,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TlsRule {
    #[serde(rename = "match")]
    pub matches: Vec<ConnectionMatch>,
    pub route: Vec<RouteDestination>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TcpRule {
    #[serde(rename = "match")]
    pub matches: Vec<ConnectionMatch>,
    pub route: Vec<RouteDestination>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionMatch {
    pub sni_hosts: Vec<Arc<str>>,
    pub destination_subnets: Vec<super::IpBlock>,
    #[serde(flatten)]
    pub client: ClientMatch,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RouteDestination {
    pub destination: Destination,
    #[serde(default)]
    pub weight: u32,
}

/// Fields of a VirtualService that are carried out nowhere, and why.
pub(super) fn unused(object: &Value) -> Vec<(String, &'static str)> {
    let all = [
        ("http[].match[].statPrefix", "metrics are the same for all routes"),
        ("http[].retries.retryRemoteLocalities", "a further try goes where a first one may go"),
        ("http[].redirect.derivePort", "the port that was asked for stays"),
        ("tcp[].match[].sourceSubnet", "no proxy has ever carried it out"),
    ];
    all.into_iter().flat_map(|(field, why)| present(object, field).into_iter().map(move |path| (path, why))).collect()
}

impl VirtualServiceSpec {
    /// Whether it says anything of traffic within the mesh.
    pub fn is_for_mesh(&self) -> bool {
        is_for_mesh(&self.gateways)
    }
}

impl ClientMatch {
    pub fn is_for_mesh(&self) -> bool {
        is_for_mesh(&self.gateways)
    }
}

/// Without gateways, or with the one called mesh, it is for every workload.
fn is_for_mesh(gateways: &[Arc<str>]) -> bool {
    gateways.is_empty() || gateways.iter().any(|gateway| &**gateway == "mesh")
}

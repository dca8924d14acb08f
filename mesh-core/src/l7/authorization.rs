//! AuthorizationPolicy with all that needs a request to be looked at.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::text::TextMatch;
use crate::workload::ServiceKey;

/// In the order of evaluation: CUSTOM, DENY, ALLOW; AUDIT changes no verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// `namespace/name`
    pub name: Arc<str>,
    pub action: Action,
    #[serde(default)]
    pub dry_run: bool,
    /// ORed. None: an ALLOW that allows nothing.
    pub rules: Vec<Rule>,
    /// Only for clients of these workloads' services: the port, else any.
    #[serde(default)]
    pub ports: Vec<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant)] // one for each policy
pub enum Action {
    Allow,
    Deny,
    Audit,
    Custom(ExternalAuthorizer),
}

/// The three are ANDed; each is ORed within, and empty says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    pub from: Vec<Source>,
    pub to: Vec<Operation>,
    /// These are ANDed.
    pub when: Vec<Condition>,
}

/// Fields are ANDed, values of a field ORed; an empty field says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Source {
    /// `trust domain/ns/namespace/sa/account`, aliases of trust domains filled in.
    pub principals: Vec<TextMatch>,
    pub not_principals: Vec<TextMatch>,
    pub namespaces: Vec<TextMatch>,
    pub not_namespaces: Vec<TextMatch>,
    /// `namespace/account`
    pub service_accounts: Vec<(Arc<str>, Arc<str>)>,
    pub not_service_accounts: Vec<(Arc<str>, Arc<str>)>,
    /// `issuer/subject`
    pub request_principals: Vec<TextMatch>,
    pub not_request_principals: Vec<TextMatch>,
    /// The client pod's own address.
    pub ip_blocks: Vec<IpNet>,
    pub not_ip_blocks: Vec<IpNet>,
    /// The last entry of x-forwarded-for, else as `ip_blocks`.
    pub remote_ip_blocks: Vec<IpNet>,
    pub not_remote_ip_blocks: Vec<IpNet>,
}

/// Fields are ANDed, values of a field ORed; an empty field says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Operation {
    /// Without regard to case, with the port if it has one.
    pub hosts: Vec<TextMatch>,
    pub not_hosts: Vec<TextMatch>,
    /// Of the service.
    pub ports: Vec<u16>,
    pub not_ports: Vec<u16>,
    pub methods: Vec<TextMatch>,
    pub not_methods: Vec<TextMatch>,
    pub paths: Vec<PathPattern>,
    pub not_paths: Vec<PathPattern>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathPattern {
    Text(TextMatch),
    /// Elements with `{*}` (one, not empty) and `{**}` (the rest of that place, also empty).
    Template(Arc<str>),
}

/// `values` hold (any of them), and none of `not_values` does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    pub key: Attribute,
    #[serde(default)]
    pub values: Vec<TextMatch>,
    #[serde(default)]
    pub not_values: Vec<TextMatch>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attribute {
    /// In lower case.
    RequestHeader(Arc<str>),
    /// Values are addresses or blocks.
    SourceIp,
    RemoteIp,
    SourceNamespace,
    SourcePrincipal,
    SourceServiceAccount,
    RequestPrincipal,
    Audiences,
    Presenter,
    /// The claim's path.
    Claim(Vec<Arc<str>>),
    DestinationIp,
    /// The service's port.
    DestinationPort,
    Sni,
}

/// Asked before everything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalAuthorizer {
    pub provider: Arc<str>,
    pub protocol: ExternalProtocol,
    pub service: ServiceKey,
    pub port: u16,
    pub timeout: Duration,
    /// Lets requests pass while the authorizer cannot be asked.
    #[serde(default)]
    pub fail_open: bool,
    /// Status when it cannot be asked.
    pub status_on_error: u16,
    #[serde(default)]
    pub path_prefix: Arc<str>,
    #[serde(default)]
    pub include_request_headers: Vec<TextMatch>,
    #[serde(default)]
    pub include_additional_headers: Vec<(Arc<str>, Arc<str>)>,
    #[serde(default)]
    pub max_body_bytes: u32,
    #[serde(default)]
    pub allow_partial_body: bool,
    #[serde(default)]
    pub headers_to_upstream: Vec<TextMatch>,
    #[serde(default)]
    pub headers_to_downstream_on_deny: Vec<TextMatch>,
    #[serde(default)]
    pub headers_to_downstream_on_allow: Vec<TextMatch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExternalProtocol {
    Grpc,
    Http,
}

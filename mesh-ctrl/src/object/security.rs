//! `security.istio.io`: who may connect, and how it must prove itself. A field that is not listed is refused, also one that
//! exists: what Weft does not know it cannot enforce. Everything else that is wrong with an object was found before
//! (`mesh_analysis::validate`); what is checked here is what the types below could not hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::reference::TargetRef;
use super::scalar::{IpBlock, PortNumber};
use super::{Labels, Metadata};

#[derive(Clone, Debug, PartialEq)]
pub struct PeerAuthentication {
    pub metadata: Metadata,
    /// Empty: the whole namespace, or in the root namespace the whole mesh.
    pub selector: Labels,
    pub mode: MtlsMode,
    pub ports: BTreeMap<u16, MtlsMode>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MtlsMode {
    /// As the next wider PeerAuthentication says.
    #[default]
    Unset,
    Disable,
    Permissive,
    Strict,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationPolicy {
    pub metadata: Metadata,
    pub selector: Labels,
    /// What it is attached to, for waypoints; none: it is for workloads.
    pub targets: Vec<TargetRef>,
    pub action: AuthorizationAction,
    /// Who is asked, with CUSTOM.
    pub provider: Arc<str>,
    pub rules: Vec<AuthorizationRule>,
}

impl AuthorizationPolicy {
    /// Whether a rule asks for what only a request tells.
    pub fn is_layer7(&self) -> bool {
        self.rules.iter().any(AuthorizationRule::is_layer7)
    }
}

impl AuthorizationRule {
    pub fn is_layer7(&self) -> bool {
        let requests =
            |source: &PeerSource| !source.request_principals.is_empty() || !source.not_request_principals.is_empty();
        self.from.iter().any(requests)
            || self.to.iter().any(|operation| operation.l7().next().is_some())
            || self.when.iter().any(|when| matches!(when.key, WhenKey::L7(_)))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum AuthorizationAction {
    #[default]
    Allow,
    Deny,
    Audit,
    Custom,
}

/// Sources ORed, operations ORed, conditions ANDed, and the three ANDed; an empty list says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuthorizationRule {
    pub from: Vec<PeerSource>,
    pub to: Vec<Operation>,
    pub when: Vec<When>,
}

/// Fields ANDed, values of a field ORed.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PeerSource {
    pub principals: Vec<Arc<str>>,
    pub not_principals: Vec<Arc<str>>,
    pub request_principals: Vec<Arc<str>>,
    pub not_request_principals: Vec<Arc<str>>,
    pub namespaces: Vec<Arc<str>>,
    pub not_namespaces: Vec<Arc<str>>,
    pub service_accounts: Vec<Arc<str>>,
    pub not_service_accounts: Vec<Arc<str>>,
    pub ip_blocks: Vec<IpBlock>,
    pub not_ip_blocks: Vec<IpBlock>,
    pub remote_ip_blocks: Vec<IpBlock>,
    pub not_remote_ip_blocks: Vec<IpBlock>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Operation {
    pub hosts: Vec<Arc<str>>,
    pub not_hosts: Vec<Arc<str>>,
    pub ports: Vec<u16>,
    pub not_ports: Vec<u16>,
    pub methods: Vec<Arc<str>>,
    pub not_methods: Vec<Arc<str>>,
    pub paths: Vec<Arc<str>>,
    pub not_paths: Vec<Arc<str>>,
}

impl Operation {
    /// Names of the fields that only L7 knows and that are set.
    pub fn l7(&self) -> impl Iterator<Item = &'static str> {
        let fields = [
            ("hosts", &self.hosts),
            ("notHosts", &self.not_hosts),
            ("methods", &self.methods),
            ("notMethods", &self.not_methods),
            ("paths", &self.paths),
            ("notPaths", &self.not_paths),
        ];
        fields.into_iter().filter_map(|(name, values)| (!values.is_empty()).then_some(name))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct When {
    pub key: WhenKey,
    pub values: Vec<Arc<str>>,
    pub not_values: Vec<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhenKey {
    SourceIp,
    RemoteIp,
    SourceNamespace,
    SourcePrincipal,
    SourceServiceAccount,
    DestinationIp,
    DestinationPort,
    /// An attribute of requests or of TLS, by its name.
    L7(Arc<str>),
}

impl WhenKey {
    fn parse(key: &str) -> Option<Self> {
        Some(match key {
            "source.ip" => Self::SourceIp,
            "remote.ip" => Self::RemoteIp,
            "source.namespace" => Self::SourceNamespace,
            "source.principal" => Self::SourcePrincipal,
            "source.serviceAccount" => Self::SourceServiceAccount,
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "request.auth.principal" | "request.auth.audiences" | "request.auth.presenter" | "connection.sni" => {
                Self::L7(key.into())
            }
            _ if ["request.headers[", "request.auth.claims[", "experimental."].iter().any(|p| key.starts_with(p)) => {
                Self::L7(key.into())
            }
            _ => return None,
        })
    }
}

/// A mistake that serde's types cannot express, with where it is.
pub(super) struct Mistake {
    pub(super) field: String,
    pub(super) message: String,
}

fn mistake<T>(field: impl Into<String>, message: impl Into<String>) -> Result<T, Mistake> {
    Err(Mistake { field: field.into(), message: message.into() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawPeerAuthentication {
    #[serde(rename = "apiVersion")]
    _api_version: Value,
    #[serde(rename = "kind")]
    _kind: Value,
    metadata: Metadata,
    #[serde(default)]
    spec: PeerSpec,
    #[serde(default, rename = "status")]
    _status: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct PeerSpec {
    selector: Selector,
    mtls: Mtls,
    port_level_mtls: BTreeMap<String, Mtls>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Mtls {
    mode: MtlsMode,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Selector {
    pub match_labels: Labels,
}

impl TryFrom<RawPeerAuthentication> for PeerAuthentication {
    type Error = Mistake;

    fn try_from(raw: RawPeerAuthentication) -> Result<Self, Mistake> {
        let mut ports = BTreeMap::new();
        for (port, mtls) in raw.spec.port_level_mtls {
            match PortNumber::parse(&port) {
                Ok(number) => ports.insert(number.0, mtls.mode),
                Err(message) => return mistake("spec.portLevelMtls", message),
            };
        }
        let selector = raw.spec.selector.match_labels;
        Ok(Self { metadata: raw.metadata, selector, mode: raw.spec.mtls.mode, ports })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawAuthorizationPolicy {
    #[serde(rename = "apiVersion")]
    _api_version: Value,
    #[serde(rename = "kind")]
    _kind: Value,
    metadata: Metadata,
    #[serde(default)]
    spec: AuthorizationSpec,
    #[serde(default, rename = "status")]
    _status: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct AuthorizationSpec {
    selector: Selector,
    target_ref: Option<TargetRef>,
    target_refs: Vec<TargetRef>,
    action: AuthorizationAction,
    provider: Provider,
    rules: Vec<RawRule>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Provider {
    name: Arc<str>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawRule {
    from: Vec<From_>,
    to: Vec<To>,
    when: Vec<RawWhen>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct From_ {
    source: PeerSource,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct To {
    operation: RawOperation,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawOperation {
    hosts: Vec<Arc<str>>,
    not_hosts: Vec<Arc<str>>,
    ports: Vec<PortNumber>,
    not_ports: Vec<PortNumber>,
    methods: Vec<Arc<str>>,
    not_methods: Vec<Arc<str>>,
    paths: Vec<Arc<str>>,
    not_paths: Vec<Arc<str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawWhen {
    key: String,
    #[serde(default)]
    values: Vec<Arc<str>>,
    #[serde(default)]
    not_values: Vec<Arc<str>>,
}

impl TryFrom<RawAuthorizationPolicy> for AuthorizationPolicy {
    type Error = Mistake;

    fn try_from(raw: RawAuthorizationPolicy) -> Result<Self, Mistake> {
        let spec = raw.spec;
        let targets = spec.target_ref.into_iter().chain(spec.target_refs).collect();
        let rules = spec
            .rules
            .into_iter()
            .enumerate()
            .map(|(at, rule)| rule.read(&format!("spec.rules[{at}]")))
            .collect::<Result<_, _>>()?;
        let selector = spec.selector.match_labels;
        let provider = spec.provider.name;
        Ok(Self { metadata: raw.metadata, selector, targets, action: spec.action, provider, rules })
    }
}

impl RawRule {
    fn read(self, at: &str) -> Result<AuthorizationRule, Mistake> {
        let when = self.when.into_iter().enumerate().map(|(i, when)| when.read(&format!("{at}.when[{i}]")));
        Ok(AuthorizationRule {
            from: self.from.into_iter().map(|from| from.source).collect(),
            to: self.to.into_iter().map(|to| to.operation.into()).collect(),
            when: when.collect::<Result<_, _>>()?,
        })
    }
}

impl From<RawOperation> for Operation {
    fn from(raw: RawOperation) -> Self {
        let numbers = |ports: Vec<PortNumber>| ports.into_iter().map(|p| p.0).collect();
        Self {
            hosts: raw.hosts,
            not_hosts: raw.not_hosts,
            ports: numbers(raw.ports),
            not_ports: numbers(raw.not_ports),
            methods: raw.methods,
            not_methods: raw.not_methods,
            paths: raw.paths,
            not_paths: raw.not_paths,
        }
    }
}

impl RawWhen {
    fn read(self, field: &str) -> Result<When, Mistake> {
        match WhenKey::parse(&self.key) {
            Some(key) => Ok(When { key, values: self.values, not_values: self.not_values }),
            None => mistake(format!("{field}.key"), format!("unknown key {:?}", self.key)),
        }
    }
}

//! `security.istio.io`: who may connect, and how it must prove itself. A field that is not listed is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

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
    /// It is attached to a waypoint or a service, and not for L4.
    pub has_targets: bool,
    pub action: AuthorizationAction,
    pub rules: Vec<AuthorizationRule>,
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
    pub ports: Vec<u16>,
    pub not_ports: Vec<u16>,
    /// Names of the fields that only L7 knows and that are set.
    pub l7: Vec<&'static str>,
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

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Selector {
    pub(super) match_labels: Labels,
}

impl Selector {
    fn checked(self) -> Result<Labels, Mistake> {
        for (key, value) in &self.match_labels {
            if key.is_empty() || key.contains('*') || value.contains('*') {
                return mistake("spec.selector.matchLabels", format!("{key:?}: {value:?} matches no label"));
            }
        }
        Ok(self.match_labels)
    }
}

impl TryFrom<RawPeerAuthentication> for PeerAuthentication {
    type Error = Mistake;

    fn try_from(raw: RawPeerAuthentication) -> Result<Self, Mistake> {
        let selector = raw.spec.selector.checked()?;
        let mut ports = BTreeMap::new();
        for (port, mtls) in raw.spec.port_level_mtls {
            match PortNumber::parse(&port) {
                Ok(number) => ports.insert(number.0, mtls.mode),
                Err(message) => return mistake("spec.portLevelMtls", message),
            };
        }
        if selector.is_empty() && !ports.is_empty() {
            return mistake("spec.portLevelMtls", "ports can only be told apart where a selector picks workloads");
        }
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
    provider: Option<Provider>,
    rules: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetRef {
    #[serde(default, rename = "group")]
    _group: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(rename = "name")]
    _name: String,
    #[serde(default, rename = "namespace")]
    _namespace: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Provider {
    #[serde(default, rename = "name")]
    _name: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawRule {
    from: Option<Vec<From_>>,
    to: Option<Vec<To>>,
    when: Option<Vec<RawWhen>>,
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
    hosts: Vec<String>,
    not_hosts: Vec<String>,
    ports: Vec<PortNumber>,
    not_ports: Vec<PortNumber>,
    methods: Vec<String>,
    not_methods: Vec<String>,
    paths: Vec<String>,
    not_paths: Vec<String>,
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
        let selector = spec.selector.checked()?;
        let has_targets = spec.target_ref.is_some() || !spec.target_refs.is_empty();
        if has_targets && !selector.is_empty() {
            return mistake("spec.selector", "a policy has a selector or targetRefs, not both");
        }
        if spec.provider.is_some() && spec.action != AuthorizationAction::Custom {
            return mistake("spec.provider", "a provider goes with action CUSTOM only");
        }
        let rules = spec
            .rules
            .into_iter()
            .enumerate()
            .map(|(at, rule)| rule.checked(&format!("spec.rules[{at}]")))
            .collect::<Result<_, _>>()?;
        Ok(Self { metadata: raw.metadata, selector, has_targets, action: spec.action, rules })
    }
}

impl RawRule {
    /// An empty list or source would hold for everyone, which nobody means who wrote it down; Istio refuses it too.
    fn checked(self, at: &str) -> Result<AuthorizationRule, Mistake> {
        let mut rule = AuthorizationRule::default();
        for (name, is_empty) in [
            ("from", self.from.as_ref().is_some_and(Vec::is_empty)),
            ("to", self.to.as_ref().is_some_and(Vec::is_empty)),
            ("when", self.when.as_ref().is_some_and(Vec::is_empty)),
        ] {
            if is_empty {
                return mistake(format!("{at}.{name}"), "an empty list; leave the field out to match everything");
            }
        }
        for (i, from) in self.from.into_iter().flatten().enumerate() {
            let field = format!("{at}.from[{i}].source");
            rule.from.push(from.source.checked(&field)?);
        }
        for (i, to) in self.to.into_iter().flatten().enumerate() {
            let field = format!("{at}.to[{i}].operation");
            rule.to.push(to.operation.checked(&field)?);
        }
        for (i, when) in self.when.into_iter().flatten().enumerate() {
            rule.when.push(when.checked(&format!("{at}.when[{i}]"))?);
        }
        Ok(rule)
    }
}

impl PeerSource {
    fn checked(self, field: &str) -> Result<Self, Mistake> {
        if self == Self::default() {
            return mistake(field, "no field is set");
        }
        for (name, values) in [
            ("principals", &self.principals),
            ("notPrincipals", &self.not_principals),
            ("requestPrincipals", &self.request_principals),
            ("notRequestPrincipals", &self.not_request_principals),
            ("namespaces", &self.namespaces),
            ("notNamespaces", &self.not_namespaces),
            ("serviceAccounts", &self.service_accounts),
            ("notServiceAccounts", &self.not_service_accounts),
        ] {
            if let Some(i) = values.iter().position(|v| v.is_empty()) {
                return mistake(format!("{field}.{name}[{i}]"), "empty");
            }
        }
        let accounts =
            [("serviceAccounts", &self.service_accounts), ("notServiceAccounts", &self.not_service_accounts)];
        for (name, values) in accounts {
            if let Some((i, value)) = values.iter().enumerate().find(|(_, v)| !is_service_account(v)) {
                return mistake(format!("{field}.{name}[{i}]"), format!("{value:?} is no name and no namespace/name"));
            }
        }
        Ok(self)
    }
}

impl RawOperation {
    fn checked(self, field: &str) -> Result<Operation, Mistake> {
        let l7: Vec<&'static str> = [
            ("hosts", &self.hosts),
            ("notHosts", &self.not_hosts),
            ("methods", &self.methods),
            ("notMethods", &self.not_methods),
            ("paths", &self.paths),
            ("notPaths", &self.not_paths),
        ]
        .into_iter()
        .filter_map(|(name, values)| (!values.is_empty()).then_some(name))
        .collect();
        let numbers = |ports: Vec<PortNumber>| ports.into_iter().map(|p| p.0).collect();
        let operation = Operation { ports: numbers(self.ports), not_ports: numbers(self.not_ports), l7 };
        if operation == Operation::default() { mistake(field, "no field is set") } else { Ok(operation) }
    }
}

impl RawWhen {
    fn checked(self, field: &str) -> Result<When, Mistake> {
        let Some(key) = WhenKey::parse(&self.key) else {
            return mistake(format!("{field}.key"), format!("unknown key {:?}", self.key));
        };
        if self.values.is_empty() && self.not_values.is_empty() {
            return mistake(field, "neither values nor notValues");
        }
        for (name, values) in [("values", &self.values), ("notValues", &self.not_values)] {
            for (i, value) in values.iter().enumerate() {
                let refused = match key {
                    _ if value.is_empty() => Some("empty".to_owned()),
                    WhenKey::SourceIp | WhenKey::RemoteIp | WhenKey::DestinationIp => value.parse::<IpBlock>().err(),
                    WhenKey::DestinationPort => PortNumber::parse(value).err(),
                    WhenKey::SourceServiceAccount if !is_service_account(value) => {
                        Some(format!("{value:?} is no name and no namespace/name"))
                    }
                    _ => None,
                };
                if let Some(message) = refused {
                    return mistake(format!("{field}.{name}[{i}]"), message);
                }
            }
        }
        Ok(When { key, values: self.values, not_values: self.not_values })
    }
}

/// `name` or `namespace/name`, without wildcards.
fn is_service_account(text: &str) -> bool {
    let part = |p: &str| !p.is_empty() && !p.contains(['*', '/']);
    match text.split_once('/') {
        Some((namespace, name)) => part(namespace) && part(name),
        None => part(text),
    }
}

//! AuthorizationPolicies at a waypoint: those that are attached to it or to the service, and those without targets that are about
//! the service's workloads.
//!
//! What cannot be asked here fails closed as it does at L4: such a rule of ALLOW is dropped, of DENY the part is, AUDIT records
//! nothing, and what an authorizer would be asked about whom nobody knows is denied.

use std::sync::Arc;

use mesh_core::l7::authorization::{Action, Attribute, Condition, Operation, PathPattern, Policy, Rule, Source};
use mesh_core::l7::text::TextMatch;

use super::Whole;
use crate::index::Built;
use crate::index::cluster::{Cluster, Topic};
use crate::object::text::wildcard;
use crate::object::{
    AuthorizationAction, AuthorizationPolicy, AuthorizationRule, IpBlock, Operation as Operated, PeerSource, PortRef,
    When, WhenKey,
};

impl Cluster {
    pub(super) fn policies_at(&self, whole: &Whole<'_>, built: &mut Built) -> Vec<Policy> {
        let mut found = Vec::new();
        for namespace in whole.namespaces(&self.config.root_namespace) {
            for name in self.layer7.authorizations_in.get(&namespace).into_iter().flatten() {
                let Some(policy) = self.authorizations.get(name) else { continue };
                let is_in_force = match policy.targets.is_empty() {
                    true => self.is_about(whole, &policy.selector, &namespace, built),
                    false => policy.targets.iter().any(|target| self.is_target(whole, target, &namespace)),
                };
                if is_in_force {
                    let policy = self.with_aliases(policy, built);
                    let mut converted = convert(&policy, self.action(&policy, built));
                    if policy.targets.is_empty() {
                        translate(&mut converted, &self.targets_of(whole));
                    }
                    found.push(converted);
                }
            }
            built.read(Topic::Policies(namespace));
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }
}

/// An authorizer that cannot be asked lets nothing pass.
impl Cluster {
    fn action(&self, policy: &AuthorizationPolicy, built: &mut Built) -> Action {
        match policy.action {
            AuthorizationAction::Allow => Action::Allow,
            AuthorizationAction::Deny => Action::Deny,
            AuthorizationAction::Audit => Action::Audit,
            AuthorizationAction::Custom => {
                self.authorizer(&policy.provider, built).map_or(Action::Deny, Action::Custom)
            }
        }
    }
}

/// Ports of a service, with those of its pods; `None` where each pod names its own.
type Targets = Vec<(u16, Option<u16>)>;

impl Cluster {
    fn targets_of(&self, whole: &Whole<'_>) -> Targets {
        let Some(claim) = whole.service.and_then(|key| self.claim(key)) else { return Targets::new() };
        let number = |target: &PortRef| match target {
            PortRef::Number(number) => Some(*number),
            PortRef::Name(_) => None,
        };
        match claim.is_entry {
            true => {
                let ports = self.service_entries.get(&claim.name).into_iter().flat_map(|entry| &entry.ports);
                ports.map(|port| (port.number, Some(port.target))).collect()
            }
            false => {
                let ports = self.services.get(&claim.name).into_iter().flat_map(|service| &service.ports);
                ports.map(|port| (port.number, number(&port.target))).collect()
            }
        }
    }
}

/// A policy without targets is about workloads, whose ports and addresses a waypoint is not asked for. What cannot be told is
/// taken for what denies.
fn translate(policy: &mut Policy, targets: &Targets) {
    let allows = policy.action == Action::Allow;
    let serving = |ports: &[u16], unknown: bool| -> Vec<u16> {
        let is_meant = |target: &Option<u16>| target.map_or(unknown, |target| ports.contains(&target));
        targets.iter().filter(|(_, target)| is_meant(target)).map(|(port, _)| *port).collect()
    };
    let texts = |values: &[TextMatch], unknown: bool| -> Vec<TextMatch> {
        let numbers = values.iter().filter_map(|value| match value {
            TextMatch::Exact(text) => text.parse().ok(),
            _ => None,
        });
        let ports = serving(&numbers.collect::<Vec<u16>>(), unknown);
        ports.into_iter().map(|port| TextMatch::Exact(port.to_string().into())).collect()
    };
    let is_address = |condition: &Condition| condition.key == Attribute::DestinationIp;
    if allows {
        policy.rules.retain(|rule| !rule.when.iter().any(is_address));
    }
    for rule in &mut policy.rules {
        rule.when.retain(|condition| !is_address(condition));
        for operation in &mut rule.to {
            if !operation.ports.is_empty() {
                operation.ports = serving(&operation.ports, !allows);
                // No port of the service is meant, which an empty list would not say.
                if operation.ports.is_empty() {
                    operation.ports.push(0);
                }
            }
            if !operation.not_ports.is_empty() {
                operation.not_ports = serving(&operation.not_ports, allows);
            }
        }
        for condition in rule.when.iter_mut().filter(|condition| condition.key == Attribute::DestinationPort) {
            if !condition.values.is_empty() {
                condition.values = texts(&condition.values, !allows);
                if condition.values.is_empty() {
                    condition.values.push(TextMatch::Exact("0".into()));
                }
            }
            condition.not_values = match condition.not_values.is_empty() {
                true => Vec::new(),
                false => texts(&condition.not_values, allows),
            };
        }
    }
}

fn convert(policy: &AuthorizationPolicy, action: Action) -> Policy {
    let denies = matches!(action, Action::Deny | Action::Custom(_));
    let namespace = &policy.metadata.namespace;
    let asked = policy.rules.iter().filter(|rule| denies || !rule.when.iter().any(is_unknown));
    Policy {
        name: format!("{namespace}/{}", policy.metadata.name).into(),
        dry_run: policy.metadata.annotation("istio.io/dry-run") == Some("true"),
        rules: asked.map(|rule| convert_rule(rule, namespace)).collect(),
        ports: Vec::new(),
        action,
    }
}

/// Attributes of a proxy that nobody here has.
pub(in crate::index) fn is_unknown(when: &When) -> bool {
    matches!(&when.key, WhenKey::L7(key) if attribute(key).is_none())
}

fn convert_rule(rule: &AuthorizationRule, namespace: &Arc<str>) -> Rule {
    Rule {
        from: rule.from.iter().map(|source| convert_source(source, namespace)).collect(),
        to: rule.to.iter().map(convert_operation).collect(),
        when: rule.when.iter().filter_map(|when| convert_when(when, namespace)).collect(),
    }
}

fn convert_source(source: &PeerSource, namespace: &Arc<str>) -> Source {
    let blocks = |blocks: &[IpBlock]| blocks.iter().map(|block| block.0).collect();
    let accounts = |values: &[Arc<str>]| values.iter().map(|value| account(value, namespace)).collect();
    Source {
        principals: texts(&source.principals),
        not_principals: texts(&source.not_principals),
        namespaces: texts(&source.namespaces),
        not_namespaces: texts(&source.not_namespaces),
        service_accounts: accounts(&source.service_accounts),
        not_service_accounts: accounts(&source.not_service_accounts),
        request_principals: texts(&source.request_principals),
        not_request_principals: texts(&source.not_request_principals),
        ip_blocks: blocks(&source.ip_blocks),
        not_ip_blocks: blocks(&source.not_ip_blocks),
        remote_ip_blocks: blocks(&source.remote_ip_blocks),
        not_remote_ip_blocks: blocks(&source.not_remote_ip_blocks),
    }
}

fn convert_operation(operation: &Operated) -> Operation {
    let lower = |values: &[Arc<str>]| values.iter().map(|value| wildcard(&value.to_lowercase().into())).collect();
    let paths = |values: &[Arc<str>]| values.iter().map(path).collect();
    Operation {
        hosts: lower(&operation.hosts),
        not_hosts: lower(&operation.not_hosts),
        ports: operation.ports.clone(),
        not_ports: operation.not_ports.clone(),
        methods: texts(&operation.methods),
        not_methods: texts(&operation.not_methods),
        paths: paths(&operation.paths),
        not_paths: paths(&operation.not_paths),
    }
}

fn path(value: &Arc<str>) -> PathPattern {
    match value.contains("{*}") || value.contains("{**}") {
        true => PathPattern::Template(value.clone()),
        false => PathPattern::Text(wildcard(value)),
    }
}

/// `None`: nobody here knows it, and only a DENY or CUSTOM comes this far, which denies or asks without regard to it.
fn convert_when(when: &When, namespace: &Arc<str>) -> Option<Condition> {
    let key = match &when.key {
        WhenKey::SourceIp => Attribute::SourceIp,
        WhenKey::RemoteIp => Attribute::RemoteIp,
        WhenKey::SourceNamespace => Attribute::SourceNamespace,
        WhenKey::SourcePrincipal => Attribute::SourcePrincipal,
        WhenKey::SourceServiceAccount => Attribute::SourceServiceAccount,
        WhenKey::DestinationIp => Attribute::DestinationIp,
        WhenKey::DestinationPort => Attribute::DestinationPort,
        WhenKey::L7(key) => attribute(key)?,
    };
    let one = |value: &Arc<str>| match key {
        // Addresses, blocks and numbers have no wildcards; an account is told with its namespace.
        Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp | Attribute::DestinationPort => {
            TextMatch::Exact(value.clone())
        }
        Attribute::SourceServiceAccount => {
            let (namespace, name) = account(value, namespace);
            TextMatch::Exact(format!("{namespace}/{name}").into())
        }
        _ => wildcard(value),
    };
    let (values, not_values) = (when.values.iter().map(one).collect(), when.not_values.iter().map(one).collect());
    Some(Condition { values, not_values, key })
}

fn attribute(key: &str) -> Option<Attribute> {
    let within = |prefix: &str| key.strip_prefix(prefix)?.strip_prefix('[')?.strip_suffix(']');
    if let Some(name) = within("request.headers") {
        return Some(Attribute::RequestHeader(name.to_lowercase().into()));
    }
    if let Some(path) = within("request.auth.claims") {
        return Some(Attribute::Claim(path.split("][").map(Arc::from).collect()));
    }
    Some(match key {
        "request.auth.principal" => Attribute::RequestPrincipal,
        "request.auth.audiences" => Attribute::Audiences,
        "request.auth.presenter" => Attribute::Presenter,
        "connection.sni" => Attribute::Sni,
        _ => return None,
    })
}

fn account(value: &Arc<str>, own: &Arc<str>) -> (Arc<str>, Arc<str>) {
    match value.split_once('/') {
        Some((namespace, name)) => (namespace.into(), name.into()),
        None => (own.clone(), value.clone()),
    }
}

fn texts(values: &[Arc<str>]) -> Vec<TextMatch> {
    values.iter().map(wildcard).collect()
}

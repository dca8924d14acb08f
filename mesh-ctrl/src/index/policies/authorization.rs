//! AuthorizationPolicy as L4 sees it.
//!
//! What only L7 knows can never widen what is allowed: a rule of ALLOW that uses it is dropped (it allows nothing), in DENY
//! the part is dropped and the rest stands (it denies more), a rule of AUDIT is dropped. CUSTOM would ask an external
//! authorizer; whatever would have been asked about is denied.
//!
//! Where waypoints carry a policy out as a whole, such a rule leaves what comes from them alone: ALLOW lets them in, DENY
//! leaves them out. Whoever comes by another way meets it as above.

use std::sync::Arc;

use ipnet::IpNet;
use mesh_core::policy::{Action, Clause, Match, Policy, Rule, Scope, ServiceAccount, StringMatch};
use mesh_core::workload::PolicyKey;

use super::super::Built;
use super::super::cluster::{Cluster, Name};
use super::super::layer7::is_unknown;
use crate::object::{
    AuthorizationAction, AuthorizationPolicy, AuthorizationRule, IpBlock, Kind, ObjectKey, Operation, PeerSource, When,
    WhenKey,
};
use crate::source::{Code, Severity};

impl Cluster {
    pub(in crate::index) fn build_authorization(&self, name: &Name, built: &mut Built) {
        let Some(policy) = self.authorizations.get(name) else { return };
        let object =
            ObjectKey { kind: Kind::AuthorizationPolicy, namespace: name.namespace.clone(), name: name.name.clone() };
        if policy.action == AuthorizationAction::Custom
            && let Err(why) = self.authorizer(&policy.provider, built)
        {
            let message = format!("{why}; what it would be asked about is denied");
            let field = Some("spec.provider.name".into());
            built.finding(Severity::Warning, Code::FailsClosed, object.clone(), field, message);
        }
        if !policy.targets.is_empty() {
            report_unknown(policy, &object, built);
            return self.check_targets(&policy.targets, &object, built);
        }
        let carriers: Vec<StringMatch> =
            self.carriers(policy, built).iter().map(|id| StringMatch::Exact(id.principal().into())).collect();
        if !carriers.is_empty() {
            report_unknown(policy, &object, built);
        }
        let scope = match (policy.selector.is_empty(), name.namespace == self.config.root_namespace) {
            (false, _) => Scope::WorkloadSelector,
            (true, true) => Scope::Global,
            (true, false) => Scope::Namespace,
        };
        let policy = self.with_aliases(policy, built);
        let (converted, closed) = convert(&policy, scope, &carriers);
        for (field, message) in closed {
            built.finding(Severity::Warning, Code::FailsClosed, object.clone(), Some(field), message);
        }
        built.policy(converted);
    }
}

/// A policy, and what of it is enforced more strictly than written: field and why.
///
/// `carriers` are the identities of waypoints that carry the policy out as a whole.
fn convert(policy: &AuthorizationPolicy, scope: Scope, carriers: &[StringMatch]) -> (Policy, Vec<(String, String)>) {
    let mut closed = Vec::new();
    let action = match policy.action {
        AuthorizationAction::Allow => Action::Allow,
        AuthorizationAction::Deny => Action::Deny,
        AuthorizationAction::Audit => Action::Audit,
        AuthorizationAction::Custom => {
            if carriers.is_empty() {
                let message = "no external authorizer is asked at L4; what it would be asked about is denied";
                closed.push(("spec.action".to_owned(), message.to_owned()));
            }
            Action::Deny
        }
    };
    let namespace = &policy.metadata.namespace;
    let mut rules: Vec<Rule> = Vec::new();
    for (i, rule) in policy.rules.iter().enumerate() {
        let l7 = l7_fields(rule, &format!("spec.rules[{i}]"));
        if !l7.is_empty() && !carriers.is_empty() {
            rules.extend(beside_waypoints(rule, action, namespace, carriers).filter(|rule| !rules.contains(rule)));
            continue;
        }
        let drops = !l7.is_empty() && action != Action::Deny;
        let message = match action {
            Action::Allow => "not known at L4; the rule allows nothing",
            Action::Deny => "not known at L4; the rule denies without regard to it",
            Action::Audit => "not known at L4; the rule records nothing",
        };
        closed.extend(l7.into_iter().map(|field| (field, message.to_owned())));
        if !drops {
            rules.extend(convert_rule(rule, namespace));
        }
    }
    let converted = Policy {
        key: PolicyKey { namespace: namespace.clone(), name: policy.metadata.name.clone() },
        scope,
        action,
        dry_run: policy.metadata.annotation("istio.io/dry-run") == Some("true"),
        rules,
    };
    (converted, closed)
}

/// What is left of a rule for those who do not come from its waypoints.
fn beside_waypoints(
    rule: &AuthorizationRule,
    action: Action,
    namespace: &Arc<str>,
    carriers: &[StringMatch],
) -> Option<Rule> {
    let clause = |only: Match| Clause { matches: vec![only] };
    match action {
        Action::Allow => {
            Some(Rule { clauses: vec![clause(Match { principals: carriers.to_vec(), ..Match::default() })] })
        }
        Action::Deny => {
            let mut rule = convert_rule(rule, namespace)?;
            rule.clauses.push(clause(Match { not_principals: carriers.to_vec(), ..Match::default() }));
            Some(rule)
        }
        Action::Audit => None,
    }
}

/// Attributes that waypoints do not know either.
fn report_unknown(policy: &AuthorizationPolicy, object: &ObjectKey, built: &mut Built) {
    for (i, rule) in policy.rules.iter().enumerate() {
        for (j, when) in rule.when.iter().enumerate().filter(|(_, when)| is_unknown(when)) {
            let WhenKey::L7(key) = &when.key else { continue };
            let message =
                format!("{key} is not known; ALLOW and AUDIT drop the rule, DENY denies without regard to it");
            let field = Some(format!("spec.rules[{i}].when[{j}].key"));
            built.finding(Severity::Warning, Code::FailsClosed, object.clone(), field, message);
        }
    }
}

fn l7_fields(rule: &AuthorizationRule, at: &str) -> Vec<String> {
    let mut fields = Vec::new();
    for (i, source) in rule.from.iter().enumerate() {
        for (name, values) in [
            ("requestPrincipals", &source.request_principals),
            ("notRequestPrincipals", &source.not_request_principals),
        ] {
            if !values.is_empty() {
                fields.push(format!("{at}.from[{i}].source.{name}"));
            }
        }
    }
    for (i, operation) in rule.to.iter().enumerate() {
        fields.extend(operation.l7().map(|name| format!("{at}.to[{i}].operation.{name}")));
    }
    for (i, when) in rule.when.iter().enumerate() {
        if let WhenKey::L7(key) = &when.key {
            fields.push(format!("{at}.when[{i}].key {key}"));
        }
    }
    fields
}

/// `None`: the rule can hold for no connection.
fn convert_rule(rule: &AuthorizationRule, namespace: &Arc<str>) -> Option<Rule> {
    let mut clauses = Vec::new();
    if !rule.from.is_empty() {
        clauses.push(rule.from.iter().filter_map(|source| convert_source(source, namespace)).collect());
    }
    if !rule.to.is_empty() {
        clauses.push(rule.to.iter().map(convert_operation).collect());
    }
    clauses.extend(rule.when.iter().map(|when| vec![convert_when(when, namespace)]));
    if clauses.iter().any(Vec::is_empty) {
        return None;
    }
    // An empty match holds always, and with it its clause, which then says nothing.
    clauses.retain(|matches: &Vec<Match>| !matches.contains(&Match::default()));
    Some(Rule { clauses: clauses.into_iter().map(|matches| Clause { matches }).collect() })
}

/// `None`: `ipBlocks` and `remoteIpBlocks` have no address in common, so it holds for no peer.
fn convert_source(source: &PeerSource, namespace: &Arc<str>) -> Option<Match> {
    let both = |a: &[IpBlock], b: &[IpBlock]| a.iter().chain(b).map(|block| block.0).collect::<Vec<_>>();
    let source_ips = match (&source.ip_blocks[..], &source.remote_ip_blocks[..]) {
        (blocks, []) | ([], blocks) => both(blocks, &[]),
        // At L4 the remote address is the peer's: both fields must hold of the one address.
        (blocks, remote) => {
            let pairs = blocks.iter().flat_map(|a| remote.iter().filter_map(|b| intersection(a.0, b.0)));
            let common: Vec<IpNet> = pairs.collect();
            if common.is_empty() {
                return None;
            }
            common
        }
    };
    Some(Match {
        principals: string_matches(&source.principals),
        not_principals: string_matches(&source.not_principals),
        namespaces: string_matches(&source.namespaces),
        not_namespaces: string_matches(&source.not_namespaces),
        service_accounts: accounts(&source.service_accounts, namespace),
        not_service_accounts: accounts(&source.not_service_accounts, namespace),
        source_ips,
        not_source_ips: both(&source.not_ip_blocks, &source.not_remote_ip_blocks),
        ..Match::default()
    })
}

/// Of two CIDR ranges one holds the other, or they have nothing in common.
fn intersection(a: IpNet, b: IpNet) -> Option<IpNet> {
    if a.contains(&b) {
        Some(b)
    } else if b.contains(&a) {
        Some(a)
    } else {
        None
    }
}

fn convert_operation(operation: &Operation) -> Match {
    Match {
        destination_ports: operation.ports.clone(),
        not_destination_ports: operation.not_ports.clone(),
        ..Match::default()
    }
}

fn convert_when(when: &When, namespace: &Arc<str>) -> Match {
    let (values, not_values) = (&when.values, &when.not_values);
    // Values were checked when the policy was read.
    let blocks = |values: &[Arc<str>]| values.iter().filter_map(|v| v.parse::<IpBlock>().ok()).map(|b| b.0).collect();
    let ports = |values: &[Arc<str>]| values.iter().filter_map(|v| v.parse::<u16>().ok()).collect();
    let none = Match::default();
    match when.key {
        WhenKey::SourceIp | WhenKey::RemoteIp => {
            Match { source_ips: blocks(values), not_source_ips: blocks(not_values), ..none }
        }
        WhenKey::SourceNamespace => {
            Match { namespaces: string_matches(values), not_namespaces: string_matches(not_values), ..none }
        }
        WhenKey::SourcePrincipal => {
            Match { principals: string_matches(values), not_principals: string_matches(not_values), ..none }
        }
        WhenKey::SourceServiceAccount => Match {
            service_accounts: accounts(values, namespace),
            not_service_accounts: accounts(not_values, namespace),
            ..none
        },
        WhenKey::DestinationIp => {
            Match { destination_ips: blocks(values), not_destination_ips: blocks(not_values), ..none }
        }
        WhenKey::DestinationPort => {
            Match { destination_ports: ports(values), not_destination_ports: ports(not_values), ..none }
        }
        // Only a DENY comes this far with one, and denies without regard to it.
        WhenKey::L7(_) => none,
    }
}

fn string_matches(values: &[Arc<str>]) -> Vec<StringMatch> {
    let one = |value: &Arc<str>| match (value.strip_prefix('*'), value.strip_suffix('*')) {
        (Some(""), _) => StringMatch::Presence,
        (Some(suffix), _) => StringMatch::Suffix(suffix.into()),
        (None, Some(prefix)) => StringMatch::Prefix(prefix.into()),
        (None, None) => StringMatch::Exact(value.clone()),
    };
    values.iter().map(one).collect()
}

fn accounts(values: &[Arc<str>], own: &Arc<str>) -> Vec<ServiceAccount> {
    let one = |value: &Arc<str>| match value.split_once('/') {
        Some((namespace, name)) => ServiceAccount { namespace: namespace.into(), name: name.into() },
        None => ServiceAccount { namespace: own.clone(), name: value.clone() },
    };
    values.iter().map(one).collect()
}

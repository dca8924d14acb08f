//! `istio.security.Authorization` <-> [`Policy`].

use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;

use super::address::ip_bytes;
use super::security as wire;
use crate::policy::{Action, Clause, Match, Policy, Rule, Scope, ServiceAccount, StringMatch};
use crate::workload::PolicyKey;

#[derive(Debug, PartialEq, Eq, Error)]
pub enum InvalidAuthorization {
    #[error("policy without a name")]
    NoName,
    #[error("{field} {value} of policy {policy} is not one this version knows")]
    Unknown { policy: PolicyKey, field: &'static str, value: i32 },
    #[error("a clause of policy {policy} has no matches")]
    EmptyClause { policy: PolicyKey },
    #[error("{field} of policy {policy} has a match of no known type")]
    EmptyMatch { policy: PolicyKey, field: &'static str },
    #[error("{field} of policy {policy} is not a network: {len} bytes, prefix length {prefix}")]
    Network { policy: PolicyKey, field: &'static str, len: usize, prefix: u32 },
    #[error("port {value} of policy {policy} is above 65535")]
    Port { policy: PolicyKey, value: u32 },
}

/// Reads a policy; one that has a name but cannot be read becomes a [`Policy::unreadable`] beside the reason. A dry run that
/// cannot be read stays a dry run: whatever it says, it forbids nothing.
///
/// # Errors
/// A policy without a name has no scope to deny in and yields nothing but the error.
pub fn read_authorization(
    a: wire::Authorization,
) -> Result<(Policy, Option<InvalidAuthorization>), InvalidAuthorization> {
    if a.name.is_empty() {
        return Err(InvalidAuthorization::NoName);
    }
    let key = PolicyKey { namespace: a.namespace.as_str().into(), name: a.name.as_str().into() };
    let unreadable = |key, scope| Policy { dry_run: a.dry_run, ..Policy::unreadable(key, scope) };
    let scope = match a.scope {
        0 => Scope::Global,
        1 => Scope::Namespace,
        2 => Scope::WorkloadSelector,
        value => {
            let error = InvalidAuthorization::Unknown { policy: key.clone(), field: "scope", value };
            return Ok((unreadable(key, Scope::Namespace), Some(error)));
        }
    };
    match read(&a, key.clone(), scope) {
        Ok(policy) => Ok((policy, None)),
        Err(error) => Ok((unreadable(key, scope), Some(error))),
    }
}

fn read(a: &wire::Authorization, key: PolicyKey, scope: Scope) -> Result<Policy, InvalidAuthorization> {
    let action = match (a.action, a.audit, a.dry_run) {
        (1, true, true) => Action::Audit,
        (0, false, _) => Action::Allow,
        (1, false, _) => Action::Deny,
        (value, ..) => return Err(InvalidAuthorization::Unknown { policy: key, field: "action", value }),
    };
    let mut rules = Vec::with_capacity(a.rules.len());
    for rule in &a.rules {
        let mut clauses = Vec::with_capacity(rule.clauses.len());
        for clause in &rule.clauses {
            if clause.matches.is_empty() {
                return Err(InvalidAuthorization::EmptyClause { policy: key });
            }
            let mut matches = clause.matches.iter().map(|m| read_match(m, &key)).collect::<Result<Vec<_>, _>>()?;
            if action == Action::Allow {
                // A match that says nothing holds for everything. In a DENY that is the stricter reading; in an ALLOW it is
                // what is left when a control plane drops values it cannot express, and must not let everybody in.
                matches.retain(|m| *m != Match::default());
            }
            clauses.push(Clause { matches });
        }
        rules.push(Rule { clauses });
    }
    Ok(Policy { key, scope, action, dry_run: a.dry_run && action != Action::Audit, rules })
}

fn read_match(m: &wire::Match, policy: &PolicyKey) -> Result<Match, InvalidAuthorization> {
    let strings = |list: &[wire::StringMatch], field| -> Result<Vec<_>, _> {
        list.iter()
            .map(|s| match &s.match_type {
                Some(wire::string_match::MatchType::Exact(v)) => Ok(StringMatch::Exact(v.as_str().into())),
                Some(wire::string_match::MatchType::Prefix(v)) => Ok(StringMatch::Prefix(v.as_str().into())),
                Some(wire::string_match::MatchType::Suffix(v)) => Ok(StringMatch::Suffix(v.as_str().into())),
                Some(wire::string_match::MatchType::Presence(_)) => Ok(StringMatch::Presence),
                None => Err(InvalidAuthorization::EmptyMatch { policy: policy.clone(), field }),
            })
            .collect()
    };
    let networks = |list: &[wire::Address], field| -> Result<Vec<_>, _> {
        list.iter()
            .map(|a| {
                let invalid = || InvalidAuthorization::Network {
                    policy: policy.clone(),
                    field,
                    len: a.address.len(),
                    prefix: a.length,
                };
                let ip = match a.address.len() {
                    4 => IpAddr::from(<[u8; 4]>::try_from(&a.address[..]).map_err(|_| invalid())?),
                    16 => IpAddr::from(<[u8; 16]>::try_from(&a.address[..]).map_err(|_| invalid())?),
                    _ => return Err(invalid()),
                };
                let prefix = u8::try_from(a.length).map_err(|_| invalid())?;
                IpNet::new(ip, prefix).map_err(|_| invalid())
            })
            .collect()
    };
    let ports = |list: &[u32]| -> Result<Vec<_>, _> {
        list.iter()
            .map(|value| {
                u16::try_from(*value).map_err(|_| InvalidAuthorization::Port { policy: policy.clone(), value: *value })
            })
            .collect()
    };
    let accounts = |list: &[wire::ServiceAccountMatch]| -> Vec<ServiceAccount> {
        list.iter()
            .map(|a| ServiceAccount { namespace: a.namespace.as_str().into(), name: a.service_account.as_str().into() })
            .collect()
    };
    Ok(Match {
        namespaces: strings(&m.namespaces, "namespaces")?,
        not_namespaces: strings(&m.not_namespaces, "not_namespaces")?,
        principals: strings(&m.principals, "principals")?,
        not_principals: strings(&m.not_principals, "not_principals")?,
        service_accounts: accounts(&m.service_accounts),
        not_service_accounts: accounts(&m.not_service_accounts),
        source_ips: networks(&m.source_ips, "source_ips")?,
        not_source_ips: networks(&m.not_source_ips, "not_source_ips")?,
        destination_ips: networks(&m.destination_ips, "destination_ips")?,
        not_destination_ips: networks(&m.not_destination_ips, "not_destination_ips")?,
        destination_ports: ports(&m.destination_ports)?,
        not_destination_ports: ports(&m.not_destination_ports)?,
    })
}

impl From<&Policy> for wire::Authorization {
    fn from(p: &Policy) -> Self {
        wire::Authorization {
            name: p.key.name.to_string(),
            namespace: p.key.namespace.to_string(),
            scope: match p.scope {
                Scope::Global => wire::Scope::Global,
                Scope::Namespace => wire::Scope::Namespace,
                Scope::WorkloadSelector => wire::Scope::WorkloadSelector,
            } as i32,
            action: match p.action {
                Action::Allow => wire::Action::Allow,
                Action::Deny | Action::Audit => wire::Action::Deny,
            } as i32,
            rules: p
                .rules
                .iter()
                .map(|r| wire::Rule {
                    clauses: r
                        .clauses
                        .iter()
                        .map(|c| wire::Clause { matches: c.matches.iter().map(write_match).collect() })
                        .collect(),
                })
                .collect(),
            dry_run: p.dry_run || p.action == Action::Audit,
            audit: p.action == Action::Audit,
        }
    }
}

fn write_match(m: &Match) -> wire::Match {
    let strings = |list: &[StringMatch]| {
        list.iter()
            .map(|s| wire::StringMatch {
                match_type: Some(match s {
                    StringMatch::Exact(v) => wire::string_match::MatchType::Exact(v.to_string()),
                    StringMatch::Prefix(v) => wire::string_match::MatchType::Prefix(v.to_string()),
                    StringMatch::Suffix(v) => wire::string_match::MatchType::Suffix(v.to_string()),
                    StringMatch::Presence => wire::string_match::MatchType::Presence(wire::Presence {}),
                }),
            })
            .collect()
    };
    let networks = |list: &[IpNet]| {
        list.iter().map(|n| wire::Address { address: ip_bytes(n.addr()), length: n.prefix_len().into() }).collect()
    };
    let ports = |list: &[u16]| list.iter().map(|p| u32::from(*p)).collect();
    let accounts = |list: &[ServiceAccount]| {
        list.iter()
            .map(|a| wire::ServiceAccountMatch {
                namespace: a.namespace.to_string(),
                service_account: a.name.to_string(),
            })
            .collect()
    };
    wire::Match {
        namespaces: strings(&m.namespaces),
        not_namespaces: strings(&m.not_namespaces),
        principals: strings(&m.principals),
        not_principals: strings(&m.not_principals),
        source_ips: networks(&m.source_ips),
        not_source_ips: networks(&m.not_source_ips),
        destination_ips: networks(&m.destination_ips),
        not_destination_ips: networks(&m.not_destination_ips),
        destination_ports: ports(&m.destination_ports),
        not_destination_ports: ports(&m.not_destination_ports),
        service_accounts: accounts(&m.service_accounts),
        not_service_accounts: accounts(&m.not_service_accounts),
    }
}

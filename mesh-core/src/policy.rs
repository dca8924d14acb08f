//! Who may reach whom, at L4.
//!
//! A [`Policy`] is an AuthorizationPolicy (or a PeerAuthentication put into the same shape) as agents receive it.
//! [`evaluate`] is the only maker of a [`Permit`], and delivering a connection takes one by value, so no path can skip it.

mod evaluate;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use crate::identity::SpiffeId;
use crate::workload::PolicyKey;

pub use evaluate::{Denial, DenialReason, Evaluated, Permit, evaluate};

/// A connection as policy sees it.
#[derive(Clone, Debug)]
pub struct Connection<'a> {
    /// Proven by mutual TLS; `None` for a plaintext connection.
    pub source: Option<&'a SpiffeId>,
    pub source_ip: IpAddr,
    pub destination_ip: IpAddr,
    /// The port that the application listens on, not a service's.
    pub destination_port: u16,
    /// Opened by a socket in the node's own network namespace, as the kernel attests: the kubelet's probes. Policy is
    /// between workloads; a node that could not probe its pods under STRICT would end them.
    pub from_node: bool,
    pub way: Way,
}

/// How a connection stands to the waypoint of its destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// There is none that it has to go through, or one that leaves policy to be asked here.
    #[default]
    Direct,
    /// The peer has proven to be the waypoint of the service, where policy was in force, about the client. Here it could only be
    /// about the waypoint.
    Through,
    /// The workload is to be reached through its waypoint, and the peer is another.
    Around,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Policy {
    pub key: PolicyKey,
    pub scope: Scope,
    pub action: Action,
    /// Recorded, never enforced.
    pub dry_run: bool,
    /// ORed. An ALLOW without rules allows nothing, which with no other ALLOW denies all.
    pub rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Every workload of the mesh.
    Global,
    /// Every workload of the policy's namespace.
    Namespace,
    /// The workloads that list the policy by name.
    WorkloadSelector,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Allow,
    Deny,
    /// Recorded when it matches; never changes the verdict.
    Audit,
}

/// Clauses are ANDed: a rule without clauses holds for every connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rule {
    pub clauses: Vec<Clause>,
}

/// Matches are ORed: a clause without matches holds for no connection (the wire's decoder refuses it).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Clause {
    pub matches: Vec<Match>,
}

/// Fields are ANDed, values of a field ORed; an empty field says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Match {
    pub namespaces: Vec<StringMatch>,
    pub not_namespaces: Vec<StringMatch>,
    pub principals: Vec<StringMatch>,
    pub not_principals: Vec<StringMatch>,
    pub service_accounts: Vec<ServiceAccount>,
    pub not_service_accounts: Vec<ServiceAccount>,
    pub source_ips: Vec<IpNet>,
    pub not_source_ips: Vec<IpNet>,
    pub destination_ips: Vec<IpNet>,
    pub not_destination_ips: Vec<IpNet>,
    pub destination_ports: Vec<u16>,
    pub not_destination_ports: Vec<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StringMatch {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    /// Any value that is there and not empty.
    Presence,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceAccount {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Policy {
    /// What stands in for a policy that came over the wire and could not be read: it denies everything in its scope,
    /// because dropping a DENY, or a single ALLOW, would widen what is allowed.
    pub fn unreadable(key: PolicyKey, scope: Scope) -> Self {
        Self { key, scope, action: Action::Deny, dry_run: false, rules: vec![Rule::default()] }
    }

    pub fn matches(&self, connection: &Connection<'_>) -> bool {
        self.rules.iter().any(|rule| rule.matches(connection))
    }
}

impl Rule {
    fn matches(&self, connection: &Connection<'_>) -> bool {
        self.clauses.iter().all(|clause| clause.matches.iter().any(|m| m.matches(connection)))
    }
}

impl Match {
    fn matches(&self, c: &Connection<'_>) -> bool {
        let namespace = c.source.map(SpiffeId::namespace);
        let principal = c.source.map(SpiffeId::principal);
        let account = |a: &ServiceAccount| {
            c.source.is_some_and(|id| *a.namespace == *id.namespace() && *a.name == *id.service_account())
        };
        let source = c.source_ip.to_canonical();
        let destination = c.destination_ip.to_canonical();

        holds(&self.namespaces, |m| m.matches(namespace))
            && excludes(&self.not_namespaces, |m| m.matches(namespace))
            && holds(&self.principals, |m| m.matches(principal))
            && excludes(&self.not_principals, |m| m.matches(principal))
            && holds(&self.service_accounts, account)
            && excludes(&self.not_service_accounts, account)
            && holds(&self.source_ips, |net| within(net, source))
            && excludes(&self.not_source_ips, |net| within(net, source))
            && holds(&self.destination_ips, |net| within(net, destination))
            && excludes(&self.not_destination_ips, |net| within(net, destination))
            && holds(&self.destination_ports, |port| *port == c.destination_port)
            && excludes(&self.not_destination_ports, |port| *port == c.destination_port)
    }
}

impl StringMatch {
    fn matches(&self, value: Option<&str>) -> bool {
        let Some(value) = value.filter(|v| !v.is_empty()) else { return false };
        match self {
            Self::Exact(text) => value == &**text,
            Self::Prefix(text) => value.starts_with(&**text),
            Self::Suffix(text) => value.ends_with(&**text),
            Self::Presence => true,
        }
    }
}

/// Whether `net` has the canonical address `ip`: a network of IPv4-mapped addresses means the IPv4 addresses in it, so that
/// a DENY written that way holds.
fn within(net: &IpNet, ip: IpAddr) -> bool {
    match (net, ip) {
        (IpNet::V6(mapped), IpAddr::V4(ip)) if mapped.prefix_len() >= 96 => mapped.contains(&ip.to_ipv6_mapped()),
        _ => net.contains(&ip),
    }
}

fn holds<T>(values: &[T], test: impl FnMut(&T) -> bool) -> bool {
    values.is_empty() || values.iter().any(test)
}

fn excludes<T>(values: &[T], test: impl FnMut(&T) -> bool) -> bool {
    !values.iter().any(test)
}

#[cfg(test)]
mod tests;

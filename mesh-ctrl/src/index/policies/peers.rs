//! PeerAuthentication: whether a workload takes plaintext, as policies that deny a peer without identity.
//!
//! A workload's mode is that of the oldest PeerAuthentication that selects it; where that is unset or missing, of its
//! namespace's oldest; then of the mesh's; then PERMISSIVE. Ports are overridden only by the one that selects it.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::policy::{Action, Clause, Match, Policy, Rule, Scope, StringMatch};
use mesh_core::workload::{PlaintextPorts, PolicyKey};

use super::super::Built;
use super::super::cluster::{Age, Cluster, Name};
use super::super::labels::matches;
use crate::object::{Kind, Labels, MtlsMode, ObjectKey, PeerAuthentication};
use crate::source::{Code, Severity};

/// What PeerAuthentications come to at one workload.
#[derive(Debug)]
pub(in crate::index) struct Mtls {
    /// The policy that enforces it, if any connection is to be denied.
    pub(in crate::index) policy: Option<PolicyKey>,
    pub(in crate::index) plaintext: PlaintextPorts,
}

/// The policy of workloads that are STRICT on all ports.
pub(in crate::index) fn strict(root_namespace: &Arc<str>) -> Policy {
    let rule = deny_without_identity(Match::default());
    deny(PolicyKey { namespace: root_namespace.clone(), name: "istio_converted_static_strict".into() }, rule)
}

impl Cluster {
    pub(in crate::index) fn mtls(&self, namespace: &Arc<str>, labels: &Labels) -> Mtls {
        let selecting = self
            .peer_selectors
            .candidates(namespace, labels)
            .filter(|name| name.namespace != self.config.root_namespace)
            .filter_map(|name| self.peers.get(name))
            .filter(|peer| matches(&peer.selector, labels))
            .min_by_key(|peer| (Age::of(&peer.metadata), Name::of(&peer.metadata)));
        let mode = self.mode(namespace, selecting);
        let no_ports = BTreeMap::new();
        let ports = selecting.map_or(&no_ports, |peer| &peer.ports);
        let converted = |peer: &PeerAuthentication| converted_key(&Name::of(&peer.metadata));
        let static_strict = || strict(&self.config.root_namespace).key;
        Mtls {
            policy: match selecting.filter(|peer| by_port(mode, &peer.ports).is_some()) {
                Some(peer) => Some(converted(peer)),
                None => (mode == MtlsMode::Strict).then(static_strict),
            },
            plaintext: plaintext(mode, ports),
        }
    }

    /// The mode that holds where no port says otherwise; never unset.
    fn mode(&self, namespace: &Arc<str>, selecting: Option<&PeerAuthentication>) -> MtlsMode {
        let oldest = |namespace: &Arc<str>| {
            let (_, name) = self.peers_of_namespace.get(namespace)?.first()?;
            Some(self.peers.get(name)?.mode)
        };
        [selecting.map(|peer| peer.mode), oldest(namespace), oldest(&self.config.root_namespace)]
            .into_iter()
            .flatten()
            .find(|mode| *mode != MtlsMode::Unset)
            .unwrap_or(MtlsMode::Permissive)
    }

    /// Builds the policy of one PeerAuthentication, if its ports differ in strictness from the rest.
    pub(in crate::index) fn build_peer(&self, name: &Name, built: &mut Built) {
        let Some(peer) = self.peers.get(name) else { return };
        let object =
            || ObjectKey { kind: Kind::PeerAuthentication, namespace: name.namespace.clone(), name: name.name.clone() };
        if peer.selector.is_empty() {
            let oldest = self.peers_of_namespace.get(&name.namespace).and_then(|peers| peers.first());
            if let Some((_, oldest)) = oldest.filter(|(_, oldest)| oldest != name) {
                let message = format!("{} is older and the one in force", oldest.name);
                built.finding(Severity::Warning, Code::Conflict, object(), None, message);
            }
            return;
        }
        if name.namespace == self.config.root_namespace {
            let message = "a selector in the root namespace picks nothing".to_owned();
            built.finding(Severity::Warning, Code::NoEffect, object(), Some("spec.selector".into()), message);
            return;
        }
        if let Some(rule) = by_port(self.mode(&name.namespace, Some(peer)), &peer.ports) {
            built.policy(deny(converted_key(name), rule));
        }
    }
}

/// The rule for ports that differ from `mode` in whether plaintext is taken; `None` when all are alike.
fn by_port(mode: MtlsMode, ports: &BTreeMap<u16, MtlsMode>) -> Option<Rule> {
    let differ =
        |port: &MtlsMode| *port != MtlsMode::Unset && (*port == MtlsMode::Strict) != (mode == MtlsMode::Strict);
    let listed: Vec<u16> = ports.iter().filter(|(_, mode)| differ(mode)).map(|(port, _)| *port).collect();
    if listed.is_empty() {
        return None;
    }
    Some(deny_without_identity(match mode {
        MtlsMode::Strict => Match { not_destination_ports: listed, ..Match::default() },
        _ => Match { destination_ports: listed, ..Match::default() },
    }))
}

fn plaintext(mode: MtlsMode, ports: &BTreeMap<u16, MtlsMode>) -> PlaintextPorts {
    let where_mode = |test: fn(MtlsMode) -> bool| ports.iter().filter(|(_, m)| test(**m)).map(|(p, _)| *p).collect();
    match mode {
        MtlsMode::Disable => PlaintextPorts {
            all: true,
            except: where_mode(|m| matches!(m, MtlsMode::Permissive | MtlsMode::Strict)),
            ..PlaintextPorts::default()
        },
        _ => PlaintextPorts { ports: where_mode(|m| m == MtlsMode::Disable), ..PlaintextPorts::default() },
    }
}

fn deny_without_identity(ports: Match) -> Rule {
    let no_identity = Match { not_principals: vec![StringMatch::Presence], ..ports };
    Rule { clauses: vec![Clause { matches: vec![no_identity] }] }
}

fn deny(key: PolicyKey, rule: Rule) -> Policy {
    Policy { key, scope: Scope::WorkloadSelector, action: Action::Deny, dry_run: false, rules: vec![rule] }
}

fn converted_key(name: &Name) -> PolicyKey {
    let converted = format!("converted_peer_authentication_{}", name.name);
    PolicyKey { namespace: name.namespace.clone(), name: converted.into() }
}

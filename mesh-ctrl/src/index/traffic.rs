//! DestinationRules: which of them is in force for whom.
//!
//! For a client, the first of these that has a rule for the host: the client's namespace, the service's, the root namespace.
//! Within one, the most specific host; of those, the oldest that says anything of traffic.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_core::traffic::{Rule, Traffic};
use mesh_core::workload::ServiceKey;

use super::Built;
use super::cluster::{Cluster, EVERYWHERE, Name, Topic};
use crate::object::{DestinationRule, Kind, NEEDS_WAYPOINT, ObjectKey};
use crate::source::{Code, Severity};

/// Stands for every namespace that is not named.
const OTHERS: &str = "";

impl Cluster {
    pub(super) fn traffic_of(&self, key: &ServiceKey) -> Traffic {
        let rules = self.rules_of(&key.hostname);
        let (own, root) = (&key.namespace, &self.config.root_namespace);
        let served = |rule: &&&DestinationRule| [own, root].contains(&&rule.metadata.namespace);
        let named = rules.iter().filter(served).flat_map(|rule| &rule.export_to);
        let mut namespaces: BTreeSet<Arc<str>> = named.filter(|to| !matches!(&***to, "*" | ".")).cloned().collect();
        namespaces.extend(rules.iter().map(|rule| rule.metadata.namespace.clone()));
        let pick = |client: &str| -> Option<Arc<Rule>> {
            let of = |namespace: &str| {
                let seen = |rule: &&&DestinationRule| {
                    *rule.metadata.namespace == *namespace && (namespace == client || exports(rule, client))
                };
                rules.iter().find(seen).and_then(|rule| rule.rule.clone())
            };
            of(client).or_else(|| of(own)).or_else(|| of(root))
        };
        let others = pick(OTHERS);
        let mut traffic = Traffic::default();
        for namespace in namespaces {
            if let Some(rule) = pick(&namespace).filter(|rule| others.as_ref() != Some(rule)) {
                traffic.rules.insert(namespace, rule);
            }
        }
        traffic.rules.extend(others.map(|rule| (OTHERS.into(), rule)));
        traffic
    }

    /// Rules with a traffic policy for a hostname: the most specific host first, of one host the oldest.
    fn rules_of(&self, hostname: &Arc<str>) -> Vec<&DestinationRule> {
        let wildcards = hostname.match_indices('.').map(|(at, _)| format!("*{}", &hostname[at..]));
        let hosts = std::iter::once(hostname.to_string()).chain(wildcards).chain(["*".to_owned()]);
        let names = hosts.filter_map(|host| self.rules_for.get(host.as_str())).flatten();
        names.filter_map(|(_, name)| self.destination_rules.get(name)).filter(|rule| rule.rule.is_some()).collect()
    }

    /// Whether a waypoint serves some service that a host names, which may begin with a wildcard.
    pub(super) fn is_at_waypoint(&self, host: &Arc<str>, built: &mut Built) -> bool {
        let keys: Vec<ServiceKey> = match host.strip_prefix('*') {
            None => {
                built.read(Topic::Host(host.clone()));
                let namespaces = self.claims(host).map(|claim| claim.name.namespace.clone());
                namespaces.map(|namespace| ServiceKey { namespace, hostname: host.clone() }).collect()
            }
            Some(end) => {
                built.read(Topic::Services(EVERYWHERE.into()));
                self.keys(None).into_iter().filter(|key| key.hostname.ends_with(end)).collect()
            }
        };
        // What is wrong with the labels is told of the services themselves.
        let mut aside = Built::default();
        let found = keys.iter().any(|key| {
            let waypoint = self.waypoint_of_service(key, &mut aside).filter(|waypoint| !waypoint.is_refused);
            waypoint.is_some_and(|waypoint| self.waypoint_gateway(&waypoint.name, &mut aside).is_some())
        });
        built.reads.extend(aside.reads);
        found
    }

    pub(super) fn build_destination_rule(&self, name: &Name, built: &mut Built) {
        let Some(rule) = self.destination_rules.get(name) else { return };
        let at_waypoint = self.is_at_waypoint(&self.rule_host(rule), built);
        // What agents leave to a waypoint is done where there is one.
        let unused = rule.unused.iter().filter(|(_, why)| !(at_waypoint && *why == NEEDS_WAYPOINT));
        let at_waypoints = rule.unused_at_waypoints.iter().filter(|_| at_waypoint);
        for (field, why) in unused.chain(at_waypoints) {
            let object =
                ObjectKey { kind: Kind::DestinationRule, namespace: name.namespace.clone(), name: name.name.clone() };
            built.finding(Severity::Info, Code::NoEffect, object, Some(field.clone()), (*why).to_owned());
        }
    }
}

pub(super) fn exports(rule: &DestinationRule, client: &str) -> bool {
    rule.export_to.is_empty() || rule.export_to.iter().any(|to| &**to == "*" || (&**to == client && client != OTHERS))
}

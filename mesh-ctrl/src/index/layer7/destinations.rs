//! DestinationRules at a waypoint: of each service that a rule leads to, subsets with their members, and what holds for each.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::l7::destination::{Destination, Subset, Tls};
use mesh_core::workload::ServiceKey;

use super::Compiler;
use super::backends::object_key;
use crate::index::cluster::{Cluster, Name, Topic};
use crate::index::traffic::exports;
use crate::object::destination::{TrafficPolicy, general, of_subset};
use crate::object::{DestinationRule, Kind};
use crate::source::{Code, Severity};

/// The rules of one namespace for one host, oldest first: the first policy, and of each subset the first that has its name.
struct InForce<'a>(Vec<&'a DestinationRule>);

impl<'a> InForce<'a> {
    fn policy(&self) -> Option<&'a TrafficPolicy> {
        self.0.iter().find_map(|rule| rule.at_waypoints.traffic_policy.as_ref())
    }

    fn subsets(&self) -> BTreeMap<&'a Arc<str>, &'a crate::object::destination::Subset> {
        let mut subsets = BTreeMap::new();
        for subset in self.0.iter().flat_map(|rule| &rule.at_waypoints.subsets) {
            subsets.entry(&subset.name).or_insert(subset);
        }
        subsets
    }
}

impl<'a> Compiler<'a> {
    pub(super) fn has_subset(&mut self, key: &ServiceKey, subset: &Arc<str>) -> bool {
        self.in_force(key).subsets().contains_key(subset)
    }

    pub(super) fn destination(&mut self, key: &ServiceKey) -> Destination {
        let in_force = self.in_force(key);
        let policy = in_force.policy();
        let cluster = self.cluster;
        let mut subsets = BTreeMap::new();
        for (name, subset) in in_force.subsets() {
            let find = &mut |secret: &Arc<str>| cluster.roots(&self.waypoint.namespace, secret, self.built);
            let own = subset.policy.as_ref().map(|own| of_subset(policy, own, find));
            let members = cluster.members(key, &subset.labels, self.built);
            subsets.insert(name.clone(), Subset { members, policy: own });
        }
        let find = &mut |secret: &Arc<str>| cluster.roots(&self.waypoint.namespace, secret, self.built);
        let whole = general(policy, find);
        let protocols = cluster.ports_of(key).into_iter().map(|port| (port.number, port.protocol)).collect();
        let destination = Destination { protocols, general: whole.general, ports: whole.ports, subsets };
        self.report_refused(&destination, key, &in_force);
        destination
    }

    fn report_refused(&mut self, destination: &Destination, key: &ServiceKey, in_force: &InForce<'_>) {
        let Some(rule) = in_force.0.first() else { return };
        for policy in destination.policies() {
            let Tls::Refused(why) = &policy.tls else { continue };
            let object = object_key(Kind::DestinationRule, &Name::of(&rule.metadata));
            let message =
                format!("{why} in {}; requests to {} are answered with 503", self.waypoint.namespace, key.hostname);
            self.built.finding(Severity::Warning, Code::Unresolved, object, None, message);
        }
    }

    /// The first namespace of the waypoint's, the service's and the root one that has a rule which the waypoint sees; in it
    /// those of the most specific host.
    fn in_force(&mut self, key: &ServiceKey) -> InForce<'a> {
        for host in hosts_for(&key.hostname) {
            self.read(Topic::Host(host));
        }
        self.cluster.in_force(key, &self.waypoint.namespace)
    }
}

impl Cluster {
    fn in_force(&self, key: &ServiceKey, client: &Arc<str>) -> InForce<'_> {
        for namespace in [client, &key.namespace, &self.config.root_namespace] {
            for host in hosts_for(&key.hostname) {
                let names = self.rules_for.get(&host).into_iter().flatten();
                let rules = names.filter(|(_, name)| name.namespace == *namespace);
                let rules = rules.filter_map(|(_, name)| self.destination_rules.get(name));
                let seen: Vec<_> = rules.filter(|rule| namespace == client || exports(rule, client)).collect();
                if !seen.is_empty() {
                    return InForce(seen);
                }
            }
        }
        InForce(Vec::new())
    }
}

/// A hostname, and the wildcards that cover it, the most specific first.
pub(super) fn hosts_for(hostname: &Arc<str>) -> Vec<Arc<str>> {
    let wildcards = hostname.match_indices('.').map(|(at, _)| format!("*{}", &hostname[at..]).into());
    std::iter::once(hostname.clone()).chain(wildcards).chain([Arc::from("*")]).collect()
}

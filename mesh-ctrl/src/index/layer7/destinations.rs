//! DestinationRules at a waypoint: of each service that a rule leads to, subsets with their members, and what holds for each.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::l7::destination::{Destination, Subset};
use mesh_core::workload::ServiceKey;

use super::Compiler;
use crate::index::cluster::{Cluster, Topic};
use crate::index::traffic::exports;
use crate::object::DestinationRule;
use crate::object::destination::{TrafficPolicy, general, of_subset};

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
        let subsets = in_force.subsets().into_iter().map(|(name, subset)| {
            let own = subset.policy.as_ref().map(|own| of_subset(policy, own));
            (name.clone(), Subset { members: self.cluster.members(key, &subset.labels, self.built), policy: own })
        });
        let subsets = subsets.collect();
        let whole = general(policy);
        let protocols = self.cluster.ports_of(key).into_iter().map(|port| (port.number, port.protocol)).collect();
        Destination { protocols, general: whole.general, ports: whole.ports, subsets }
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

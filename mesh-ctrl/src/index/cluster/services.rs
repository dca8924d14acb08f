//! Services of both kinds, their EndpointSlices, and DestinationRules for their hosts.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mesh_core::workload::ServiceKey;

use super::{Age, Claim, Cluster, Name, Topic, Touched, set};
use crate::index::Unit;
use crate::index::labels::forget;
use crate::object::{DestinationRule, EndpointSlice, Service, ServiceEntry};

impl Cluster {
    pub(super) fn set_service(&mut self, name: Name, new: Option<Service>, touched: &mut Touched) {
        let hostname = self.hostname(&name);
        let claim = |s: &Service| Claim { is_entry: false, age: Age::of(&s.metadata), name: name.clone() };
        let old_claim = self.services.get(&name).map(claim);
        if let Some(old) = self.services.remove(&name) {
            self.touch_selected(&name.namespace, &old.selector, touched);
            self.service_selectors.remove(&name.namespace, &old.selector, &name);
        }
        let new_claim = new.as_ref().map(claim);
        if let Some(new) = new {
            self.touch_selected(&name.namespace, &new.selector, touched);
            self.service_selectors.insert(&name.namespace, &new.selector, &name);
            self.services.insert(name.clone(), new);
        }
        self.touch_slices(&name, touched);
        self.reclaim(&hostname, old_claim, new_claim, touched);
    }

    pub(super) fn set_slice(&mut self, name: Name, new: Option<EndpointSlice>, touched: &mut Touched) {
        let service = |slice: &EndpointSlice| {
            let service = slice.service.clone()?;
            Some(Name { namespace: slice.metadata.namespace.clone(), name: service })
        };
        let pod = |slice: &EndpointSlice, pod: &Arc<str>| Name {
            namespace: slice.metadata.namespace.clone(),
            name: pod.clone(),
        };
        let old = set(&mut self.slices, name.clone(), new);
        let new = self.slices.get(&name);
        // A rollout rewrites a slice of up to 100 endpoints for each of its pods: only those that differ are touched.
        let whole = old.as_ref().map(|s| (&s.service, &s.ports)) != new.map(|s| (&s.service, &s.ports));
        for (this, other) in [(old.as_ref(), new), (new, old.as_ref())] {
            let Some(this) = this else { continue };
            for endpoint in &this.endpoints {
                let same = || other.is_some_and(|other| other.endpoints.contains(endpoint));
                if let Some(target) = &endpoint.pod
                    && (whole || !same())
                {
                    touched.insert(Unit::Pod(pod(this, target)));
                }
            }
        }
        touched.insert(Unit::Slice(name.clone()));
        let (old_service, new_service) = (old.as_ref().and_then(service), new.and_then(service));
        let new_pods: BTreeSet<Name> =
            new.iter().flat_map(|s| s.endpoints.iter().filter_map(|e| Some(pod(s, e.pod.as_ref()?)))).collect();
        let old_pods: BTreeSet<Name> =
            old.iter().flat_map(|s| s.endpoints.iter().filter_map(|e| Some(pod(s, e.pod.as_ref()?)))).collect();
        if old_pods != new_pods || old_service != new_service {
            // Only of a service without a selector do slices say which pods are members.
            for service in old_service.iter().chain(&new_service) {
                if self.services.get(service).is_some_and(|service| service.selector.is_empty()) {
                    self.topics.insert(Topic::Host(self.hostname(service)));
                }
            }
        }
        for pod in old_pods.difference(&new_pods) {
            forget(&mut self.slices_of_pod, pod, &name);
        }
        for pod in new_pods.difference(&old_pods) {
            self.slices_of_pod.entry(pod.clone()).or_default().insert(name.clone());
        }
        if old_service != new_service {
            let had =
                |this: &Self, s: &Option<Name>| s.as_ref().is_some_and(|s| this.slices_of_service.contains_key(s));
            let before = (had(self, &old_service), had(self, &new_service));
            if let Some(service) = &old_service {
                forget(&mut self.slices_of_service, service, &name);
            }
            if let Some(service) = &new_service {
                self.slices_of_service.entry(service.clone()).or_default().insert(name);
            }
            // With its first slice a service stops deriving its endpoints from its selector; with its last, it begins.
            let after = (had(self, &old_service), had(self, &new_service));
            for (service, flipped) in [(old_service, before.0 != after.0), (new_service, before.1 != after.1)] {
                if let Some(service) = service.filter(|_| flipped)
                    && let Some(selector) = self.services.get(&service).map(|s| s.selector.clone())
                {
                    self.touch_selected(&service.namespace, &selector, touched);
                }
            }
        }
    }

    pub(super) fn set_service_entry(&mut self, name: Name, new: Option<ServiceEntry>, touched: &mut Touched) {
        let claim = |s: &ServiceEntry| Claim { is_entry: true, age: Age::of(&s.metadata), name: name.clone() };
        let mut claims: HashMap<Arc<str>, (Option<Claim>, Option<Claim>)> = HashMap::new();
        if let Some(old) = self.service_entries.remove(&name) {
            self.touch_selected(&name.namespace, &old.selector, touched);
            self.entry_selectors.remove(&name.namespace, &old.selector, &name);
            for host in &old.hosts {
                claims.entry(host.clone()).or_default().0 = Some(claim(&old));
            }
        }
        if let Some(new) = new {
            self.touch_selected(&name.namespace, &new.selector, touched);
            self.entry_selectors.insert(&name.namespace, &new.selector, &name);
            for host in &new.hosts {
                claims.entry(host.clone()).or_default().1 = Some(claim(&new));
            }
            self.service_entries.insert(name.clone(), new);
        }
        for (host, (old, new)) in claims {
            self.reclaim(&host, old, new, touched);
        }
        touched.insert(Unit::ServiceEntry(name));
    }

    pub(super) fn set_destination_rule(&mut self, name: Name, new: Option<DestinationRule>, touched: &mut Touched) {
        if let Some(old) = self.destination_rules.remove(&name) {
            let host = self.rule_host(&old);
            self.touch_hosts(&host, touched);
            self.topics.insert(Topic::Host(host.clone()));
            forget(&mut self.rules_for, &host, &(Age::of(&old.metadata), name.clone()));
        }
        if let Some(new) = new {
            let host = self.rule_host(&new);
            self.touch_hosts(&host, touched);
            self.topics.insert(Topic::Host(host.clone()));
            self.rules_for.entry(host).or_default().insert((Age::of(&new.metadata), name.clone()));
            self.destination_rules.insert(name.clone(), new);
        }
        touched.insert(Unit::DestinationRule(name));
    }

    /// Every service whose hostname is `host`, or ends as it does where it begins with a wildcard.
    pub(super) fn touch_hosts(&self, host: &Arc<str>, touched: &mut Touched) {
        let mut touch = |hostname: &Arc<str>| {
            let keys = self.claims(hostname).map(|claim| claim.name.namespace.clone());
            touched.extend(keys.map(|namespace| Unit::Host(ServiceKey { namespace, hostname: hostname.clone() })));
        };
        match host.strip_prefix('*') {
            None => touch(host),
            Some(end) => self.claims.keys().filter(|hostname| hostname.ends_with(end)).for_each(touch),
        }
    }

    pub(in crate::index) fn rule_host(&self, rule: &DestinationRule) -> Arc<str> {
        self.full(&rule.host, &rule.metadata.namespace)
    }
}

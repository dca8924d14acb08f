//! Hostnames, and what claims them: Kubernetes' services and ServiceEntries.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_core::workload::ServiceKey;

use super::{Claim, Cluster, EVERYWHERE, Name, Topic, Touched};
use crate::index::Unit;
use crate::index::labels::forget;

impl Cluster {
    /// Puts one claim to `hostname` in another's place; who else claims it may win or lose by that.
    pub(super) fn reclaim(
        &mut self,
        hostname: &Arc<str>,
        old: Option<Claim>,
        new: Option<Claim>,
        touched: &mut Touched,
    ) {
        let mut affected: BTreeSet<Claim> = old.iter().chain(&new).cloned().collect();
        if let Some(old) = old {
            forget(&mut self.claims, hostname, &old);
            if !self.claims(hostname).any(|claim| claim.name.namespace == old.name.namespace) {
                forget(&mut self.hosts_in, &old.name.namespace, hostname);
            }
        }
        if let Some(new) = new {
            self.hosts_in.entry(new.name.namespace.clone()).or_default().insert(hostname.clone());
            self.claims.entry(hostname.clone()).or_default().insert(new);
        }
        let own = affected.clone();
        self.topics.insert(Topic::Host(hostname.clone()));
        for claim in &own {
            self.topics.insert(Topic::Services(claim.name.namespace.clone()));
            self.topics.insert(Topic::Services(EVERYWHERE.into()));
        }
        affected.extend(self.claims.get(hostname).into_iter().flatten().cloned());
        for claim in affected {
            let namespace = claim.name.namespace.clone();
            let is_rival = !own.contains(&claim) && own.iter().any(|c| c.name.namespace == namespace);
            let key = ServiceKey { namespace, hostname: hostname.clone() };
            touched.insert(Unit::Layer7(key.clone()));
            touched.insert(Unit::Host(key));
            if is_rival {
                self.touch_endpoints(&claim, touched);
            }
        }
    }

    fn touch_endpoints(&self, claim: &Claim, touched: &mut Touched) {
        let name = &claim.name;
        if claim.is_entry {
            touched.insert(Unit::ServiceEntry(name.clone()));
        }
        let selector = match claim.is_entry {
            true => self.service_entries.get(name).map(|s| &s.selector),
            false => self.services.get(name).map(|s| &s.selector),
        };
        if let Some(selector) = selector {
            self.touch_selected(&name.namespace, selector, touched);
        }
        if !claim.is_entry {
            self.touch_slices(name, touched);
        }
    }

    pub(super) fn touch_slices(&self, service: &Name, touched: &mut Touched) {
        for slice in self.slices_of_service.get(service).into_iter().flatten() {
            touched.insert(Unit::Slice(slice.clone()));
            for endpoint in self.slices.get(slice).iter().flat_map(|s| &s.endpoints) {
                if let Some(pod) = &endpoint.pod {
                    let namespace = service.namespace.clone();
                    touched.insert(Unit::Pod(Name { namespace, name: pod.clone() }));
                }
            }
        }
    }

    /// Claims to a hostname, the strongest first.
    pub(in crate::index) fn claims(&self, hostname: &Arc<str>) -> impl Iterator<Item = &Claim> {
        self.claims.get(hostname).into_iter().flatten()
    }

    /// What stands for a hostname in a namespace.
    pub(in crate::index) fn claim(&self, key: &ServiceKey) -> Option<&Claim> {
        self.claims(&key.hostname).find(|claim| claim.name.namespace == key.namespace)
    }

    /// Every service, by namespace; of one namespace only, if it is given.
    pub(in crate::index) fn keys(&self, namespace: Option<&Arc<str>>) -> BTreeSet<ServiceKey> {
        let of = |(namespace, hosts): (&Arc<str>, &BTreeSet<Arc<str>>)| {
            let namespace = namespace.clone();
            let key = move |hostname| ServiceKey { namespace: namespace.clone(), hostname };
            hosts.iter().cloned().map(key).collect::<Vec<_>>()
        };
        match namespace {
            Some(namespace) => self.hosts_in.get_key_value(namespace).into_iter().flat_map(of).collect(),
            None => self.hosts_in.iter().flat_map(of).collect(),
        }
    }

    /// Whether `name` is what stands for `hostname` in its namespace.
    pub(in crate::index) fn owns(&self, hostname: &Arc<str>, is_entry: bool, name: &Name) -> bool {
        let first = self.claims(hostname).find(|claim| claim.name.namespace == name.namespace);
        first.is_some_and(|claim| claim.is_entry == is_entry && claim.name == *name)
    }
}

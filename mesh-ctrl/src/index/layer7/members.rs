//! Which workloads are endpoints of a service and have some labels.

use std::collections::BTreeSet;

use mesh_core::workload::{ServiceKey, Uid};

use crate::index::Built;
use crate::index::cluster::{Cluster, Member, Name, Topic};
use crate::index::labels::matches;
use crate::object::Labels;

impl Cluster {
    /// Endpoints of a service with these labels, ready or not: which of them serve, their own resources say.
    pub(super) fn members(&self, key: &ServiceKey, labels: &Labels, built: &mut Built) -> BTreeSet<Uid> {
        let Some(claim) = self.claim(key) else { return BTreeSet::new() };
        let namespace = &claim.name.namespace;
        let mut found = BTreeSet::new();
        let selector = match claim.is_entry {
            true => {
                let Some(entry) = self.service_entries.get(&claim.name) else { return found };
                let listed = self.listed(&claim.name, entry).into_iter();
                found.extend(listed.filter(|(_, own)| matches(labels, own)).map(|(uid, _)| uid));
                &entry.selector
            }
            false => {
                let Some(service) = self.services.get(&claim.name) else { return found };
                if service.selector.is_empty() {
                    found.extend(self.members_by_slices(&claim.name, labels, built));
                }
                &service.selector
            }
        };
        let Some((label, value)) = selector.first_key_value() else { return found };
        built.read(Topic::Label(namespace.clone(), label.clone(), value.clone()));
        // What a selector and a subset ask for differently, nothing has.
        let both = self.selected(namespace, selector);
        let both = both.filter(|member| self.labels(member).is_some_and(|own| matches(labels, own)));
        found.extend(both.map(|member| self.uid(member)));
        found
    }

    fn members_by_slices(&self, service: &Name, labels: &Labels, built: &mut Built) -> BTreeSet<Uid> {
        if let Some((label, value)) = labels.first_key_value() {
            built.read(Topic::Label(service.namespace.clone(), label.clone(), value.clone()));
        }
        let slices = self.slices_of_service.get(service).into_iter().flatten();
        let endpoints = slices.filter_map(|slice| self.slices.get(slice)).flat_map(|slice| &slice.endpoints);
        let pods = endpoints.filter_map(|endpoint| endpoint.pod.clone());
        let members = pods.map(|name| Member::Pod(Name { namespace: service.namespace.clone(), name }));
        let members = members.filter(|member| self.labels(member).is_some_and(|own| matches(labels, own)));
        members.map(|member| self.uid(&member)).collect()
    }
}

//! Where policies and telemetry are in force: at a waypoint as a whole, or for one of its services.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_core::identity::SpiffeId;
use mesh_core::workload::ServiceKey;

use crate::index::Built;
use crate::index::cluster::{Cluster, EVERYWHERE, Member, Name, Topic};
use crate::index::waypoints::{GATEWAY_NAME, serves};
use crate::object::reference::{Referent, TargetRef};
use crate::object::{AuthorizationPolicy, Labels};

/// What a model is for.
pub(in crate::index) struct Whole<'a> {
    pub(in crate::index) waypoint: &'a Name,
    /// `None`: workloads that are asked for by their addresses.
    pub(in crate::index) service: Option<&'a ServiceKey>,
}

impl Whole<'_> {
    /// Namespaces whose policies may be in force, each once: the mesh's, the waypoint's, the service's.
    pub(super) fn namespaces(&self, root: &Arc<str>) -> Vec<Arc<str>> {
        let mut found = Vec::new();
        for namespace in [Some(root), Some(&self.waypoint.namespace), self.service.map(|key| &key.namespace)] {
            if let Some(namespace) = namespace.filter(|namespace| !found.contains(*namespace)) {
                found.push(namespace.clone());
            }
        }
        found
    }
}

impl Cluster {
    /// Whether a target of a policy in `namespace` is this waypoint, or this service.
    pub(super) fn is_target(&self, whole: &Whole<'_>, target: &TargetRef, namespace: &Arc<str>) -> bool {
        let name = Name { namespace: namespace.clone(), name: target.name.clone() };
        let claim = || whole.service.and_then(|key| self.claim(key));
        match target.referent() {
            Some(Referent::Gateway) => name == *whole.waypoint,
            Some(Referent::GatewayClass) => {
                *namespace == self.config.root_namespace && Self::is_waypoint_class(&target.name)
            }
            Some(Referent::Service) => claim().is_some_and(|claim| !claim.is_entry && claim.name == name),
            Some(Referent::ServiceEntry) => claim().is_some_and(|claim| claim.is_entry && claim.name == name),
            None => false,
        }
    }

    /// Whether a policy without targets is about the service: it is for its namespace, or selects one of its endpoints. One is
    /// enough: which of them a request gets is not known when policy is asked.
    pub(super) fn is_about(
        &self,
        whole: &Whole<'_>,
        selector: &Labels,
        namespace: &Arc<str>,
        built: &mut Built,
    ) -> bool {
        let is_root = *namespace == self.config.root_namespace;
        match whole.service {
            Some(key) if is_root || key.namespace == *namespace => {
                selector.is_empty() || !self.members(key, selector, built).is_empty()
            }
            // Which workload a connection is for, the model does not say: a selector is left to the workload's agent.
            None => selector.is_empty() && (is_root || whole.waypoint.namespace == *namespace),
            Some(_) => false,
        }
    }

    /// Identities of the waypoints that carry out a policy which is attached to none.
    pub(in crate::index) fn carriers(&self, policy: &AuthorizationPolicy, built: &mut Built) -> BTreeSet<SpiffeId> {
        if !policy.targets.is_empty() || !policy.is_layer7() {
            return BTreeSet::new();
        }
        let waypoints = self.carrying(&policy.selector, &policy.metadata.namespace, built);
        waypoints.into_iter().flat_map(|waypoint| self.identities(&waypoint, built)).collect()
    }

    /// Whether some waypoint carries out what a namespace says of its workloads.
    pub(super) fn is_carried_out(&self, selector: &Labels, namespace: &Arc<str>, built: &mut Built) -> bool {
        !self.carrying(selector, namespace, built).is_empty()
    }

    fn carrying(&self, selector: &Labels, namespace: &Arc<str>, built: &mut Built) -> BTreeSet<Name> {
        let is_root = *namespace == self.config.root_namespace;
        let scope = if is_root { EVERYWHERE.into() } else { namespace.clone() };
        built.read(Topic::Services(scope));
        let mut waypoints = BTreeSet::new();
        // What is wrong with labels is told of the services themselves.
        let mut aside = Built::default();
        for key in self.keys((!is_root).then_some(namespace)) {
            let Some(waypoint) = self.waypoint_of_service(&key, &mut aside).filter(|w| !w.is_refused) else { continue };
            let is_there = self.waypoint_gateway(&waypoint.name, &mut aside).is_some();
            let whole = Whole { waypoint: &waypoint.name, service: Some(&key) };
            if is_there && self.is_about(&whole, selector, namespace, &mut aside) {
                waypoints.insert(waypoint.name);
            }
        }
        built.reads.extend(aside.reads);
        waypoints.extend(self.workload_waypoints(selector, namespace, built));
        waypoints
    }

    /// Those for workloads at which a policy is in force as a whole.
    fn workload_waypoints(&self, selector: &Labels, namespace: &Arc<str>, built: &mut Built) -> Vec<Name> {
        built.read(Topic::Gateways);
        let is_root = *namespace == self.config.root_namespace;
        let here = self.layer7.gateways.values().filter(|gateway| {
            Self::is_waypoint_class(&gateway.spec.gateway_class_name)
                && serves(gateway, "workload")
                && selector.is_empty()
                && (is_root || gateway.metadata.namespace == *namespace)
        });
        here.map(|gateway| Name::of(&gateway.metadata)).collect()
    }

    /// As whom a waypoint's pods connect. Until there are any: the account of the waypoint's own name.
    fn identities(&self, waypoint: &Name, built: &mut Built) -> BTreeSet<SpiffeId> {
        let label = Labels::from([(Arc::from(GATEWAY_NAME), waypoint.name.clone())]);
        built.read(Topic::Label(waypoint.namespace.clone(), GATEWAY_NAME.into(), waypoint.name.clone()));
        let pods = self.selected(&waypoint.namespace, &label).filter_map(|member| match member {
            Member::Pod(name) => self.pods.get(name).map(|pod| pod.service_account.clone()),
            Member::Entry(_) => None,
        });
        let mut accounts: BTreeSet<Arc<str>> = pods.collect();
        if accounts.is_empty() {
            accounts.insert(waypoint.name.clone());
        }
        let identity = |account: &Arc<str>| SpiffeId::new(&self.config.trust_domain, &waypoint.namespace, account).ok();
        accounts.iter().filter_map(identity).collect()
    }
}

//! The objects that only waypoints carry out, and what a changed one can touch.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Age, Cluster, Name, Topic, Touched, set};
use crate::index::Unit;
use crate::index::labels::forget;
use crate::object::reference::{ParentRef, Referent};
use crate::object::{
    BackendTrafficPolicy, Gateway, GrpcRoute, HttpRoute, Kind, ReferenceGrant, RequestAuthentication, StreamRoute,
    Telemetry, VirtualService,
};

/// A route by its kind; of several the oldest comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::index) struct RouteRef {
    pub(in crate::index) age: Age,
    pub(in crate::index) name: Name,
    pub(in crate::index) kind: Kind,
}

#[derive(Debug, Default)]
pub(in crate::index) struct Objects {
    pub(in crate::index) gateways: HashMap<Name, Gateway>,
    pub(in crate::index) virtual_services: HashMap<Name, VirtualService>,
    pub(in crate::index) http_routes: HashMap<Name, HttpRoute>,
    pub(in crate::index) grpc_routes: HashMap<Name, GrpcRoute>,
    /// TCPRoutes and TLSRoutes.
    pub(in crate::index) stream_routes: HashMap<(Kind, Name), StreamRoute>,
    pub(in crate::index) request_authentications: HashMap<Name, RequestAuthentication>,
    pub(in crate::index) telemetries: HashMap<Name, Telemetry>,
    pub(in crate::index) backend_traffic_policies: HashMap<Name, BackendTrafficPolicy>,
    grants: HashMap<Name, ReferenceGrant>,

    /// VirtualServices by their hosts in full, which may begin with a wildcard; oldest first.
    pub(in crate::index) rules_for: HashMap<Arc<str>, BTreeSet<(Age, Name)>>,
    /// Routes by what they are attached to.
    pub(in crate::index) routes_for: HashMap<(Referent, Name), BTreeSet<RouteRef>>,
    /// By namespace.
    pub(in crate::index) authorizations_in: HashMap<Arc<str>, BTreeSet<Name>>,
    pub(in crate::index) authentications_in: HashMap<Arc<str>, BTreeSet<Name>>,
    /// Oldest first.
    pub(in crate::index) telemetries_in: HashMap<Arc<str>, BTreeSet<(Age, Name)>>,
    pub(in crate::index) backend_traffic_policies_in: HashMap<Arc<str>, BTreeSet<(Age, Name)>>,
    grants_in: HashMap<Arc<str>, BTreeSet<Name>>,
}

impl Cluster {
    pub(super) fn set_gateway(&mut self, name: Name, new: Option<Gateway>, touched: &mut Touched) {
        // Its status is written often; whom it is for, hardly ever.
        let says = |gateway: &Gateway| (gateway.spec.clone(), gateway.metadata.labels.clone());
        let after = new.as_ref().map(says);
        let old = set(&mut self.layer7.gateways, name.clone(), new);
        if old.as_ref().map(says) != after {
            self.topics.insert(Topic::Gateway(name.clone()));
            self.topics.insert(Topic::Gateways);
            touched.insert(Unit::Waypoint(name));
        }
    }

    pub(super) fn set_virtual_service(&mut self, name: Name, new: Option<VirtualService>, touched: &mut Touched) {
        // Of a status that is written there is nothing to see.
        if self.layer7.virtual_services.get(&name) == new.as_ref() {
            return;
        }
        if let Some(old) = self.layer7.virtual_services.remove(&name) {
            for host in self.hosts_of(&old) {
                forget(&mut self.layer7.rules_for, &host, &(Age::of(&old.metadata), name.clone()));
                self.topics.insert(Topic::Host(host));
            }
        }
        if let Some(new) = new {
            for host in self.hosts_of(&new) {
                let rules = self.layer7.rules_for.entry(host.clone()).or_default();
                rules.insert((Age::of(&new.metadata), name.clone()));
                self.topics.insert(Topic::Host(host));
            }
            self.layer7.virtual_services.insert(name.clone(), new);
        }
        self.topics.insert(Topic::VirtualService(name.clone()));
        touched.insert(Unit::VirtualService(name));
    }

    fn hosts_of(&self, rules: &VirtualService) -> Vec<Arc<str>> {
        rules.spec.hosts.iter().map(|host| self.full(host, &rules.metadata.namespace)).collect()
    }

    pub(super) fn set_http_route(&mut self, name: Name, new: Option<HttpRoute>, touched: &mut Touched) {
        if self.layer7.http_routes.get(&name) == new.as_ref() {
            return;
        }
        let key = (Kind::HttpRoute, name.clone());
        if let Some(old) = self.layer7.http_routes.remove(&name) {
            self.detach(&key, Age::of(&old.metadata), &old.spec.parent_refs);
        }
        if let Some(new) = new {
            self.attach(&key, Age::of(&new.metadata), &new.spec.parent_refs);
            self.layer7.http_routes.insert(name, new);
        }
        touched.insert(Unit::Route(key.0, key.1));
    }

    pub(super) fn set_grpc_route(&mut self, name: Name, new: Option<GrpcRoute>, touched: &mut Touched) {
        if self.layer7.grpc_routes.get(&name) == new.as_ref() {
            return;
        }
        let key = (Kind::GrpcRoute, name.clone());
        if let Some(old) = self.layer7.grpc_routes.remove(&name) {
            self.detach(&key, Age::of(&old.metadata), &old.spec.parent_refs);
        }
        if let Some(new) = new {
            self.attach(&key, Age::of(&new.metadata), &new.spec.parent_refs);
            self.layer7.grpc_routes.insert(name, new);
        }
        touched.insert(Unit::Route(key.0, key.1));
    }

    pub(super) fn set_stream_route(&mut self, key: (Kind, Name), new: Option<StreamRoute>, touched: &mut Touched) {
        if self.layer7.stream_routes.get(&key) == new.as_ref() {
            return;
        }
        if let Some(old) = self.layer7.stream_routes.remove(&key) {
            self.detach(&key, Age::of(&old.metadata), &old.spec.parent_refs);
        }
        if let Some(new) = new {
            self.attach(&key, Age::of(&new.metadata), &new.spec.parent_refs);
            self.layer7.stream_routes.insert(key.clone(), new);
        }
        touched.insert(Unit::Route(key.0, key.1));
    }

    fn attach(&mut self, (kind, name): &(Kind, Name), age: Age, parents: &[ParentRef]) {
        for parent in parents.iter().filter_map(|parent| attached_to(parent, &name.namespace)) {
            let route = RouteRef { age: age.clone(), name: name.clone(), kind: *kind };
            self.layer7.routes_for.entry(parent.clone()).or_default().insert(route);
            self.topics.insert(Topic::Routes(parent.0, parent.1));
        }
    }

    fn detach(&mut self, (kind, name): &(Kind, Name), age: Age, parents: &[ParentRef]) {
        let route = RouteRef { age, name: name.clone(), kind: *kind };
        for parent in parents.iter().filter_map(|parent| attached_to(parent, &name.namespace)) {
            forget(&mut self.layer7.routes_for, &parent, &route);
            self.topics.insert(Topic::Routes(parent.0, parent.1));
        }
    }

    /// Notes a policy. Also one that only says what L4 knows: agents leave what comes from a service's waypoint to the waypoint,
    /// which alone knows the client.
    pub(super) fn note_authorization(&mut self, name: &Name, is_there: bool) {
        match is_there {
            true => {
                self.layer7.authorizations_in.entry(name.namespace.clone()).or_default().insert(name.clone());
            }
            false => forget(&mut self.layer7.authorizations_in, &name.namespace, name),
        }
        self.topics.insert(Topic::Policies(name.namespace.clone()));
    }

    pub(super) fn set_request_authentication(
        &mut self,
        name: Name,
        new: Option<RequestAuthentication>,
        touched: &mut Touched,
    ) {
        let namespace = name.namespace.clone();
        match new.is_some() {
            true => {
                self.layer7.authentications_in.entry(namespace.clone()).or_default().insert(name.clone());
            }
            false => forget(&mut self.layer7.authentications_in, &namespace, &name),
        }
        set(&mut self.layer7.request_authentications, name.clone(), new);
        self.topics.insert(Topic::Policies(namespace));
        touched.insert(Unit::RequestAuthentication(name));
    }

    pub(super) fn set_telemetry(&mut self, name: Name, new: Option<Telemetry>, touched: &mut Touched) {
        let namespace = name.namespace.clone();
        if let Some(old) = self.layer7.telemetries.remove(&name) {
            forget(&mut self.layer7.telemetries_in, &namespace, &(Age::of(&old.metadata), name.clone()));
        }
        if let Some(new) = new {
            let telemetries = self.layer7.telemetries_in.entry(namespace.clone()).or_default();
            telemetries.insert((Age::of(&new.metadata), name.clone()));
            self.layer7.telemetries.insert(name.clone(), new);
        }
        self.topics.insert(Topic::Policies(namespace));
        touched.insert(Unit::Telemetry(name));
    }

    pub(super) fn set_backend_traffic_policy(
        &mut self,
        name: Name,
        new: Option<BackendTrafficPolicy>,
        touched: &mut Touched,
    ) {
        // Of a status that is written there is nothing to see.
        if self.layer7.backend_traffic_policies.get(&name) == new.as_ref() {
            return;
        }
        let namespace = name.namespace.clone();
        if let Some(old) = self.layer7.backend_traffic_policies.remove(&name) {
            let age = Age::of(&old.metadata);
            forget(&mut self.layer7.backend_traffic_policies_in, &namespace, &(age, name.clone()));
        }
        if let Some(new) = new {
            let policies = self.layer7.backend_traffic_policies_in.entry(namespace.clone()).or_default();
            policies.insert((Age::of(&new.metadata), name.clone()));
            self.layer7.backend_traffic_policies.insert(name.clone(), new);
        }
        self.topics.insert(Topic::Policies(namespace));
        touched.insert(Unit::BackendTrafficPolicy(name));
    }

    pub(super) fn set_grant(&mut self, name: Name, new: Option<ReferenceGrant>) {
        let namespace = name.namespace.clone();
        match new.is_some() {
            true => {
                self.layer7.grants_in.entry(namespace.clone()).or_default().insert(name.clone());
            }
            false => forget(&mut self.layer7.grants_in, &namespace, &name),
        }
        set(&mut self.layer7.grants, name, new);
        self.topics.insert(Topic::Grants(namespace));
    }

    /// Whether a route of `kind` in `from` may lead to a Service elsewhere.
    pub(in crate::index) fn is_granted(&self, kind: Kind, from: &str, service: &Name) -> bool {
        let grants = self.layer7.grants_in.get(&service.namespace).into_iter().flatten();
        let mut grants = grants.filter_map(|name| self.layer7.grants.get(name));
        grants.any(|grant| grant.allows(kind.as_str(), from, &service.name))
    }
}

/// What a route in `namespace` is attached to by one of its parents.
pub(in crate::index) fn attached_to(parent: &ParentRef, namespace: &Arc<str>) -> Option<(Referent, Name)> {
    let namespace = parent.namespace.clone().unwrap_or_else(|| namespace.clone());
    Some((parent.referent()?, Name { namespace, name: parent.name.clone() }))
}

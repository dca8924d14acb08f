//! The objects as they are, with the reverse indices that say what a changed one can touch.

mod members;
mod services;
mod policies;
mod layer7;
mod claims;
mod topic;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::labels::{ByLabel, BySelector};
use super::{Config, Unit};
use crate::object::{
    AuthorizationPolicy, DestinationRule, EndpointSlice, Kind, MeshConfig, Metadata, Namespace, Node, Object,
    ObjectKey, PeerAuthentication, Pod, Secret, Service, ServiceEntry, WorkloadEntry,
};

pub(super) use layer7::{RouteRef, attached_to};
pub(super) use topic::Topic;

/// Namespace and name of an object whose kind is known from where this stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

impl Name {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { namespace: metadata.namespace.clone(), name: metadata.name.clone() }
    }
}

/// What has labels and runs something: it can be selected.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Member {
    Pod(Name),
    Entry(Name),
}

/// An object's right to a hostname. Smaller is stronger: Kubernetes' own services, then the oldest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) is_entry: bool,
    pub(super) age: Age,
    pub(super) name: Name,
}

/// Orders oldest first; an object without a time counts as the youngest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age(bool, Option<Arc<str>>);

impl Age {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self(metadata.creation_timestamp.is_none(), metadata.creation_timestamp.clone())
    }
}

#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) config: Config,
    pub(super) namespaces: HashMap<Arc<str>, Namespace>,
    pub(super) nodes: HashMap<Arc<str>, Node>,
    pub(super) pods: HashMap<Name, Pod>,
    pub(super) entries: HashMap<Name, WorkloadEntry>,
    pub(super) services: HashMap<Name, Service>,
    pub(super) slices: HashMap<Name, EndpointSlice>,
    pub(super) service_entries: HashMap<Name, ServiceEntry>,
    pub(super) authorizations: HashMap<Name, AuthorizationPolicy>,
    pub(super) peers: HashMap<Name, PeerAuthentication>,
    pub(super) destination_rules: HashMap<Name, DestinationRule>,
    /// ReplicaSets and Jobs: what owns pods and may be owned itself.
    pub(super) owners: HashMap<(Kind, Name), Metadata>,

    members: ByLabel<Member>,
    members_in: HashMap<Arc<str>, BTreeSet<Member>>,
    pub(super) on_node: HashMap<Arc<str>, BTreeSet<Member>>,
    owned_by: HashMap<(Kind, Name), BTreeSet<Name>>,
    pub(super) slices_of_service: HashMap<Name, BTreeSet<Name>>,
    pub(super) slices_of_pod: HashMap<Name, BTreeSet<Name>>,
    pub(super) service_selectors: BySelector<Name>,
    pub(super) entry_selectors: BySelector<Name>,
    pub(super) authorization_selectors: BySelector<Name>,
    pub(super) peer_selectors: BySelector<Name>,
    /// PeerAuthentications without a selector, by namespace, oldest first.
    pub(super) peers_of_namespace: HashMap<Arc<str>, BTreeSet<(Age, Name)>>,
    peers_in: HashMap<Arc<str>, BTreeSet<Name>>,
    claims: HashMap<Arc<str>, BTreeSet<Claim>>,
    /// Hostnames that something in a namespace claims.
    hosts_in: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// By their host in full, which may begin with a wildcard; oldest first.
    pub(super) rules_for: HashMap<Arc<str>, BTreeSet<(Age, Name)>>,
    pub(super) mesh_config: Option<MeshConfig>,
    pub(super) secrets: HashMap<Name, Secret>,
    pub(super) layer7: layer7::Objects,
    /// What changed since this was last taken, for the units that read it.
    pub(super) topics: BTreeSet<Topic>,
}

/// Units that may come out differently.
pub(super) type Touched = BTreeSet<Unit>;

impl Cluster {
    pub(super) fn new(config: Config) -> Self {
        Self { config, ..Self::default() }
    }

    pub(super) fn apply(&mut self, object: Object, touched: &mut Touched) {
        let name = Name::of(object.metadata());
        match object {
            Object::Namespace(o) => self.set_namespace(name.name, Some(o), touched),
            Object::Node(o) => self.set_node(name.name, Some(o), touched),
            Object::Pod(o) => self.set_pod(name, Some(o), touched),
            Object::Service(o) => self.set_service(name, Some(o), touched),
            Object::EndpointSlice(o) => self.set_slice(name, Some(o), touched),
            Object::ReplicaSet(o) => self.set_owner((Kind::ReplicaSet, name), Some(o), touched),
            Object::Job(o) => self.set_owner((Kind::Job, name), Some(o), touched),
            Object::PeerAuthentication(o) => self.set_peer(name, Some(o), touched),
            Object::AuthorizationPolicy(o) => self.set_authorization(name, Some(o), touched),
            Object::ServiceEntry(o) => self.set_service_entry(name, Some(o), touched),
            Object::WorkloadEntry(o) => self.set_entry(name, Some(o), touched),
            Object::DestinationRule(o) => self.set_destination_rule(name, Some(o), touched),
            Object::VirtualService(o) => self.set_virtual_service(name, Some(o), touched),
            Object::Gateway(o) => self.set_gateway(name, Some(o), touched),
            Object::HttpRoute(o) => self.set_http_route(name, Some(o), touched),
            Object::GrpcRoute(o) => self.set_grpc_route(name, Some(o), touched),
            Object::TcpRoute(o) => self.set_stream_route((Kind::TcpRoute, name), Some(o), touched),
            Object::TlsRoute(o) => self.set_stream_route((Kind::TlsRoute, name), Some(o), touched),
            Object::RequestAuthentication(o) => self.set_request_authentication(name, Some(o), touched),
            Object::Telemetry(o) => self.set_telemetry(name, Some(o), touched),
            Object::BackendTrafficPolicy(o) => self.set_backend_traffic_policy(name, Some(o), touched),
            Object::MeshConfig(o) => self.set_mesh_config(&name, Some(o), touched),
            Object::Secret(o) => self.set_secret(name, Some(o)),
            Object::ReferenceGrant(o) => self.set_grant(name, Some(o)),
            // A pod says its account and its ReplicaSet; nothing more is asked of these.
            Object::ServiceAccount(_) | Object::Deployment(_) => {}
        }
    }

    pub(super) fn delete(&mut self, key: ObjectKey, touched: &mut Touched) {
        let name = Name { namespace: key.namespace, name: key.name };
        match key.kind {
            Kind::Namespace => self.set_namespace(name.name, None, touched),
            Kind::Node => self.set_node(name.name, None, touched),
            Kind::Pod => self.set_pod(name, None, touched),
            Kind::Service => self.set_service(name, None, touched),
            Kind::EndpointSlice => self.set_slice(name, None, touched),
            Kind::ReplicaSet | Kind::Job => self.set_owner((key.kind, name), None, touched),
            Kind::PeerAuthentication => self.set_peer(name, None, touched),
            Kind::AuthorizationPolicy => self.set_authorization(name, None, touched),
            Kind::ServiceEntry => self.set_service_entry(name, None, touched),
            Kind::WorkloadEntry => self.set_entry(name, None, touched),
            Kind::DestinationRule => self.set_destination_rule(name, None, touched),
            Kind::VirtualService => self.set_virtual_service(name, None, touched),
            Kind::Gateway => self.set_gateway(name, None, touched),
            Kind::HttpRoute => self.set_http_route(name, None, touched),
            Kind::GrpcRoute => self.set_grpc_route(name, None, touched),
            Kind::TcpRoute | Kind::TlsRoute => self.set_stream_route((key.kind, name), None, touched),
            Kind::RequestAuthentication => self.set_request_authentication(name, None, touched),
            Kind::Telemetry => self.set_telemetry(name, None, touched),
            Kind::BackendTrafficPolicy => self.set_backend_traffic_policy(name, None, touched),
            Kind::ConfigMap => self.set_mesh_config(&name, None, touched),
            Kind::Secret => self.set_secret(name, None),
            Kind::ReferenceGrant => self.set_grant(name, None),
            Kind::ServiceAccount | Kind::Deployment => {}
        }
    }

    fn set_mesh_config(&mut self, name: &Name, new: Option<MeshConfig>, touched: &mut Touched) {
        // Somebody else's, of the same name.
        if name.namespace != self.config.root_namespace || self.mesh_config == new {
            return;
        }
        self.mesh_config = new;
        self.topics.insert(Topic::MeshConfig);
        touched.insert(Unit::MeshConfig);
    }

    fn set_secret(&mut self, name: Name, new: Option<Secret>) {
        set(&mut self.secrets, name.clone(), new);
        self.topics.insert(Topic::Secret(name));
    }

    /// A name without a dot is a service of the namespace in which it is written.
    pub(super) fn full(&self, host: &Arc<str>, namespace: &Arc<str>) -> Arc<str> {
        match host.contains(['.', '*']) {
            true => host.clone(),
            false => self.hostname(&Name { namespace: namespace.clone(), name: host.clone() }),
        }
    }

    pub(super) fn hostname(&self, service: &Name) -> Arc<str> {
        format!("{}.{}.svc.{}", service.name, service.namespace, self.config.cluster_domain).into()
    }
}

/// Scope of selectors that pick in every namespace.
pub(super) const EVERYWHERE: &str = "";

fn set<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}

impl From<Member> for Unit {
    fn from(member: Member) -> Self {
        match member {
            Member::Pod(name) => Unit::Pod(name),
            Member::Entry(name) => Unit::Entry(name),
        }
    }
}

//! The objects as they are, with the reverse indices that say what a changed one can touch.

mod layer7;
mod claims;
mod topic;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mesh_core::workload::ServiceKey;

use super::labels::{ByLabel, BySelector, forget, matches};
use super::{Config, Unit};
use crate::object::{
    AuthorizationPolicy, DestinationRule, EndpointSlice, Kind, Labels, MeshConfig, Metadata, Namespace, Node, Object,
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

    fn set_namespace(&mut self, name: Arc<str>, new: Option<Namespace>, touched: &mut Touched) {
        let says = |o: &Option<Namespace>| {
            o.as_ref().map(|n| (n.metadata.labels.clone(), n.metadata.annotations.clone())).unwrap_or_default()
        };
        let after = says(&new);
        let old = set(&mut self.namespaces, name.clone(), new);
        if says(&old) != after {
            self.touch_namespace(&name, touched);
            self.topics.insert(Topic::Namespace(name));
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

    fn set_node(&mut self, name: Arc<str>, new: Option<Node>, touched: &mut Touched) {
        let labels = |o: &Option<Node>| o.as_ref().map(|n| n.metadata.labels.clone()).unwrap_or_default();
        let after = labels(&new);
        let old = set(&mut self.nodes, name.clone(), new);
        // Nodes are written every few seconds by their heartbeats; labels hardly ever change.
        if labels(&old) != after {
            touched.extend(self.on_node.get(&name).into_iter().flatten().cloned().map(Unit::from));
        }
    }

    fn set_pod(&mut self, name: Name, new: Option<Pod>, touched: &mut Touched) {
        let owner = |pod: &Pod| {
            let owner = pod.metadata.owner.as_ref()?;
            let kind = match &*owner.kind {
                "ReplicaSet" => Kind::ReplicaSet,
                "Job" => Kind::Job,
                _ => return None,
            };
            Some((kind, Name { namespace: pod.metadata.namespace.clone(), name: owner.name.clone() }))
        };
        if let Some(new) = &new {
            self.add_member(Member::Pod(name.clone()), &new.metadata);
        }
        let (node, new_owner) = (new.as_ref().map(|p| p.node.clone()), new.as_ref().and_then(owner));
        let kept = new.as_ref().map(|p| p.metadata.labels.clone());
        let says = |pod: Option<&Pod>| pod.map(|pod| (pod.metadata.labels.clone(), pod.service_account.clone()));
        let after = says(new.as_ref());
        let old = set(&mut self.pods, name.clone(), new);
        let before = says(old.as_ref());
        if before != after {
            let labels = before.iter().chain(&after).map(|(labels, _)| labels);
            labels.for_each(|labels| self.tell_labels(&name.namespace, labels));
        }
        if let Some(old) = old {
            self.drop_member(&Member::Pod(name.clone()), &old.metadata, kept.as_ref());
            forget(&mut self.on_node, &old.node, &Member::Pod(name.clone()));
            if let Some(owner) = owner(&old) {
                forget(&mut self.owned_by, &owner, &name);
            }
        }
        if let Some(node) = node {
            self.on_node.entry(node).or_default().insert(Member::Pod(name.clone()));
        }
        if let Some(owner) = new_owner {
            self.owned_by.entry(owner).or_default().insert(name.clone());
        }
        touched.insert(Unit::Pod(name));
    }

    fn set_entry(&mut self, name: Name, new: Option<WorkloadEntry>, touched: &mut Touched) {
        let member = Member::Entry(name.clone());
        if let Some(old) = self.entries.remove(&name) {
            self.drop_member(&member, &entry_metadata(&old), None);
            self.tell_labels(&name.namespace, &old.endpoint.labels);
            if let Ok(Some(node)) = old.node() {
                forget(&mut self.on_node, &node, &member);
            }
        }
        if let Some(mut new) = new {
            // Labels stand in both places; those of the object itself win.
            new.endpoint.labels.extend(new.metadata.labels.clone());
            if let Ok(Some(node)) = new.node() {
                self.on_node.entry(node).or_default().insert(member.clone());
            }
            self.add_member(member, &entry_metadata(&new));
            self.tell_labels(&name.namespace, &new.endpoint.labels);
            self.entries.insert(name.clone(), new);
        }
        touched.insert(Unit::Entry(name));
    }

    fn tell_labels(&mut self, namespace: &Arc<str>, labels: &Labels) {
        for (key, value) in labels {
            for scope in [namespace.clone(), EVERYWHERE.into()] {
                self.topics.insert(Topic::Label(scope, key.clone(), value.clone()));
            }
        }
    }

    fn add_member(&mut self, member: Member, metadata: &Metadata) {
        self.members.insert(&metadata.namespace, &metadata.labels, &member);
        self.members.insert(&EVERYWHERE.into(), &metadata.labels, &member);
        self.members_in.entry(metadata.namespace.clone()).or_default().insert(member);
    }

    /// `kept`: the labels of what takes the old one's place.
    fn drop_member(&mut self, member: &Member, metadata: &Metadata, kept: Option<&Labels>) {
        let mut gone = metadata.labels.clone();
        gone.retain(|key, value| kept.is_none_or(|kept| kept.get(key) != Some(value)));
        self.members.remove(&metadata.namespace, &gone, member);
        self.members.remove(&EVERYWHERE.into(), &gone, member);
        if kept.is_none() {
            forget(&mut self.members_in, &metadata.namespace, member);
        }
    }

    fn set_owner(&mut self, key: (Kind, Name), new: Option<Metadata>, touched: &mut Touched) {
        let owner = |m: &Option<Metadata>| m.as_ref().map(|m| m.owner.clone());
        let after = owner(&new);
        let old = set(&mut self.owners, key.clone(), new);
        if owner(&old) != after {
            touched.extend(self.owned_by.get(&key).into_iter().flatten().cloned().map(Unit::Pod));
        }
    }

    fn set_service(&mut self, name: Name, new: Option<Service>, touched: &mut Touched) {
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

    fn set_slice(&mut self, name: Name, new: Option<EndpointSlice>, touched: &mut Touched) {
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

    fn set_service_entry(&mut self, name: Name, new: Option<ServiceEntry>, touched: &mut Touched) {
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

    fn set_authorization(&mut self, name: Name, new: Option<AuthorizationPolicy>, touched: &mut Touched) {
        let scope = self.policy_scope(&name.namespace);
        if let Some(old) = self.authorizations.remove(&name) {
            self.note_authorization(&name, false);
            // A changed rule is the policy's matter; a workload lists only its name.
            if new.as_ref().is_none_or(|new| new.selector != old.selector) {
                self.touch_selected(&scope, &old.selector, touched);
            }
            self.authorization_selectors.remove(&scope, &old.selector, &name);
            if let Some(new) = &new
                && new.selector != old.selector
            {
                self.touch_selected(&scope, &new.selector, touched);
            }
        } else if let Some(new) = &new {
            self.touch_selected(&scope, &new.selector, touched);
        }
        if let Some(new) = new {
            self.note_authorization(&name, true);
            self.authorization_selectors.insert(&scope, &new.selector, &name);
            self.authorizations.insert(name.clone(), new);
        }
        touched.insert(Unit::Authorization(name));
    }

    fn set_peer(&mut self, name: Name, new: Option<PeerAuthentication>, touched: &mut Touched) {
        let namespace = &name.namespace;
        if let Some(old) = self.peers.remove(&name) {
            self.touch_peer(&name, &old.selector, touched);
            self.peer_selectors.remove(namespace, &old.selector, &name);
            forget(&mut self.peers_of_namespace, namespace, &(Age::of(&old.metadata), name.clone()));
            forget(&mut self.peers_in, namespace, &name);
        }
        if let Some(new) = new {
            self.touch_peer(&name, &new.selector, touched);
            self.peer_selectors.insert(namespace, &new.selector, &name);
            if new.selector.is_empty() {
                let oldest = self.peers_of_namespace.entry(namespace.clone()).or_default();
                oldest.insert((Age::of(&new.metadata), name.clone()));
            }
            self.peers_in.entry(namespace.clone()).or_default().insert(name.clone());
            self.peers.insert(name.clone(), new);
        }
        touched.insert(Unit::PeerAuthentication(name));
    }

    fn set_destination_rule(&mut self, name: Name, new: Option<DestinationRule>, touched: &mut Touched) {
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
    fn touch_hosts(&self, host: &Arc<str>, touched: &mut Touched) {
        let mut touch = |hostname: &Arc<str>| {
            let keys = self.claims(hostname).map(|claim| claim.name.namespace.clone());
            touched.extend(keys.map(|namespace| Unit::Host(ServiceKey { namespace, hostname: hostname.clone() })));
        };
        match host.strip_prefix('*') {
            None => touch(host),
            Some(end) => self.claims.keys().filter(|hostname| hostname.ends_with(end)).for_each(touch),
        }
    }

    pub(super) fn rule_host(&self, rule: &DestinationRule) -> Arc<str> {
        self.full(&rule.host, &rule.metadata.namespace)
    }

    /// A name without a dot is a service of the namespace in which it is written.
    pub(super) fn full(&self, host: &Arc<str>, namespace: &Arc<str>) -> Arc<str> {
        match host.contains(['.', '*']) {
            true => host.clone(),
            false => self.hostname(&Name { namespace: namespace.clone(), name: host.clone() }),
        }
    }

    /// A PeerAuthentication reaches its selection, its namespace or the mesh, and there also what inherits from it.
    fn touch_peer(&self, name: &Name, selector: &Labels, touched: &mut Touched) {
        if !selector.is_empty() {
            return self.touch_selected(&name.namespace, selector, touched);
        }
        let mut reach = |namespace: &Arc<str>| {
            let peers = self.peers_in.get(namespace).into_iter().flatten();
            touched.extend(peers.cloned().map(Unit::PeerAuthentication));
            self.touch_namespace(namespace, touched);
        };
        match name.namespace == self.config.root_namespace {
            true => self.peers_in.keys().chain(self.members_in.keys()).for_each(reach),
            false => reach(&name.namespace),
        }
    }

    fn touch_namespace(&self, namespace: &Arc<str>, touched: &mut Touched) {
        touched.extend(self.members_in.get(namespace).into_iter().flatten().cloned().map(Unit::from));
    }

    fn touch_selected(&self, scope: &Arc<str>, selector: &Labels, touched: &mut Touched) {
        for member in self.members.candidates(scope, selector) {
            if self.labels(member).is_some_and(|labels| matches(selector, labels)) {
                touched.insert(member.clone().into());
            }
        }
    }

    /// Pods and WorkloadEntries that have all of some labels, in a namespace or [`EVERYWHERE`]; no labels pick nothing.
    pub(super) fn selected(&self, scope: &Arc<str>, selector: &Labels) -> impl Iterator<Item = &Member> {
        let candidates = self.members.candidates(scope, selector);
        candidates.filter(|member| self.labels(member).is_some_and(|labels| matches(selector, labels)))
    }

    pub(super) fn hostname(&self, service: &Name) -> Arc<str> {
        format!("{}.{}.svc.{}", service.name, service.namespace, self.config.cluster_domain).into()
    }

    pub(super) fn labels(&self, member: &Member) -> Option<&Labels> {
        match member {
            Member::Pod(name) => self.pods.get(name).map(|pod| &pod.metadata.labels),
            Member::Entry(name) => self.entries.get(name).map(|entry| &entry.endpoint.labels),
        }
    }

    /// Where a policy's selector picks: in its namespace, or for the root namespace everywhere.
    pub(super) fn policy_scope(&self, namespace: &Arc<str>) -> Arc<str> {
        if *namespace == self.config.root_namespace { EVERYWHERE.into() } else { namespace.clone() }
    }
}

/// Scope of selectors that pick in every namespace.
pub(super) const EVERYWHERE: &str = "";

fn entry_metadata(entry: &WorkloadEntry) -> Metadata {
    Metadata { labels: entry.endpoint.labels.clone(), ..entry.metadata.clone() }
}

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

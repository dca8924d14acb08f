//! From the cluster's objects to what agents are told, incrementally.
//!
//! ```text
//! Event -> objects (as they are) -> which units could differ -> build each anew -> compare -> Change
//! ```
//! Building one unit (a pod's workload, a host's service, a policy, a service's model at its waypoint) is a pure function of the objects, so any order of
//! events ends in the same resources. The reverse indices say which units an event can touch, so a changed pod costs work
//! in proportion to that pod's services and policies, not to the mesh. What a unit reads beyond that it notes
//! ([`cluster::Topic`]), and is built anew when that changes.

mod telling;
mod workloads;
mod policies;
mod serviceentries;
mod services;
mod layer7;
mod traffic;
mod waypoints;
mod mesh_config;
mod cluster;
mod labels;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mesh_core::identity::SpiffeId;
use mesh_core::l7::Layer7;
use mesh_core::policy::Policy;
use mesh_core::wire::Address;
use mesh_core::workload::ServiceKey;

use crate::object::{Kind, ObjectKey, Standing};
use crate::source::{Code, Event, Finding, Severity};
use cluster::{Cluster, Member, Name, Topic, Touched};
use labels::forget;

pub use telling::{Binding, Gate, Parent};
pub use waypoints::WAYPOINT_CLASS;

#[derive(Clone, Debug)]
pub struct Config {
    pub cluster_id: Arc<str>,
    pub network: Arc<str>,
    pub trust_domain: Arc<str>,
    /// Suffix of service hostnames: `<name>.<namespace>.svc.<cluster domain>`.
    pub cluster_domain: Arc<str>,
    /// Policies in this namespace are for the whole mesh.
    pub root_namespace: Arc<str>,
    /// What puts a namespace or a pod into the mesh: a value of `istio.io/dataplane-mode`, or any label as `key=value`
    /// (`istio-injection=enabled`, for taking a mesh over).
    pub dataplane_modes: BTreeSet<Arc<str>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_id: "Kubernetes".into(),
            network: "".into(),
            trust_domain: "cluster.local".into(),
            cluster_domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
            dataplane_modes: BTreeSet::from(["weft".into()]),
        }
    }
}

/// A resource that differs from what was published before.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Name on the control stream.
    pub name: Arc<str>,
    pub resource: Resource,
}

/// `None`: the resource is gone.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)]
pub enum Resource {
    Address(Option<Address>),
    Authorization(Option<Policy>),
    Layer7(Option<Layer7>),
}

/// What is built in one piece.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Unit {
    StaticStrict,
    Pod(Name),
    /// A WorkloadEntry.
    Entry(Name),
    /// The endpoints of an EndpointSlice that are no pods.
    Slice(Name),
    /// The endpoints that a ServiceEntry lists.
    ServiceEntry(Name),
    /// The service that stands for a hostname in a namespace.
    Host(ServiceKey),
    Authorization(Name),
    PeerAuthentication(Name),
    DestinationRule(Name),
    /// What its waypoint does for a service.
    Layer7(ServiceKey),
    /// What a waypoint does for workloads that are asked for by their addresses.
    Waypoint(Name),
    VirtualService(Name),
    /// Of any kind of the Gateway API.
    Route(Kind, Name),
    RequestAuthentication(Name),
    Telemetry(Name),
    BackendTrafficPolicy(Name),
    MeshConfig,
}

/// By name on the control stream. Most units come to one, and a map has room for eleven at once: boxed, for that not to be the most
/// of what the index takes (5.7 KB a pod).
type Resources<T> = BTreeMap<Arc<str>, Box<T>>;

/// What one unit comes to.
#[derive(Debug, Default)]
struct Built {
    addresses: Resources<Address>,
    policies: Resources<Policy>,
    layer7: Resources<Layer7>,
    findings: Vec<Finding>,
    /// What it depends on beside the objects that the unit is named after.
    reads: BTreeSet<Topic>,
}

#[derive(Debug)]
pub struct Index {
    cluster: Cluster,
    /// As published; units that come to nothing are left out.
    built: HashMap<Unit, Built>,
    readers: HashMap<Topic, BTreeSet<Unit>>,
    source_findings: Arc<[Finding]>,
    /// What is said of objects, where the source knows.
    standings: BTreeMap<ObjectKey, Standing>,
    touched: Touched,
    /// What is told of objects in their status may have changed since this was last taken.
    stirred: bool,
    synced: bool,
    /// Units built so far: the measure of work.
    work: u64,
}

impl Index {
    pub fn new(config: Config) -> Self {
        Self {
            cluster: Cluster::new(config),
            built: HashMap::new(),
            readers: HashMap::new(),
            source_findings: Arc::default(),
            standings: BTreeMap::new(),
            touched: Touched::from([Unit::StaticStrict]),
            stirred: true,
            synced: false,
            work: 0,
        }
    }

    /// Takes a batch and returns the resources that differ after it, each once.
    pub fn apply(&mut self, events: Vec<Event>) -> Vec<Change> {
        for event in events {
            self.stirred |= telling::stirs(&event);
            match event {
                Event::Apply(object) => self.cluster.apply(object, &mut self.touched),
                Event::Delete(key) => {
                    self.standings.remove(&key);
                    self.cluster.delete(key, &mut self.touched);
                }
                Event::Standing(key, standing) => drop(self.standings.insert(key, standing)),
                Event::InitialSynced => self.synced = true,
                Event::Findings(findings) => self.source_findings = findings,
            }
        }
        for topic in std::mem::take(&mut self.cluster.topics) {
            self.stirred |= telling::is_of_instances(&topic);
            self.touched.extend(self.readers.get(&topic).into_iter().flatten().cloned());
        }
        let mut changes = Vec::new();
        for unit in std::mem::take(&mut self.touched) {
            self.work += 1;
            let new = self.build(&unit);
            let old = self.built.remove(&unit).unwrap_or_default();
            self.stirred |= old.findings != new.findings;
            changes.extend(compare(old.addresses, &new.addresses, Resource::Address));
            changes.extend(compare(old.policies, &new.policies, Resource::Authorization));
            changes.extend(compare(old.layer7, &new.layer7, Resource::Layer7));
            for topic in old.reads.difference(&new.reads) {
                forget(&mut self.readers, topic, &unit);
            }
            for topic in new.reads.difference(&old.reads) {
                self.readers.entry(topic.clone()).or_default().insert(unit.clone());
            }
            if !new.is_empty() {
                self.built.insert(unit, new);
            }
        }
        changes
    }

    /// Identities of the pods that are scheduled to `node` and have not ended, and of the WorkloadEntries that name it: those
    /// its agent may ask certificates for.
    pub fn identities_on_node(&self, node: &str) -> BTreeSet<SpiffeId> {
        let members = self.cluster.on_node.get(node).filter(|_| !node.is_empty());
        let accounts = members.into_iter().flatten().filter_map(|member| match member {
            Member::Pod(name) => {
                let pod = self.cluster.pods.get(name).filter(|pod| !pod.has_ended())?;
                Some((name, &pod.service_account))
            }
            Member::Entry(name) => Some((name, &self.cluster.entries.get(name)?.endpoint.service_account)),
        });
        let trust_domain = &self.cluster.config.trust_domain;
        accounts.filter_map(|(name, account)| SpiffeId::new(trust_domain, &name.namespace, account).ok()).collect()
    }

    /// Whether a pod, as whoever runs it shows it, carries out a waypoint.
    pub fn is_waypoint(&self, namespace: &str, pod: &str, uid: &str, account: &str) -> bool {
        let name = Name { namespace: namespace.into(), name: pod.into() };
        self.cluster.pods.get(&name).is_some_and(|pod| {
            *pod.metadata.uid == *uid
                && *pod.service_account == *account
                && !pod.has_ended()
                && self.cluster.carried_out(&pod.metadata.labels, &name.namespace, &mut Built::default()).is_some()
        })
    }

    /// Whether what is told of objects in their status may have changed since this was last asked. Most changes are of pods
    /// that come and go, and of those nothing is told.
    pub fn take_stirred(&mut self) -> bool {
        std::mem::take(&mut self.stirred)
    }

    /// All that is wrong at present, the source's findings included, worst first.
    pub fn findings(&self) -> Vec<Finding> {
        let own = self.built.values().flat_map(|built| &built.findings);
        let mut findings: Vec<Finding> = own.chain(&*self.source_findings).cloned().collect();
        findings.sort();
        findings.dedup();
        findings
    }

    /// Whether the source has sent everything that it found at its start.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// How many units (workloads, services, policies) have been built since the start, for metrics and for tests that
    /// hold the work of a change to what it touches.
    pub fn work(&self) -> u64 {
        self.work
    }

    fn build(&self, unit: &Unit) -> Built {
        let (cluster, mut built) = (&self.cluster, Built::default());
        match unit {
            Unit::StaticStrict => built.policy(policies::strict(&cluster.config.root_namespace)),
            Unit::Pod(name) => cluster.build_pod(name, &mut built),
            Unit::Entry(name) => cluster.build_entry(name, &mut built),
            Unit::Slice(name) => cluster.build_slice(name, &mut built),
            Unit::ServiceEntry(name) => cluster.build_endpoints(name, &mut built),
            Unit::Host(key) => cluster.build_host(key, &mut built),
            Unit::Authorization(name) => cluster.build_authorization(name, &mut built),
            Unit::PeerAuthentication(name) => cluster.build_peer(name, &mut built),
            Unit::DestinationRule(name) => cluster.build_destination_rule(name, &mut built),
            Unit::Layer7(key) => cluster.build_layer7(key, &mut built),
            Unit::Waypoint(name) => cluster.build_waypoint(name, &mut built),
            Unit::VirtualService(name) => cluster.check_virtual_service(name, &mut built),
            Unit::Route(kind, name) => cluster.check_route(*kind, name, &mut built),
            Unit::RequestAuthentication(name) => cluster.check_request_authentication(name, &mut built),
            Unit::Telemetry(name) => cluster.check_telemetry(name, &mut built),
            Unit::BackendTrafficPolicy(name) => cluster.check_rate_limits(name, &mut built),
            Unit::MeshConfig => cluster.check_mesh_config(&mut built),
        }
        built
    }
}

impl Built {
    fn is_empty(&self) -> bool {
        self.addresses.is_empty()
            && self.policies.is_empty()
            && self.layer7.is_empty()
            && self.findings.is_empty()
            && self.reads.is_empty()
    }

    fn address(&mut self, address: Address) {
        self.addresses.insert(address.name(), Box::new(address));
    }

    fn policy(&mut self, policy: Policy) {
        self.policies.insert(policy.key.to_string().into(), Box::new(policy));
    }

    fn layer7(&mut self, model: Layer7) {
        self.layer7.insert(model.name().into(), Box::new(model));
    }

    fn read(&mut self, topic: Topic) {
        self.reads.insert(topic);
    }

    fn finding(&mut self, severity: Severity, code: Code, object: ObjectKey, field: Option<String>, message: String) {
        self.findings.push(Finding { severity, code, object: Some(object), file: None, line: None, field, message });
    }
}

/// What differs between two of a unit's builds, removals first.
fn compare<'a, T: Clone + PartialEq>(
    old: Resources<T>,
    new: &'a Resources<T>,
    resource: impl Fn(Option<T>) -> Resource + Copy + 'a,
) -> Vec<Change> {
    let gone = old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.clone(), None));
    let differ = new.iter().filter(|(name, item)| old.get(*name) != Some(*item));
    let differ = differ.map(|(name, item)| (name.clone(), Some(T::clone(item))));
    gone.chain(differ).map(|(name, item)| Change { name, resource: resource(item) }).collect()
}

#[cfg(test)]
mod tests;

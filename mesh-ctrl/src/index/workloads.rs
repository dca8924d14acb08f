//! Pods, WorkloadEntries and bare endpoints as workloads.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::identity::SpiffeId;
use mesh_core::wire::Address;
use mesh_core::workload::{Health, Locality, PlaintextPorts, Port, ServiceKey, Tunnel, Uid, Workload, WorkloadKind};

use super::cluster::{Cluster, Member, Name};
use super::{Built, policies};
use crate::object::{EntryEndpoint, Kind, Labels, Metadata, ObjectKey, Pod, PodPhase, WorkloadEntry};
use crate::source::{Code, Severity};

const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// On a WorkloadEntry: the node whose agent serves it, and gets its certificates.
const NODE: &str = "weft.io/node";
/// On a pod, a WorkloadEntry or a namespace: `always` keeps its connections off the way within a node that does without
/// encryption.
const ENCRYPT: &str = "weft.io/encrypt";
/// Put on what speaks HBONE without being a pod of this cluster.
const TUNNEL_LABEL: (&str, &str) = ("networking.istio.io/tunnel", "http");

impl Cluster {
    pub(super) fn build_pod(&self, name: &Name, built: &mut Built) {
        let Some(pod) = self.pods.get(name) else { return };
        // Its node's agent is told of a pod before it has its address: its containers wait for the agent.
        let is_starting = pod.addresses.is_empty();
        if pod.has_ended() || (is_starting && (pod.node.is_empty() || pod.host_network)) {
            return;
        }
        let Some(identity) = self.identity(Kind::Pod, name, &pod.service_account, built) else { return };
        let (kind, workload_name) = self.runs_as(pod);
        let labels = &pod.metadata.labels;
        // A waypoint ends tunnels itself, whether or not its pod is in the mesh.
        let is_waypoint = self.carried_out(labels, &name.namespace, built).is_some();
        let enrolled = is_waypoint || (!pod.host_network && self.is_enrolled(labels, Some(&name.namespace)));
        let waypoint = self.waypoint_of_workload(Kind::Pod, name, labels, built);
        let tunnel = if enrolled { Tunnel::Hbone } else { Tunnel::None };
        let (policies, plaintext) = policies::of_workload(self, &name.namespace, labels);
        let encrypt_always = self.encrypts(Kind::Pod, name, &pod.metadata, built);
        built.address(Address::Workload(Workload {
            uid: self.uid(&Member::Pod(name.clone())),
            addresses: pod.addresses.clone(),
            tunnel,
            node: pod.node.clone(),
            kind,
            policies,
            health: match pod.is_available() {
                true => Health::Healthy,
                false => Health::Unhealthy,
            },
            // Nobody can be sent to it yet.
            services: if is_starting { BTreeMap::new() } else { self.services_of_pod(name, pod) },
            locality: self.locality_of_node(&pod.node),
            host_network: pod.host_network,
            // A waypoint takes tunnels only, whatever is asked of the workloads around it.
            plaintext: if enrolled && !is_waypoint { plaintext } else { PlaintextPorts::default() },
            encrypt_always,
            waypoint: waypoint.map(|waypoint| self.gateway_address(&waypoint.name)),
            native_tunnel: is_waypoint,
            pod_uid: pod.metadata.uid.clone(),
            ..self.workload(&name.name, &name.namespace, labels, workload_name, identity)
        }));
    }

    pub(super) fn build_entry(&self, name: &Name, built: &mut Built) {
        let Some(entry) = self.entries.get(name) else { return };
        let endpoint = &entry.endpoint;
        let Some(identity) = self.identity(Kind::WorkloadEntry, name, &endpoint.service_account, built) else { return };
        let node = entry.node().unwrap_or_else(|why| {
            let (namespace, name) = (name.namespace.clone(), name.name.clone());
            let object = ObjectKey { kind: Kind::WorkloadEntry, namespace, name };
            built.finding(Severity::Error, Code::NoEffect, object, Some(format!("metadata.annotations[{NODE}]")), why);
            None
        });
        let labels = &endpoint.labels;
        let enrolled = self.is_enrolled(labels, Some(&name.namespace)) || has_tunnel_label(labels);
        let (policies, plaintext) = policies::of_workload(self, &name.namespace, labels);
        let encrypt_always = self.encrypts(Kind::WorkloadEntry, name, &entry.metadata, built);
        let waypoint = self.waypoint_of_workload(Kind::WorkloadEntry, name, labels, built);
        let base = self.workload(&name.name, &name.namespace, labels, name.name.clone(), identity);
        let mut located = self.located(endpoint, base);
        if let Some(node) = node {
            if endpoint.locality.is_empty() {
                located.locality = self.locality_of_node(&node);
            }
            located.node = node;
        }
        built.address(Address::Workload(Workload {
            uid: self.uid(&Member::Entry(name.clone())),
            waypoint: waypoint.map(|waypoint| self.gateway_address(&waypoint.name)),
            tunnel: if enrolled { Tunnel::Hbone } else { Tunnel::None },
            policies,
            services: self.services_of_entry(name, entry),
            plaintext: if enrolled { plaintext } else { PlaintextPorts::default() },
            encrypt_always,
            ..located
        }));
    }

    /// Endpoints of a slice that are no pods: addresses kept by hand or by another controller.
    pub(super) fn build_slice(&self, name: &Name, built: &mut Built) {
        let Some(slice) = self.slices.get(name) else { return };
        let Some((key, service)) = self.service_of_slice(slice) else { return };
        let cluster = &self.config.cluster_id;
        for endpoint in slice.endpoints.iter().filter(|e| e.pod.is_none()) {
            for address in &endpoint.addresses {
                let Some(identity) = self.identity(Kind::EndpointSlice, name, "default", built) else { return };
                let uid =
                    format!("{cluster}/discovery.k8s.io/EndpointSlice/{}/{}/{address}", name.namespace, name.name);
                let ports = super::services::ports_of_slice(service, slice);
                let mut locality = self.locality_of_node(&endpoint.node);
                if locality.zone.is_empty() {
                    locality.zone = endpoint.zone.clone();
                }
                let no_labels = Labels::new();
                let base = self.workload(&name.name, &name.namespace, &no_labels, name.name.clone(), identity);
                built.address(Address::Workload(Workload {
                    uid: Uid(uid.into()),
                    addresses: vec![*address],
                    node: endpoint.node.clone(),
                    health: if endpoint.ready { Health::Healthy } else { Health::Unhealthy },
                    services: BTreeMap::from([(key.clone(), ports)]),
                    locality,
                    ..base
                }));
            }
        }
    }

    pub(super) fn uid(&self, member: &Member) -> Uid {
        let cluster = &self.config.cluster_id;
        match member {
            Member::Pod(name) => Uid::pod(cluster, &name.namespace, &name.name),
            Member::Entry(Name { namespace, name }) => {
                Uid(format!("{cluster}/networking.istio.io/WorkloadEntry/{namespace}/{name}").into())
            }
        }
    }

    /// What all kinds of workload have alike.
    pub(super) fn workload(
        &self,
        name: &Arc<str>,
        namespace: &Arc<str>,
        labels: &Labels,
        workload_name: Arc<str>,
        identity: SpiffeId,
    ) -> Workload {
        let first = |keys: &[&str]| keys.iter().find_map(|key| labels.get(*key).filter(|v| !v.is_empty())).cloned();
        let canonical = first(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
        let revision = first(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
        Workload {
            uid: Uid("".into()),
            name: name.clone(),
            namespace: namespace.clone(),
            addresses: Vec::new(),
            hostname: "".into(),
            network: self.config.network.clone(),
            tunnel: Tunnel::None,
            identity,
            waypoint: None,
            network_gateway: None,
            node: "".into(),
            canonical_name: canonical.unwrap_or_else(|| workload_name.clone()),
            canonical_revision: revision.unwrap_or_else(|| "latest".into()),
            kind: WorkloadKind::Pod,
            workload_name,
            native_tunnel: false,
            policies: Vec::new(),
            health: Health::Healthy,
            cluster: self.config.cluster_id.clone(),
            services: BTreeMap::<ServiceKey, Vec<Port>>::new(),
            locality: Locality::default(),
            host_network: false,
            capacity: 1,
            plaintext: PlaintextPorts::default(),
            encrypt_always: false,
            pod_uid: "".into(),
        }
    }

    /// Fills in what a WorkloadEntry's spec, or a ServiceEntry's endpoint, says of where it is.
    pub(super) fn located(&self, endpoint: &EntryEndpoint, base: Workload) -> Workload {
        let ip = endpoint.address.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        let mut locality = endpoint.locality.split('/').map(Arc::<str>::from);
        let mut next = || locality.next().unwrap_or_default();
        Workload {
            addresses: ip.into_iter().collect(),
            hostname: if ip.is_none() { endpoint.address.clone() } else { "".into() },
            network: if endpoint.network.is_empty() { base.network } else { endpoint.network.clone() },
            locality: Locality { region: next(), zone: next(), subzone: next() },
            capacity: endpoint.weight.unwrap_or(1),
            ..base
        }
    }

    /// The label on the workload itself wins over its namespace's.
    fn is_enrolled(&self, labels: &Labels, namespace: Option<&Arc<str>>) -> bool {
        let modes = &self.config.dataplane_modes;
        let says = |labels: &Labels| {
            if let Some(mode) = labels.get(DATAPLANE_MODE) {
                return Some(modes.contains(mode));
            }
            let other = |mode: &&Arc<str>| mode.split_once('=').is_some_and(|(key, _)| labels.contains_key(key));
            let mut named = modes.iter().filter(other).peekable();
            named.peek()?;
            Some(named.any(|mode| {
                mode.split_once('=').is_some_and(|(key, value)| labels.get(key).is_some_and(|v| **v == *value))
            }))
        };
        let of_namespace = || says(&self.namespaces.get(namespace?)?.metadata.labels);
        says(labels).or_else(of_namespace).unwrap_or(false)
    }

    /// Its own annotation, else its namespace's. One that says something else is taken for `always`: it was meant to say
    /// something of encryption.
    fn encrypts(&self, kind: Kind, name: &Name, own: &Metadata, built: &mut Built) -> bool {
        let of_namespace = || self.namespaces.get(&name.namespace)?.metadata.annotations.get(ENCRYPT);
        let Some(says) = own.annotations.get(ENCRYPT).or_else(of_namespace) else { return false };
        if **says != *"always" {
            let object = ObjectKey { kind, namespace: name.namespace.clone(), name: name.name.clone() };
            let why = format!("{says:?} is not known and taken for \"always\"");
            built.finding(
                Severity::Warning,
                Code::FailsClosed,
                object,
                Some(format!("metadata.annotations[{ENCRYPT}]")),
                why,
            );
        }
        true
    }

    /// For an endpoint in a ServiceEntry: mostly something outside, so its namespace says nothing of it.
    pub(super) fn endpoint_is_enrolled(&self, labels: &Labels) -> bool {
        self.is_enrolled(labels, None) || has_tunnel_label(labels)
    }

    pub(super) fn identity(&self, kind: Kind, name: &Name, account: &str, built: &mut Built) -> Option<SpiffeId> {
        match SpiffeId::new(&self.config.trust_domain, &name.namespace, account) {
            Ok(identity) => Some(identity),
            Err(error) => {
                let object = ObjectKey { kind, namespace: name.namespace.clone(), name: name.name.clone() };
                built.finding(Severity::Error, Code::NoEffect, object, None, format!("no identity: {error}"));
                None
            }
        }
    }

    fn locality_of_node(&self, node: &Arc<str>) -> Locality {
        let Some(node) = self.nodes.get(node) else { return Locality::default() };
        let label = |key: &str| node.metadata.labels.get(key).cloned().unwrap_or_default();
        Locality {
            region: label("topology.kubernetes.io/region"),
            zone: label("topology.kubernetes.io/zone"),
            subzone: label("topology.istio.io/subzone"),
        }
    }

    /// The Deployment, Job or CronJob behind a pod; else the pod itself, as for StatefulSets and DaemonSets.
    fn runs_as(&self, pod: &Pod) -> (WorkloadKind, Arc<str>) {
        let itself = || (WorkloadKind::Pod, pod.metadata.name.clone());
        let Some(owner) = &pod.metadata.owner else { return itself() };
        let name = Name { namespace: pod.metadata.namespace.clone(), name: owner.name.clone() };
        let above = |kind: Kind| self.owners.get(&(kind, name.clone())).map(|m: &Metadata| m.owner.as_ref());
        match &*owner.kind {
            "ReplicaSet" => match above(Kind::ReplicaSet) {
                Some(Some(above)) if &*above.kind == "Deployment" => (WorkloadKind::Deployment, above.name.clone()),
                Some(_) => itself(),
                // Without the ReplicaSet at hand: a Deployment names it after itself and the template's hash.
                None => {
                    let hash = pod.metadata.label("pod-template-hash").filter(|hash| !hash.is_empty());
                    let stem = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
                    stem.map_or_else(itself, |stem| (WorkloadKind::Deployment, stem.into()))
                }
            },
            "Job" => match above(Kind::Job) {
                Some(Some(above)) if &*above.kind == "CronJob" => (WorkloadKind::CronJob, above.name.clone()),
                Some(_) => (WorkloadKind::Job, owner.name.clone()),
                // A CronJob's Jobs end in their time, in minutes since 1970: 8 digits until the year 2160.
                None => match owner.name.rsplit_once('-') {
                    Some((stem, time)) if time.len() == 8 && time.bytes().all(|b| b.is_ascii_digit()) => {
                        (WorkloadKind::CronJob, stem.into())
                    }
                    _ => (WorkloadKind::Job, owner.name.clone()),
                },
            },
            "Deployment" => (WorkloadKind::Deployment, owner.name.clone()),
            "CronJob" => (WorkloadKind::CronJob, owner.name.clone()),
            _ => itself(),
        }
    }
}

fn has_tunnel_label(labels: &Labels) -> bool {
    labels.get(TUNNEL_LABEL.0).is_some_and(|value| **value == *TUNNEL_LABEL.1)
}

impl WorkloadEntry {
    /// The node that its annotation names, or why that is none. A name as Kubernetes has them: a DNS subdomain.
    pub(super) fn node(&self) -> Result<Option<Arc<str>>, String> {
        let Some(name) = self.metadata.annotations.get(NODE) else { return Ok(None) };
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
        };
        match name.len() <= 253 && name.split('.').all(label) {
            true => Ok(Some(name.clone())),
            false => Err(format!("{name:?} is no name of a node; no agent gets certificates for this entry")),
        }
    }
}

impl Pod {
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.phase, PodPhase::Succeeded | PodPhase::Failed)
    }

    /// Takes new connections.
    pub(super) fn is_available(&self) -> bool {
        self.ready && self.metadata.deletion_timestamp.is_none()
    }
}

//! Everything an agent believes about the mesh, as one value.
//!
//! A snapshot is built aside from the one before it, sharing what did not change, and then published whole: a connection
//! takes one and sees one consistent world.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::{HashMap, OrdSet};

use crate::addr::NetworkAddress;
use crate::identity::SpiffeId;
use crate::l7::{Layer7, Target};
use crate::policy::{Policy, Scope, Way};
use crate::service::Service;
use crate::workload::{GatewayAddress, GatewayDestination, PolicyKey, ServiceKey, Uid, Workload};

#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    workloads: HashMap<Uid, Arc<Workload>>,
    /// Host-network pods share their node's address, so an address may stand for several workloads.
    workloads_by_address: HashMap<NetworkAddress, OrdSet<Uid>>,
    services: HashMap<ServiceKey, Arc<Service>>,
    services_by_address: HashMap<NetworkAddress, OrdSet<ServiceKey>>,
    /// Kept also for services that have not arrived: order of arrival must not matter.
    endpoints: HashMap<ServiceKey, OrdSet<Uid>>,
    policies: HashMap<PolicyKey, Arc<Policy>>,
    global: OrdSet<PolicyKey>,
    by_namespace: HashMap<Arc<str>, OrdSet<PolicyKey>>,
    /// Of the one waypoint that asked; none at an agent.
    layer7: HashMap<Target, Arc<Layer7>>,
}

impl Snapshot {
    pub fn workload(&self, uid: &Uid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The workload at `address`, if exactly one has it and it is not on its node's network.
    pub fn workload_at(&self, address: &NetworkAddress) -> Option<&Arc<Workload>> {
        let uids = self.workloads_by_address.get(address)?;
        let mut own = uids.iter().filter_map(|uid| self.workloads.get(uid)).filter(|w| !w.host_network);
        let first = own.next()?;
        own.next().is_none().then_some(first)
    }

    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// The service at a virtual address; the canonical one, else the first by name, when several claim it.
    pub fn service_at(&self, address: &NetworkAddress) -> Option<&Arc<Service>> {
        let keys = self.services_by_address.get(address)?;
        let mut candidates = keys.iter().filter_map(|key| self.services.get(key));
        let first = candidates.next()?;
        Some(if first.canonical { first } else { candidates.find(|s| s.canonical).unwrap_or(first) })
    }

    pub fn endpoints<'a>(&'a self, service: &ServiceKey) -> impl Iterator<Item = &'a Arc<Workload>> + 'a {
        let uids = self.endpoints.get(service);
        uids.into_iter().flat_map(|uids| uids.iter()).filter_map(|uid| self.workloads.get(uid))
    }

    /// The service in front of a waypoint, where it has one.
    pub fn waypoint_service(&self, gateway: &GatewayAddress) -> Option<&Arc<Service>> {
        match &gateway.destination {
            GatewayDestination::Hostname(key) => self.service(key),
            GatewayDestination::Address(address) => self.service_at(address),
        }
    }

    /// The workloads that a waypoint consists of, whatever their health.
    pub fn waypoint_instances<'a>(&'a self, gateway: &'a GatewayAddress) -> impl Iterator<Item = &'a Arc<Workload>> {
        let behind = match &gateway.destination {
            // Also while the service itself has not arrived.
            GatewayDestination::Hostname(key) => Some(key),
            GatewayDestination::Address(address) => self.service_at(address).map(|service| &service.key),
        };
        let own = match &gateway.destination {
            GatewayDestination::Address(address) if behind.is_none() => self.workload_at(address),
            _ => None,
        };
        behind.into_iter().flat_map(|key| self.endpoints(key)).chain(own)
    }

    /// How a connection from `peer` to `workload` stands to the waypoints that the control plane has told of. `named`: the service
    /// that the peer says the connection is for. A service's waypoint has asked all policies about the client; the waypoint of a
    /// workload only those that are for all of its workloads, and the others are asked here.
    pub fn way(&self, workload: &Workload, peer: Option<&SpiffeId>, named: Option<&ServiceKey>) -> Way {
        let is_instance = |gateway: &GatewayAddress| {
            peer.is_some_and(|peer| self.waypoint_instances(gateway).any(|instance| instance.identity == *peer))
        };
        let of_service = named.filter(|key| workload.services.contains_key(*key));
        let of_service = of_service.and_then(|key| self.service(key)?.waypoint.as_ref());
        match &workload.waypoint {
            _ if of_service.is_some_and(is_instance) => Way::Through,
            Some(own) if !is_instance(own) => Way::Around,
            Some(_) | None => Way::Direct,
        }
    }

    pub fn policy(&self, key: &PolicyKey) -> Option<&Arc<Policy>> {
        self.policies.get(key)
    }

    /// Policies that apply to connections into `workload`: of the mesh, of its namespace, and those that it lists; each once,
    /// also when the workload lists one that is implied.
    pub fn policies_for<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = &'a Policy> + Clone + 'a {
        let namespace = self.by_namespace.get(&workload.namespace);
        let implied = |policy: &Policy| match policy.scope {
            Scope::Global => true,
            Scope::Namespace => policy.key.namespace == workload.namespace,
            Scope::WorkloadSelector => false,
        };
        let listed = workload
            .policies
            .iter()
            .enumerate()
            .filter(|(i, key)| !workload.policies[..*i].contains(key))
            .filter_map(|(_, key)| self.policies.get(key))
            .filter(move |policy| !implied(policy));
        self.global
            .iter()
            .chain(namespace.into_iter().flat_map(|keys| keys.iter()))
            .filter_map(|key| self.policies.get(key))
            .chain(listed)
            .map(Arc::as_ref)
    }

    /// Policies that a workload lists and that have not arrived: until they do, nobody knows what they deny.
    pub fn missing_policies<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = &'a PolicyKey> + 'a {
        workload.policies.iter().filter(|key| !self.policies.contains_key(*key))
    }

    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.values()
    }

    /// What this waypoint does for a service; `None`: it is not to serve it, or has not heard of it yet.
    pub fn layer7(&self, target: &Target) -> Option<&Arc<Layer7>> {
        self.layer7.get(target)
    }

    pub fn layer7s(&self) -> impl Iterator<Item = &Arc<Layer7>> {
        self.layer7.values()
    }

    pub fn upsert_layer7(&mut self, model: Layer7) {
        self.layer7.insert(model.target.clone(), Arc::new(model));
    }

    pub fn remove_layer7(&mut self, target: &Target) -> Option<Arc<Layer7>> {
        self.layer7.remove(target)
    }

    pub fn upsert_workload(&mut self, workload: Workload) {
        self.remove_workload(&workload.uid);
        for address in workload.network_addresses() {
            self.workloads_by_address.entry(address).or_default().insert(workload.uid.clone());
        }
        for service in workload.services.keys() {
            self.endpoints.entry(service.clone()).or_default().insert(workload.uid.clone());
        }
        self.workloads.insert(workload.uid.clone(), Arc::new(workload));
    }

    pub fn remove_workload(&mut self, uid: &Uid) -> Option<Arc<Workload>> {
        let old = self.workloads.remove(uid)?;
        for address in old.network_addresses() {
            remove_member(&mut self.workloads_by_address, &address, uid);
        }
        for service in old.services.keys() {
            remove_member(&mut self.endpoints, service, uid);
        }
        Some(old)
    }

    pub fn upsert_service(&mut self, service: Service) {
        self.remove_service(&service.key);
        for address in &service.addresses {
            self.services_by_address.entry(address.clone()).or_default().insert(service.key.clone());
        }
        self.services.insert(service.key.clone(), Arc::new(service));
    }

    pub fn remove_service(&mut self, key: &ServiceKey) -> Option<Arc<Service>> {
        let old = self.services.remove(key)?;
        for address in &old.addresses {
            remove_member(&mut self.services_by_address, address, key);
        }
        Some(old)
    }

    pub fn upsert_policy(&mut self, policy: Policy) {
        self.remove_policy(&policy.key);
        match policy.scope {
            Scope::Global => {
                self.global.insert(policy.key.clone());
            }
            Scope::Namespace => {
                self.by_namespace.entry(policy.key.namespace.clone()).or_default().insert(policy.key.clone());
            }
            Scope::WorkloadSelector => {}
        }
        self.policies.insert(policy.key.clone(), Arc::new(policy));
    }

    pub fn remove_policy(&mut self, key: &PolicyKey) -> Option<Arc<Policy>> {
        let old = self.policies.remove(key)?;
        self.global.remove(key);
        remove_member(&mut self.by_namespace, &key.namespace, key);
        Some(old)
    }

    /// Workloads at `ip` in `network`, host-network ones included: for log lines about a plaintext peer.
    pub fn workloads_at(&self, network: &Arc<str>, ip: IpAddr) -> impl Iterator<Item = &Arc<Workload>> {
        let uids = self.workloads_by_address.get(&NetworkAddress::new(network.clone(), ip));
        uids.into_iter().flat_map(|uids| uids.iter()).filter_map(|uid| self.workloads.get(uid))
    }
}

fn remove_member<K, V>(sets: &mut HashMap<K, OrdSet<V>>, key: &K, member: &V)
where
    K: Clone + Eq + std::hash::Hash,
    V: Clone + Ord,
{
    if let Some(set) = sets.get_mut(key) {
        set.remove(member);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

//! Which endpoints of a service the connect hook chooses itself, in which proportions: a function of the snapshot, the pods
//! and the verdicts.
//!
//! A pod gets [`Choices`] of a service only where the agent would do nothing but choose an endpoint and carry, and only those
//! endpoints to which it may connect directly. Whatever else there is keeps its share, and the agent serves it.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_core::addr::ServiceAddr;
use mesh_core::service::Service;
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::Workload;
use mesh_ebpf::{Choice, Choices, ServiceKey, Verdict, VerdictKey};

use super::verdicts::{Member, effective};
use crate::outbound::route::{Origin, shares};

/// Verdicts in force, by destination.
pub type InForce = BTreeMap<u64, BTreeMap<VerdictKey, Verdict>>;

/// What each of `pods` may choose of `service`, on a node of `network`.
pub fn choices(
    snapshot: &Snapshot,
    network: &Arc<str>,
    pods: &[Member],
    in_force: &InForce,
    service: &Arc<Service>,
) -> HashMap<ServiceKey, Choices> {
    let members: HashMap<_, &Member> = pods.iter().map(|pod| (&pod.workload, pod)).collect();
    let mut all = HashMap::new();
    for source in pods {
        for address in service.addresses.iter().filter(|at| at.network == *network) {
            for port in &service.ports {
                let asked = ServiceAddr(SocketAddr::new(address.ip, port.service_port));
                let Some(client) = source.addresses.iter().find(|ip| ip.is_ipv4() == asked.ip().is_ipv4()) else {
                    continue;
                };
                let workload = snapshot.workload(&source.workload).map(|own| &**own);
                let namespace = source.identity.namespace();
                let origin = Origin { network, workload, namespace, client: *client };
                let Some(shares) = shares(snapshot, &origin, service, asked) else { continue };
                let total: u128 = shares.iter().map(|share| u128::from(share.weight)).sum();
                let direct = shares.iter().filter(|share| {
                    members.get(&share.workload.uid).is_some_and(|destination| {
                        let ip = share.target.ip();
                        let key = VerdictKey {
                            source: source.cookie,
                            destination: destination.cookie,
                            port: share.target.port(),
                            family: family(&ip),
                            pad: 0,
                        };
                        let verdicts = in_force.get(&destination.cookie);
                        family(&ip) == family(&asked.ip())
                            && source.cookie != destination.cookie
                            && destination.addresses.contains(&ip)
                            && verdicts.is_some_and(|verdicts| effective(verdicts, &key) == Verdict::DIRECT)
                    })
                });
                let mut found = Choices::default();
                let mut weight = 0_u128;
                for (choice, share) in found.0.iter_mut().zip(direct) {
                    weight += u128::from(share.weight);
                    let below = u32::try_from((weight << 32) / total).unwrap_or(u32::MAX);
                    *choice = Choice { address: share.target.ip().into(), port: share.target.port(), pad: 0, below };
                }
                if weight > 0 {
                    let (address, port) = (asked.ip().into(), asked.port());
                    all.insert(ServiceKey { source: source.cookie, address, port, pad: [0; 3] }, found);
                }
            }
        }
    }
    all
}

/// All that [`choices`] of one service depend on: as long as it is the same, so are they.
#[derive(Clone, Debug)]
pub struct Basis {
    service: Arc<Service>,
    /// Whether another one has an address of it.
    leads: Vec<bool>,
    endpoints: Vec<Arc<Workload>>,
    sources: Vec<Option<Arc<Workload>>>,
    /// Changes with any of the pods and of the verdicts.
    generation: u64,
}

impl Basis {
    pub fn of(snapshot: &Snapshot, pods: &[Member], generation: u64, service: &Arc<Service>) -> Self {
        let leads = |at| snapshot.service_at(at).is_some_and(|at| at.key == service.key);
        Self {
            service: service.clone(),
            leads: service.addresses.iter().map(leads).collect(),
            endpoints: snapshot.endpoints(&service.key).cloned().collect(),
            sources: pods.iter().map(|pod| snapshot.workload(&pod.workload).cloned()).collect(),
            generation,
        }
    }
}

impl PartialEq for Basis {
    /// A snapshot shares what did not change with the one before it.
    fn eq(&self, other: &Self) -> bool {
        let same = |one: &Option<Arc<Workload>>, other: &Option<Arc<Workload>>| match (one, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        Arc::ptr_eq(&self.service, &other.service)
            && (&self.leads, self.generation) == (&other.leads, other.generation)
            && (self.endpoints.len(), self.sources.len()) == (other.endpoints.len(), other.sources.len())
            && self.endpoints.iter().zip(&other.endpoints).all(|(one, other)| Arc::ptr_eq(one, other))
            && self.sources.iter().zip(&other.sources).all(|(one, other)| same(one, other))
    }
}

fn family(ip: &IpAddr) -> u16 {
    if ip.is_ipv4() { 4 } else { 6 }
}

#[cfg(test)]
mod tests;

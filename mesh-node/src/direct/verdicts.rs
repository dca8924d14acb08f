//! Which pods of this node may talk without the agent: a function of the snapshot and the pods.
//!
//! A pair gets [`Verdict::DIRECT`] only where the agent, asked at each connection, could say nothing but yes and would do
//! nothing but carry. Everything else is left to the agent: refusals too, which it words and logs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::addr::NetworkAddress;
use mesh_core::identity::SpiffeId;
use mesh_core::policy::{Action, Connection, Policy, evaluate};
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::{Uid, Workload};
use mesh_ebpf::{HBONE_PORT, Verdict, VerdictKey};

/// An enrolled pod, as far as verdicts depend on it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Of its network namespace.
    pub cookie: u64,
    pub workload: Uid,
    pub identity: SpiffeId,
    pub addresses: Vec<IpAddr>,
}

/// Ports that policies may name for one pod before all its connections are left to the agent: each costs an entry for
/// every other pod and both families.
const PORTS: usize = 64;

/// What becomes of connections from each of `pods` to one of them, on a node of `network`. Ports that no entry names have that
/// of [`VerdictKey::OTHER_PORTS`]; a pair without that one is left to the agent.
pub fn verdicts(
    snapshot: &Snapshot,
    network: &Arc<str>,
    pods: &[Member],
    destination: &Member,
) -> BTreeMap<VerdictKey, Verdict> {
    let mut all = BTreeMap::new();
    let Some(workload) = takes_direct(snapshot, network, destination) else { return all };
    let policies: Vec<&Policy> = snapshot.policies_for(workload).collect();
    if policies.iter().any(|policy| policy.dry_run || policy.action == Action::Audit) {
        // What they have to say of a connection is recorded by the agent.
        return all;
    }
    let Some(ports) = named_ports(workload, &policies) else { return all };
    let Some(unnamed) = (1..=u16::MAX).find(|port| *port != HBONE_PORT && !ports.contains(port)) else { return all };
    for source in pods {
        if source.cookie == destination.cookie || snapshot.workload(&source.workload).is_none() {
            continue;
        }
        for family in [4, 6] {
            let asked = |port| {
                let allowed = workload.tunnels(port)
                    && every(source, destination, family, |source_ip, destination_ip| {
                        let connection = Connection {
                            source: Some(&source.identity),
                            source_ip,
                            destination_ip,
                            destination_port: port,
                            from_node: false,
                            way: mesh_core::policy::Way::Direct,
                        };
                        evaluate(policies.iter().copied(), &connection).verdict.is_ok()
                    });
                if allowed { Verdict::DIRECT } else { Verdict::RELAY }
            };
            let key = |port| {
                let (source, destination) = (source.cookie, destination.cookie);
                VerdictKey { source, destination, port, family, pad: 0 }
            };
            let rest = asked(unnamed);
            if rest == Verdict::DIRECT {
                all.insert(key(VerdictKey::OTHER_PORTS), rest);
            }
            let special = ports.iter().map(|port| (*port, asked(*port))).filter(|(_, verdict)| *verdict != rest);
            all.extend(special.map(|(port, verdict)| (key(port), verdict)));
        }
    }
    all
}

/// All that [`verdicts`] to one pod depend on, and those on its live connections: as long as it is the same, so are they.
/// Most of what the control plane says is of pods elsewhere.
#[derive(Clone, Debug)]
pub struct Basis {
    workload: Option<Arc<Workload>>,
    policies: Vec<Arc<Policy>>,
    /// Whether it lists a policy that has not arrived.
    waits: bool,
    /// Whether [`takes_direct`] finds it.
    direct: bool,
    /// Sources that the control plane has told of.
    sources: Vec<u64>,
    /// Changes with any of the pods.
    generation: u64,
}

impl Basis {
    pub fn of(snapshot: &Snapshot, network: &Arc<str>, pods: &[Member], generation: u64, destination: &Member) -> Self {
        let workload = snapshot.workload(&destination.workload).cloned();
        let policies = workload.iter().flat_map(|workload| snapshot.policies_for(workload));
        let policies = policies.filter_map(|policy| snapshot.policy(&policy.key).cloned()).collect();
        let waits = workload.as_ref().is_some_and(|workload| snapshot.missing_policies(workload).next().is_some());
        let direct = takes_direct(snapshot, network, destination).is_some();
        let known = pods.iter().filter(|pod| snapshot.workload(&pod.workload).is_some());
        Self { sources: known.map(|pod| pod.cookie).collect(), workload, policies, waits, direct, generation }
    }
}

impl PartialEq for Basis {
    /// A snapshot shares what did not change with the one before it.
    fn eq(&self, other: &Self) -> bool {
        let workloads = match (&self.workload, &other.workload) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        let mut pairs = self.policies.iter().zip(&other.policies);
        workloads
            && (self.waits, self.direct, self.generation) == (other.waits, other.direct, other.generation)
            && self.sources == other.sources
            && self.policies.len() == other.policies.len()
            && pairs.all(|(one, other)| Arc::ptr_eq(one, other))
    }
}

/// The pod's workload, if the agent's own route to it were its address and nothing but a tunnel.
pub fn takes_direct<'a>(snapshot: &'a Snapshot, network: &Arc<str>, pod: &Member) -> Option<&'a Arc<Workload>> {
    let workload = snapshot.workload(&pod.workload)?;
    let found_at = |ip: &IpAddr| {
        let address = NetworkAddress::new(network.clone(), *ip);
        snapshot.service_at(&address).is_none()
            && snapshot.workload_at(&address).is_some_and(|at| at.uid == workload.uid)
    };
    let plain = workload.identity == pod.identity
        && workload.waypoint.is_none()
        && !workload.encrypt_always
        && snapshot.missing_policies(workload).next().is_none()
        && pod.addresses.iter().all(found_at);
    plain.then_some(workload)
}

/// Ports of which something is said that does not hold for all; none if there are too many.
fn named_ports(workload: &Workload, policies: &[&Policy]) -> Option<BTreeSet<u16>> {
    let matches = policies
        .iter()
        .flat_map(|policy| &policy.rules)
        .flat_map(|rule| &rule.clauses)
        .flat_map(|clause| &clause.matches);
    let mut ports: BTreeSet<u16> = matches
        .flat_map(|one| one.destination_ports.iter().chain(&one.not_destination_ports))
        .chain(&workload.plaintext.ports)
        .chain(&workload.plaintext.except)
        .copied()
        .collect();
    // No connection has it, and its entry is that of all others.
    ports.remove(&VerdictKey::OTHER_PORTS);
    (ports.len() <= PORTS).then_some(ports)
}

/// Whether `test` holds between all addresses of that family, of which both pods have one.
fn every(source: &Member, destination: &Member, family: u16, test: impl Fn(IpAddr, IpAddr) -> bool) -> bool {
    let of = |pod: &Member| -> Vec<IpAddr> {
        let canonical = pod.addresses.iter().map(IpAddr::to_canonical);
        canonical.filter(|ip| ip.is_ipv4() == (family == 4)).collect()
    };
    let (from, to) = (of(source), of(destination));
    !from.is_empty() && !to.is_empty() && from.iter().all(|from| to.iter().all(|to| test(*from, *to)))
}

/// The steps from what is in force to what is `wanted`, in an order in which no connection is let in that neither of the
/// two lets in: first what becomes narrower, then what becomes wider, and last what says nothing any more.
pub fn steps(
    now: &BTreeMap<VerdictKey, Verdict>,
    wanted: &BTreeMap<VerdictKey, Verdict>,
) -> [Vec<(VerdictKey, Option<Verdict>)>; 3] {
    let relayed = |key: &VerdictKey| effective(wanted, key) == Verdict::RELAY;
    let keys: BTreeSet<&VerdictKey> = now.keys().chain(wanted.keys()).collect();
    let narrower = keys.into_iter().filter(|key| relayed(key) && now.get(key) != Some(&Verdict::RELAY));
    let narrower = narrower.filter(|key| now.contains_key(key) || wanted.contains_key(key));
    let narrower: Vec<_> = narrower.map(|key| (*key, Some(Verdict::RELAY))).collect();
    let wider = wanted.iter().filter(|(key, verdict)| **verdict == Verdict::DIRECT && now.get(key) != Some(verdict));
    let wider = wider.map(|(key, verdict)| (*key, Some(*verdict))).collect();
    let silent = now.keys().filter(|key| !wanted.contains_key(key)).map(|key| (*key, None)).collect();
    [narrower, wider, silent]
}

/// What the hooks make of it.
pub fn effective(verdicts: &BTreeMap<VerdictKey, Verdict>, key: &VerdictKey) -> Verdict {
    if key.port == HBONE_PORT {
        return Verdict::RELAY;
    }
    let rest = VerdictKey { port: VerdictKey::OTHER_PORTS, ..*key };
    verdicts.get(key).or_else(|| verdicts.get(&rest)).copied().unwrap_or(Verdict::RELAY)
}

#[cfg(test)]
mod tests;

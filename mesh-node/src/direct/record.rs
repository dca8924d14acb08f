//! A direct connection in the agent's words: one entry for each of its two ends, as if two agents carried it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_core::addr::{NetworkAddress, OrigDst, PodAddr};
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::Workload;
use mesh_ebpf::{Asked, Direct, FlowKey};

use super::account;
use super::verdicts::Member;
use crate::connection::{Direction, End, Facts, Live, Security};
use crate::connections::{Connections, Open};
use crate::ebpf::Kernel;
use crate::inbound::{decide, revoked, service};
use crate::netns::NetnsCookie;

/// A direct connection on record.
#[derive(Debug)]
pub struct Record {
    pub flow: FlowKey,
    pub direct: Direct,
    outbound: Open,
    inbound: Open,
}

impl Record {
    /// Puts a connection on record, with what is known of its pods.
    pub fn open(
        connections: &Connections,
        snapshot: &Snapshot,
        network: &Arc<str>,
        (source, destination): (Option<&Member>, Option<&Member>),
        flow: FlowKey,
        direct: Direct,
    ) -> Self {
        let (client, target) = ends(&flow);
        let workload = |member: Option<&Member>, at: SocketAddr| -> Option<Arc<Workload>> {
            let by_address = || snapshot.workload_at(&NetworkAddress::new(network.clone(), at.ip()));
            member.map_or_else(by_address, |member| snapshot.workload(&member.workload)).cloned()
        };
        let mut inbound = Facts::new(Direction::Inbound, client, target);
        inbound.security = Security::KernelAttested;
        inbound.source = workload(source, client);
        inbound.source_identity = source.map(|member| member.identity.clone());
        inbound.destination = workload(destination, target);
        inbound.destination_identity = destination.map(|member| member.identity.clone());
        inbound.target = Some(PodAddr::new(target));
        let mut outbound =
            Facts { direction: Direction::Outbound, pod: Some(NetnsCookie(direct.source)), ..inbound.clone() };
        inbound.pod = Some(NetnsCookie(direct.destination));
        if let Some(destination) = &inbound.destination {
            inbound.service = match asked(&direct) {
                Some(asked) => {
                    outbound.asked = OrigDst::new(asked);
                    outbound.service = snapshot.service_at(&NetworkAddress::new(network.clone(), asked.ip())).cloned();
                    outbound.service.clone()
                }
                None => service::asked(snapshot, destination, target.port(), None),
            };
            let permit = decide(snapshot, destination, &inbound, client, target).verdict;
            inbound.policy = permit.ok().and_then(|permit| permit.policy().cloned());
        }
        let age = Duration::from_nanos(Kernel::monotonic().saturating_sub(direct.begun));
        let begun = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        let (outbound, inbound) = (connections.open(outbound, begun), connections.open(inbound, begun));
        Self { flow, direct, outbound, inbound }
    }

    /// Why it may not go on.
    pub fn forbidden(&self, snapshot: &Snapshot) -> Option<End> {
        let facts = &self.inbound.live().facts;
        if let Some(end) = revoked(snapshot, facts) {
            return Some(end);
        }
        let workload = snapshot.workload(&facts.destination.as_ref()?.uid)?;
        if workload.encrypt_always {
            return Some(End::because(
                "encryption_required",
                "the destination asks for encryption within the node too",
            ));
        }
        let waypoint = workload.waypoint.is_some();
        waypoint.then(|| End::because("waypoint_required", "the destination has a waypoint, past which this would go"))
    }

    /// Whether somebody has asked it to end.
    pub fn is_ending(&self) -> bool {
        self.inbound.live().asked_to_end().is_some()
    }

    /// Takes down why it is to end; the kernel ends it.
    pub fn end(&self, end: &End) {
        self.lives().for_each(|live| live.end(end.clone()));
    }

    /// Takes down what has arrived at the destination and at the client.
    pub fn count(&self, received: u64, sent: u64) {
        self.lives().for_each(|live| live.count_all(received, sent));
    }

    /// Takes what has been counted until here for counted by somebody else.
    pub fn begin_counting(&self) {
        self.lives().for_each(|live| {
            let _ = live.take_unreported();
        });
    }

    /// Writes its lines.
    pub fn close(self, direct: &Direct) {
        let (received, sent) = account::bytes(direct);
        self.count(received, sent);
        self.finish(account::end(direct));
    }

    /// Writes its lines for a connection of whose end nobody told.
    pub fn lose(self) {
        self.finish(End::because("lost", "the connection ended and what the kernel told of that was lost"));
    }

    /// Leaves it to another agent.
    pub fn leave(self) {
        self.outbound.leave();
        self.inbound.leave();
    }

    fn finish(self, end: End) {
        let end = self.inbound.live().asked_to_end().cloned().unwrap_or(end);
        self.outbound.finish(end.clone());
        self.inbound.finish(end);
    }

    fn lives(&self) -> impl Iterator<Item = &Arc<Live>> {
        [self.outbound.live(), self.inbound.live()].into_iter()
    }
}

/// The service's address that the client asked for, if it was one.
fn asked(direct: &Direct) -> Option<SocketAddr> {
    let Asked { address, port, .. } = direct.asked;
    (port != 0).then(|| SocketAddr::new(address.into(), port))
}

/// The client's end and the server's.
pub fn ends(flow: &FlowKey) -> (SocketAddr, SocketAddr) {
    (SocketAddr::new(flow.local.into(), flow.local_port), SocketAddr::new(flow.remote.into(), flow.remote_port))
}

//! One connection: what it is, what it has carried, how it ended, and the way to end it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use mesh_core::addr::{ClientAddr, OrigDst, PodAddr, TunnelAddr};
use mesh_core::identity::SpiffeId;
use mesh_core::service::Service;
use mesh_core::workload::{PolicyKey, ServiceKey, Workload};
use serde::Serialize;
use tokio::sync::Notify;

use crate::cost::Cost;
use crate::netns::NetnsCookie;

/// Which side of the mesh this agent is for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// How the bytes travel between the two pods, and what is known of who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    MutualTls,
    /// Within this node's kernel, which attests both ends by their network namespaces. Nothing is encrypted.
    KernelAttested,
    None,
}

impl Security {
    /// Value of the `connection_security_policy` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::KernelAttested => "kernel_attested",
            Self::None => "none",
        }
    }
}

/// What is known of a connection. Learnt step by step while it is set up, then fixed.
#[derive(Clone, Debug)]
pub struct Facts {
    pub direction: Direction,
    /// The pod of this node that the connection comes from or goes to.
    pub pod: Option<NetnsCookie>,
    pub security: Security,
    pub client: ClientAddr,
    pub source: Option<Arc<Workload>>,
    /// Proven by mutual TLS on the way in; the pod's own on the way out.
    pub source_identity: Option<SpiffeId>,
    /// What the client asked for.
    pub asked: OrigDst,
    pub destination: Option<Arc<Workload>>,
    pub destination_identity: Option<SpiffeId>,
    /// Where the application is.
    pub target: Option<PodAddr>,
    pub tunnel: Option<TunnelAddr>,
    pub service: Option<Arc<Service>>,
    /// The policy that allowed or denied.
    pub policy: Option<PolicyKey>,
    /// Opened from the node's own network namespace: a kubelet's probe, say.
    pub from_node: bool,
    /// The service that the peer says the connection is for.
    pub named: Option<ServiceKey>,
}

impl Facts {
    pub fn new(direction: Direction, client: SocketAddr, asked: SocketAddr) -> Self {
        Self {
            direction,
            pod: None,
            security: Security::None,
            client: ClientAddr::new(client),
            source: None,
            source_identity: None,
            asked: OrigDst::new(asked),
            destination: None,
            destination_identity: None,
            target: None,
            tunnel: None,
            service: None,
            policy: None,
            from_node: false,
            named: None,
        }
    }
}

/// How a connection ended: a closed set, the log's and the metrics' `reason`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub reason: &'static str,
    /// What an operator needs beyond the reason; empty for an orderly end.
    pub detail: String,
    pub policy: Option<PolicyKey>,
}

impl End {
    pub const COMPLETE: &'static str = "complete";

    pub fn complete() -> Self {
        Self::because(Self::COMPLETE, "")
    }

    pub fn because(reason: &'static str, detail: impl ToString) -> Self {
        Self { reason, detail: detail.to_string(), policy: None }
    }

    /// The agent goes while the connection lives.
    pub fn agent_stopped() -> Self {
        Self::because("agent_stopped", "the agent stopped while the connection was alive")
    }

    pub fn denied(denial: &mesh_core::policy::Denial) -> Self {
        Self { reason: denial.reason(), detail: denial.to_string(), policy: denial.policy.clone() }
    }
}

/// What connections have done that metrics do not tell apart.
#[derive(Debug, Default)]
pub struct Tally {
    pub opened: AtomicU64,
    pub closed: AtomicU64,
    /// Bytes from clients towards applications.
    pub received: AtomicU64,
    /// Bytes from applications towards clients.
    pub sent: AtomicU64,
}

/// A connection as the rest of the agent sees it.
#[derive(Debug)]
pub struct Live {
    pub id: u64,
    pub facts: Facts,
    pub opened: Instant,
    pub opened_at: SystemTime,
    /// From the client towards the application.
    received: AtomicU64,
    /// From the application towards the client.
    sent: AtomicU64,
    /// How much of the two the metrics have been told of.
    reported: (AtomicU64, AtomicU64),
    tally: Arc<Tally>,
    /// The pod's, if it is known.
    cost: Option<Arc<Cost>>,
    end: OnceLock<End>,
    ending: Notify,
}

impl Live {
    pub(crate) fn new(id: u64, facts: Facts, opened: Instant, tally: Arc<Tally>, cost: Option<Arc<Cost>>) -> Self {
        Self {
            id,
            facts,
            opened,
            opened_at: SystemTime::now() - opened.elapsed(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            reported: Default::default(),
            tally,
            cost,
            end: OnceLock::new(),
            ending: Notify::new(),
        }
    }

    /// Counts bytes carried from the client towards the application.
    pub fn count_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes carried from the application towards the client.
    pub fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Takes what somebody else counted, from the connection's beginning.
    pub fn count_all(&self, received: u64, sent: u64) {
        self.received.fetch_max(received, Ordering::Relaxed);
        self.sent.fetch_max(sent, Ordering::Relaxed);
    }

    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Asks the connection to end; the first reason given is the one that counts.
    pub fn end(&self, end: End) {
        if self.end.set(end).is_ok() {
            self.ending.notify_one();
        }
    }

    /// The reason given to [`Live::end`], if it was called.
    pub fn asked_to_end(&self) -> Option<&End> {
        self.end.get()
    }

    /// Resolves when [`Live::end`] was called.
    pub async fn ended(&self) -> End {
        loop {
            if let Some(end) = self.end.get() {
                return end.clone();
            }
            self.ending.notified().await;
        }
    }

    /// What connections of this kind have done together.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Brings what counts bytes of many connections up to date.
    pub fn report(&self) {
        let (received, sent) = self.take_unreported();
        self.tally.received.fetch_add(received, Ordering::Relaxed);
        self.tally.sent.fetch_add(sent, Ordering::Relaxed);
        if let Some(cost) = &self.cost {
            match self.facts.direction {
                Direction::Inbound => cost.carry(received, sent),
                Direction::Outbound => cost.carry(sent, received),
            }
        }
    }

    /// Bytes (received, sent) since the last call: what the metrics are still to be told.
    pub fn take_unreported(&self) -> (u64, u64) {
        let (received, sent) = (self.received(), self.sent());
        let before_received = self.reported.0.swap(received, Ordering::Relaxed);
        let before_sent = self.reported.1.swap(sent, Ordering::Relaxed);
        (received.saturating_sub(before_received), sent.saturating_sub(before_sent))
    }
}

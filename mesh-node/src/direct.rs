//! Connections between two pods of this node that no agent carries: which may be, which are, and the end of those that may
//! no longer be.
//!
//! ```text
//!  a new snapshot, a pod comes or goes          the hooks
//!        |                                         ^   |
//!        v                                         |   | events: opened, closed
//!   sweep --> verdicts, first what is narrower ----+   v
//!     ^                  |                          records: /connections, metrics, access log
//!     +--- hooks done ---+
//! ```
//!
//! The kernel knows who a pod is by its namespace, so it can let two of them talk as soon as policy has been asked; that is
//! done ahead, for every pair. A verdict that becomes narrower is in the map before live connections are looked at for the
//! last time, and every hook that may have read the old one has ended by then: nothing slips through in between.
//!
//! A thread of its own: an enrolment would hold a revocation up, and a revocation of a thousand connections the workers.

mod watcher;
pub mod trial;
pub mod record;
pub mod account;
pub mod services;
pub mod verdicts;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mesh_core::snapshot::Snapshot;
use mesh_ebpf::{Verdict, VerdictKey};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::warn;

use crate::connection::Live;
use crate::connections::Connections;
use crate::ebpf::Kernel;
use crate::netns::NetnsCookie;
use crate::pod::Pod;
use crate::telemetry::Telemetry;
use watcher::Watcher;

#[derive(Clone, Debug)]
pub struct Config {
    /// The network of this node.
    pub network: Arc<str>,
    /// Whether there shall be any; live ones of an agent before this one go on.
    pub enabled: bool,
    /// The cgroup v2 folder below which all pods run.
    pub cgroup_root: PathBuf,
    /// How long verdicts hold after this agent was last alive.
    pub age: Duration,
    /// How long a pod is in the mesh before the kernel chooses endpoints of services for it. Before that it was the node that
    /// translated their addresses, and conntrack remembers such a connection for two minutes after its end: one that goes
    /// straight to the same endpoint, from the same port, would get another port on its way and not arrive as it was sent.
    pub services_after: Duration,
    /// How long the connections of a pod that left the mesh may go on.
    pub release: Duration,
}

/// The way to the thread that keeps the books.
#[derive(Clone)]
pub struct DirectPath {
    orders: mpsc::UnboundedSender<Order>,
    connections: Connections,
    telemetry: Telemetry,
    figures: Arc<Figures>,
}

impl fmt::Debug for DirectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectPath").finish_non_exhaustive()
    }
}

enum Order {
    Enrolled(Arc<Pod>),
    Released(NetnsCookie),
    Measure(oneshot::Sender<()>),
}

/// What metrics show.
#[derive(Debug, Default)]
struct Figures {
    active: AtomicU64,
    verdicts: AtomicU64,
    services: AtomicU64,
    lost: AtomicU64,
    full: AtomicU64,
}

impl DirectPath {
    /// Starts the thread; it ends with the last of the returned value's clones. The receiver is told, or dropped, when it
    /// has.
    ///
    /// # Errors
    /// The process may have no more threads or descriptors.
    pub fn start(
        mut config: Config,
        kernel: Arc<Kernel>,
        telemetry: Telemetry,
        snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    ) -> io::Result<(Self, oneshot::Receiver<()>)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (orders, heard) = mpsc::unbounded_channel();
        let connections = Connections::new(telemetry.clone());
        let figures = Arc::new(Figures::default());
        let mut in_force = BTreeMap::<u64, BTreeMap<VerdictKey, Verdict>>::new();
        // Those that are too old must not get a second life by the trial.
        let old = kernel.trusted_until() <= Kernel::monotonic();
        for (key, verdict) in kernel.verdicts() {
            if !old || kernel.set_verdict(key, None).is_err() {
                in_force.entry(key.destination).or_default().insert(key, verdict);
            }
        }
        let mut events = {
            let _context = runtime.enter();
            kernel.events().map_err(io::Error::other)?
        };
        let mut unread = VecDeque::new();
        let mut tried = || trial::run(&kernel, &config.cgroup_root, &mut events, &mut unread);
        // Once more, should the machine have been too busy: the answer holds for as long as the agent runs.
        if config.enabled
            && let Err(why) = tried().or_else(|_| tried())
        {
            config.enabled = false;
            warn!(why, "pods of this node talk through the agent: direct connections did not pass their trial");
        }
        figures.active.store(config.enabled.into(), Ordering::Relaxed);
        let watcher = Watcher {
            config,
            kernel,
            connections: connections.clone(),
            snapshot,
            pods: BTreeMap::new(),
            records: HashMap::new(),
            generation: 0,
            in_force,
            bases: HashMap::new(),
            offered: None,
            offers: BTreeMap::new(),
            grown: BTreeSet::new(),
            revision: 0,
            figures: figures.clone(),
            begun: Instant::now(),
            settled: false,
            superseded: false,
            due: None,
            lost: 0,
            strayed: HashSet::new(),
            unread,
        };
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new().name("direct".to_owned()).spawn(move || {
            runtime.block_on(watcher.run(heard, events));
            let _ = ended.send(());
        })?;
        Ok((Self { orders, connections, telemetry, figures }, end))
    }

    /// Tells of a pod that is in the mesh from now on.
    pub fn enrolled(&self, pod: Arc<Pod>) {
        // Without the thread the agent stops.
        let _ = self.orders.send(Order::Enrolled(pod));
    }

    /// Tells of a pod that is not any more.
    pub fn released(&self, pod: NetnsCookie) {
        let _ = self.orders.send(Order::Released(pod));
    }

    /// All that live, with what they have carried by now. Blocks while the kernel is asked: not for a runtime's own threads.
    pub fn live(&self) -> Vec<Arc<Live>> {
        let (reply, measured) = oneshot::channel();
        let _ = self.orders.send(Order::Measure(reply));
        let _ = measured.blocking_recv();
        self.connections.all()
    }
}

/// Brings the byte counters of live connections up to date before each scrape.
impl Collector for DirectPath {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for live in self.live() {
            self.telemetry.report_bytes(&live);
        }
        for (name, help, value) in [
            (
                "weft_same_node_active",
                "Whether pods of this node may talk without the agent at all",
                &self.figures.active,
            ),
            ("weft_same_node_verdicts", "Pairs of pods, by family and port, that may", &self.figures.verdicts),
            (
                "weft_same_node_services",
                "Ports of services, by pod and address, of whose endpoints the kernel chooses",
                &self.figures.services,
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        for (name, help, count) in [
            (
                "weft_same_node_events_lost",
                "Ends of direct connections of which the kernel could not tell",
                &self.figures.lost,
            ),
            (
                "weft_same_node_full",
                "Connections that the agent carried for lack of room in the kernel",
                &self.figures.full,
            ),
        ] {
            let counter = ConstCounter::new(count.load(Ordering::Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

//! Connections that were open before their pod's enrolment: they go on outside of the mesh, are listed, and end where
//! policy forbids them.
//!
//! ```text
//!  enrolled --> look: the kernel lists them --> judge --> denied: reset, one line in the access log
//!                ^  once more, for handshakes  |  ^
//!                |  that enrolment overtook    |  | a new snapshot, as long as there are any
//!                +-----------------------------+--+
//! ```
//!
//! Whoever connects later is captured, so a pod's connections from before only become fewer, and a pod that has none left is
//! not looked at again. Only those to the pod are judged; of those from it the far end's agent decides. A thread of its own:
//! an enrolment would hold a revocation up, and a long list the workers.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Instant, SystemTime};

use mesh_core::addr::PodAddr;
use mesh_core::snapshot::Snapshot;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::capture::LINGER;
use crate::connection::{Direction, End, Facts};
use crate::connections::Connections;
use crate::ebpf::Kernel;
use crate::inbound::{peer_workload, revoked, service};
use crate::netns::{Established, Netns};
use crate::pod::Pod;

/// One of them, as shown.
#[derive(Clone, Debug)]
pub struct Row {
    pub namespace: Arc<str>,
    pub pod: Arc<str>,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub direction: Direction,
    /// Since when the pod is in the mesh.
    pub enrolled: SystemTime,
}

/// The way to the thread that watches them.
#[derive(Clone, Debug)]
pub struct Outside {
    orders: mpsc::UnboundedSender<Order>,
}

#[derive(Debug)]
enum Order {
    Enrolled(Arc<Pod>),
    Show(oneshot::Sender<Vec<Row>>),
}

impl Outside {
    /// Starts the thread; it ends with the last of the returned value's clones. The receiver is told, or dropped, when it has.
    ///
    /// # Errors
    /// The process may have no more threads or descriptors.
    pub fn start(
        kernel: Arc<Kernel>,
        connections: Connections,
        snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    ) -> io::Result<(Self, oneshot::Receiver<()>)> {
        let node = Netns::current()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (orders, heard) = mpsc::unbounded_channel();
        let watcher =
            Watcher { kernel, connections, snapshot, node, pods: BTreeMap::new(), complaints: HashSet::new() };
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new().name("outside".to_owned()).spawn(move || {
            runtime.block_on(watcher.run(heard));
            let _ = ended.send(());
        })?;
        Ok((Self { orders }, end))
    }

    /// Tells of a pod whose connections are captured from now on.
    pub fn enrolled(&self, pod: Arc<Pod>) {
        // Without the thread the agent stops.
        let _ = self.orders.send(Order::Enrolled(pod));
    }

    /// All that are open now. Blocks while the kernel is asked: not for a runtime's own threads.
    pub fn rows(&self) -> Vec<Row> {
        let (reply, rows) = oneshot::channel();
        let _ = self.orders.send(Order::Show(reply));
        rows.blocking_recv().unwrap_or_default()
    }
}

struct Watcher {
    kernel: Arc<Kernel>,
    connections: Connections,
    snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    /// The agent's own namespace, which is the kubelet's.
    node: Netns,
    /// By the cookie of the namespace.
    pods: BTreeMap<u64, Watched>,
    /// What the log has been told already.
    complaints: HashSet<String>,
}

struct Watched {
    /// Weak, so that a pod that leaves takes its key and its namespace along.
    pod: Weak<Pod>,
    enrolled: (Instant, SystemTime),
    /// What enrolment overtook in its handshake is there by then.
    again: Option<Instant>,
    /// By their two ends, which nobody can have again: what would come to them is captured.
    open: BTreeMap<(SocketAddr, SocketAddr), Old>,
}

struct Old {
    connection: Established,
    direction: Direction,
    from_node: bool,
}

impl Watcher {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            let again = self.pods.values().filter_map(|watched| watched.again).min();
            tokio::select! {
                changed = self.snapshot.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.turn(|_| true);
                }
                order = orders.recv() => match order {
                    Some(Order::Enrolled(pod)) => {
                        let cookie = pod.cookie.0;
                        self.pods.insert(cookie, Watched::new(&pod));
                        self.turn(|watched| watched.pod.ptr_eq(&Arc::downgrade(&pod)));
                    }
                    Some(Order::Show(reply)) => {
                        self.turn(|_| true);
                        let _ = reply.send(self.rows());
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now).into()), if again.is_some() => {
                    let now = Instant::now();
                    self.turn(|watched| watched.again.is_some_and(|at| at <= now));
                }
            }
        }
    }

    /// Asks the kernel about the pods that are `meant`, forgets those that have nothing left or are gone, and judges.
    fn turn(&mut self, meant: impl Fn(&Watched) -> bool) {
        if self.kernel.is_superseded() {
            // They are the other agent's to judge.
            self.pods.clear();
            return;
        }
        let mut pods = std::mem::take(&mut self.pods);
        pods.retain(|_, watched| {
            let Some(pod) = watched.pod.upgrade().filter(|pod| !pod.is_withdrawn()) else { return false };
            if meant(watched) {
                let now = Instant::now();
                watched.again = watched.again.filter(|at| *at > now);
                if let Err(error) = self.look(watched, &pod) {
                    watched.again = Some(now + LINGER);
                    self.complain(format!("list connections from before enrolment: {error}; policy does not end them"));
                }
            }
            watched.again.is_some() || !watched.open.is_empty()
        });
        self.pods = pods;
        self.judge();
    }

    fn look(&self, watched: &mut Watched, pod: &Pod) -> io::Result<()> {
        let listed = self.kernel.outside(&pod.netns)?;
        let mut before = std::mem::take(&mut watched.open);
        let mut unknown = Vec::new();
        for connection in listed {
            match before.remove(&(connection.local, connection.remote)) {
                Some(old) => {
                    watched.open.insert((connection.local, connection.remote), Old { connection, ..old });
                }
                None => unknown.push(connection),
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        // Asked once, at first sight: a server may stop to listen, and a client that has closed is no longer told.
        let ports = pod.netns.listening()?;
        let nodes: HashSet<_> = self.node.established()?.iter().map(|one| (one.remote, one.local)).collect();
        watched.open.extend(unknown.into_iter().map(|connection| {
            let ends = (connection.local, connection.remote);
            let inbound = ports.contains(&ends.0.port());
            let direction = if inbound { Direction::Inbound } else { Direction::Outbound };
            (ends, Old { connection, direction, from_node: inbound && nodes.contains(&ends) })
        }));
        Ok(())
    }

    /// Ends what policy forbids today.
    fn judge(&mut self) {
        let Some(snapshot) = self.snapshot.borrow_and_update().clone() else { return };
        let mut ended = 0;
        let mut failures = Vec::new();
        for watched in self.pods.values_mut() {
            let Some(pod) = watched.pod.upgrade() else { continue };
            let since = watched.enrolled.0;
            watched.open.retain(|_, old| {
                let Some((facts, end)) = denied(&snapshot, &pod, old) else { return true };
                match pod.netns.destroy(&old.connection) {
                    Ok(true) => {
                        ended += 1;
                        self.connections.refuse(facts, since, end);
                    }
                    // It has ended by itself.
                    Ok(false) => {}
                    Err(error) => {
                        failures.push(error);
                        return true;
                    }
                }
                false
            });
        }
        if ended > 0 {
            info!(ended, "connections from before enrolment that policy does not allow");
        }
        for error in failures {
            let why = match error.raw_os_error() {
                Some(libc::EOPNOTSUPP) => "this kernel cannot (CONFIG_INET_DIAG_DESTROY)".to_owned(),
                _ => error.to_string(),
            };
            self.complain(format!("end connections from before enrolment that policy forbids: {why}; they go on"));
        }
    }

    fn rows(&self) -> Vec<Row> {
        let pods = self.pods.values().filter_map(|watched| Some((watched.pod.upgrade()?, watched)));
        pods.flat_map(|(pod, watched)| {
            watched.open.values().map(move |old| Row {
                namespace: pod.namespace.clone(),
                pod: pod.name.clone(),
                local: old.connection.local,
                remote: old.connection.remote,
                direction: old.direction,
                enrolled: watched.enrolled.1,
            })
        })
        .collect()
    }

    /// Warns once of each thing: it would be the same with every snapshot.
    fn complain(&mut self, what: String) {
        if !self.complaints.contains(&what) {
            warn!("{what}");
            self.complaints.insert(what);
        }
    }
}

impl Watched {
    fn new(pod: &Arc<Pod>) -> Self {
        let now = Instant::now();
        let (pod, enrolled) = (Arc::downgrade(pod), (now, SystemTime::now()));
        Self { pod, enrolled, again: Some(now + LINGER), open: BTreeMap::new() }
    }
}

/// What is to be said of a connection that is not allowed.
fn denied(snapshot: &Snapshot, pod: &Pod, old: &Old) -> Option<(Facts, End)> {
    let Established { local, remote, .. } = old.connection;
    let workload = snapshot.workload(&pod.workload)?;
    let mut facts = Facts::new(old.direction, remote, local);
    facts.pod = Some(pod.cookie);
    facts.from_node = old.from_node;
    facts.destination = Some(workload.clone());
    facts.destination_identity = Some(pod.identity.clone());
    facts.target = Some(PodAddr::new(local));
    facts.source = peer_workload(snapshot, workload, &facts, remote);
    facts.service = service::asked(snapshot, workload, local.port(), None);
    let mut end = revoked(snapshot, &facts)?;
    end.detail.push_str("; the connection is older than the pod's place in the mesh");
    Some((facts, end))
}

/// How many there are, asked at each scrape: they end without our doing.
impl Collector for Outside {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = Family::<Labels, Gauge>::default();
        let rows = self.rows();
        for direction in [Direction::Inbound, Direction::Outbound] {
            let count = rows.iter().filter(|row| row.direction == direction).count();
            let labels = Labels { direction: direction.as_str() };
            counts.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let help = "Connections from before enrolment, which go on outside the mesh";
        let metric = encoder.encode_descriptor("weft_connections_outside", help, None, counts.metric_type())?;
        counts.encode(metric)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    direction: &'static str,
}

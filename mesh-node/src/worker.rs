//! Where connections are carried: a few threads, each with a runtime of its own, that share nothing on the way.
//!
//! A connection is accepted by the worker that carries it to its end: the kernel spreads connections over the listeners
//! that the workers have open for each pod.

use std::net::TcpListener as StdTcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use std::{io, thread};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::{error, warn};

use crate::capture::{self, Captured};
use crate::connections::Connections;
use crate::ebpf::Kernel;
use crate::inbound::Inbound;
use crate::lookout;
use crate::netns;
use crate::outbound::Outbound;
use crate::pod::Pod;
use crate::shares::{self, shared};

/// A pod's listeners, one set for each worker.
#[derive(Debug)]
pub struct Listeners {
    pub outbound: StdTcpListener,
    pub plaintext: StdTcpListener,
    pub hbone: StdTcpListener,
}

/// A running worker; it stops when this is dropped and its connections have ended.
#[derive(Debug)]
pub struct Worker {
    runtime: Handle,
    /// Nanoseconds for which it looked for news and found none.
    looked: Arc<AtomicU64>,
    serve: mpsc::UnboundedSender<(Arc<Pod>, Listeners)>,
}

/// Tasks that run before the kernel is asked again who is ready. Those of connections that move much take 50 us each, and with
/// the runtime's 61 of them a short exchange would wait 3 ms before anybody knew of it.
const EVENT_INTERVAL: u32 = 8;
/// How often tunnels without connections are looked for.
const SWEEP: Duration = Duration::from_secs(15);

impl Worker {
    /// Starts a worker's thread, which `looks` for news by itself for so long after it was busy.
    ///
    /// # Errors
    /// The process may have no more threads or descriptors.
    pub fn start(
        index: usize,
        looks: Duration,
        outbound: Outbound,
        inbound: Inbound,
        kernel: Arc<Kernel>,
    ) -> io::Result<Self> {
        let (serve, mut pods) = mpsc::unbounded_channel::<(Arc<Pod>, Listeners)>();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().event_interval(EVENT_INTERVAL).build()?;
        let handle = runtime.handle().clone();
        let looked: Arc<AtomicU64> = Arc::default();
        let spent = looked.clone();
        thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            if let Err(error) = netns::settle() {
                warn!(%error, "a worker cannot open its own network namespace yet, and will with its first connection");
            }
            runtime.block_on(async {
                tokio::spawn(shares::keep());
                tokio::spawn(lookout::keep(looks, spent));
                // Weak, so that a pod's key is forgotten with its last connection and not with the next sweep.
                let mut present: Vec<Weak<Pod>> = Vec::new();
                let mut sweep = tokio::time::interval(SWEEP);
                loop {
                    tokio::select! {
                        pod = pods.recv() => match pod {
                            Some((pod, listeners)) => {
                                present.push(Arc::downgrade(&pod));
                                if let Err(error) = serve_pod(&pod, listeners, &outbound, &inbound, &kernel) {
                                    error!(%error, pod = %pod.name, "listeners of a pod cannot be used");
                                }
                            }
                            None => return,
                        },
                        _ = sweep.tick() => {
                            let stays = |pod: &Weak<Pod>| pod.upgrade().is_some_and(|pod| !pod.is_withdrawn());
                            present.retain(stays);
                            let cookies: Vec<u64> = present.iter().filter_map(Weak::upgrade).map(|pod| pod.cookie.0).collect();
                            outbound.pool.sweep(Instant::now(), |cookie| !cookies.contains(&cookie));
                        }
                    }
                }
            });
        })?;
        Ok(Self { runtime: handle, looked, serve })
    }

    pub fn serve(&self, pod: Arc<Pod>, listeners: Listeners) {
        if self.serve.send((pod, listeners)).is_err() {
            warn!("a worker has stopped; its share of connections is lost until the agent restarts");
        }
    }
}

/// Shows what workers have to do: no tasks but listeners and two of each worker's own when nothing is carried.
#[derive(Debug)]
pub struct Tasks(Vec<(Handle, Arc<AtomicU64>)>);

impl Tasks {
    pub fn of(workers: &[Worker]) -> Self {
        Self(workers.iter().map(|worker| (worker.runtime.clone(), worker.looked.clone())).collect())
    }
}

impl Collector for Tasks {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let tasks: usize = self.0.iter().map(|(runtime, _)| runtime.metrics().num_alive_tasks()).sum();
        let gauge = ConstGauge::new(i64::try_from(tasks).unwrap_or(i64::MAX));
        let help = "Tasks of the threads that carry connections";
        let metric = encoder.encode_descriptor("weft_worker_tasks", help, None, gauge.metric_type())?;
        gauge.encode(metric)?;
        let nanos = self.0.iter().map(|(_, looked)| looked.load(Ordering::Relaxed)).sum();
        let counter = ConstCounter::new(Duration::from_nanos(nanos).as_secs_f64());
        let help = "Time for which these threads looked for news in place of sleeping, and found none, in seconds";
        let metric = encoder.encode_descriptor("weft_worker_busy_poll_seconds", help, None, counter.metric_type())?;
        counter.encode(metric)
    }
}

fn serve_pod(
    pod: &Arc<Pod>,
    listeners: Listeners,
    outbound: &Outbound,
    inbound: &Inbound,
    kernel: &Arc<Kernel>,
) -> io::Result<()> {
    let out = outbound.clone();
    serve(pod, listeners.outbound, &inbound.connections, move |captured| out.clone().serve(captured))?;
    // One for all: each connection's share of it is a pointer.
    let tunnels = Arc::new(inbound.clone());
    let (plain, kernel) = (tunnels.clone(), kernel.clone());
    serve(pod, listeners.hbone, &inbound.connections, move |captured| tunnels.clone().serve_tunnel(captured))?;
    serve(pod, listeners.plaintext, &inbound.connections, move |captured| {
        let from_node = kernel.opened_by_node(captured.pod.cookie, captured.asked, captured.client);
        plain.clone().serve_plaintext(captured, from_node)
    })
}

/// Takes a listener's connections; all that is done for them is of the pod's share.
fn serve<F: Future<Output = ()> + Send + 'static>(
    pod: &Arc<Pod>,
    listener: StdTcpListener,
    connections: &Connections,
    each: impl Fn(Captured) -> F + Send + 'static,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let cost = pod.cost.clone();
    let accepting = capture::accept(listener, pod.clone(), connections.clone(), move |captured| {
        tokio::spawn(shared(cost.clone(), each(captured)));
    });
    tokio::spawn(shared(pod.cost.clone(), accepting));
    Ok(())
}

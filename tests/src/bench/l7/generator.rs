//! Who asks: in closed loops as fast as replies come, in an open loop at a rate that replies do not slow down.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mesh_waypoint::io::ByteStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::histogram::Histogram;
use super::link::Link;
use super::talk::{Client, Kind};
use super::{http1, http2};

/// Connections, and requests at once on each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) kind: Kind,
    pub(super) connections: usize,
    pub(super) streams: usize,
}

impl Shape {
    fn client(self) -> Box<dyn Client> {
        match self.kind {
            Kind::Http1 | Kind::Large => Box::new(http1::Client::new(self.kind)),
            Kind::Http2 | Kind::Grpc => Box::new(http2::Client::new(self.kind, self.streams)),
        }
    }
}

/// How long is asked before it counts, and how long it counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lasting {
    pub(super) warm_up: Duration,
    pub(super) measured: Duration,
}

/// What was seen while it counted.
pub(super) struct Seen {
    pub(super) took: Histogram,
    pub(super) seconds: f64,
    /// Growth of what `spent` said.
    pub(super) spent: f64,
}

/// Asks on all streams of all connections without a pause. `spent`: seconds of processor time so far of what is measured.
///
/// # Errors
/// A request that fails: a benchmark with failures measures something else.
pub(super) async fn saturate(
    link: &Link,
    shape: Shape,
    lasting: Lasting,
    spent: impl Fn() -> Result<f64>,
) -> Result<Seen> {
    let load = Arc::new(Load { phase: AtomicU8::new(WARM_UP), due: None });
    let asking = connections(link, shape, &load).await?;
    load.last(asking, lasting, spent).await
}

/// As [`saturate`], with a new connection for each request, closed when it is answered.
pub(super) async fn visit(
    link: &Link,
    shape: Shape,
    lasting: Lasting,
    spent: impl Fn() -> Result<f64>,
) -> Result<Seen> {
    let load = Arc::new(Load { phase: AtomicU8::new(WARM_UP), due: None });
    let mut asking = JoinSet::new();
    for _ in 0..shape.connections {
        let (load, link) = (load.clone(), link.clone());
        asking.spawn(async move {
            let mut took = Histogram::default();
            while load.phase() != OVER {
                let begun = Instant::now();
                once(&mut *link.connect().await?, shape).await?;
                if load.phase() == MEASURED {
                    took.record(begun.elapsed());
                }
            }
            Ok(took)
        });
    }
    load.last(asking, lasting, spent).await
}

/// Asks `rate` times a second, evenly, and says how long after each was due its reply was there. It keeps its core busy in
/// between, so that no request waits for this side to wake up.
pub(super) async fn pace(link: &Link, shape: Shape, rate: f64, lasting: Lasting) -> Result<Histogram> {
    let load = Arc::new(Load { phase: AtomicU8::new(WARM_UP), due: Some(Due::default()) });
    let asking = connections(link, shape, &load).await?;
    let pacing = tokio::spawn({
        let load = load.clone();
        async move {
            let every = Duration::from_secs_f64(1.0 / rate);
            let mut next = Instant::now();
            while load.phase() != OVER {
                if let Some(due) = load.due.as_ref().filter(|_| next <= Instant::now()) {
                    due.lock().push_back(next);
                    due.notify.notify_one();
                    next += every;
                } else {
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    let seen = load.last(asking, lasting, || Ok(0.0)).await;
    pacing.await?;
    Ok(seen?.took)
}

/// Opens connections, asks once on each, and leaves them open.
pub(super) async fn hold(link: &Link, shape: Shape) -> Result<Vec<Box<dyn ByteStream>>> {
    let mut held = Vec::with_capacity(shape.connections);
    for number in 0..shape.connections {
        let mut io = link.connect().await.with_context(|| format!("connection {number}"))?;
        once(&mut *io, shape).await.with_context(|| format!("connection {number}"))?;
        held.push(io);
    }
    Ok(held)
}

/// One request on a new connection.
pub(super) async fn once(io: &mut dyn ByteStream, shape: Shape) -> Result<()> {
    let (mut client, mut out, mut buffer, mut done) = (shape.client(), Vec::new(), [0; 4096], false);
    client.greet(&mut out);
    client.ask(Instant::now(), &mut out);
    while !done {
        io.write_all(&out).await?;
        io.flush().await?;
        out.clear();
        match io.read(&mut buffer).await.context("wait for the reply")? {
            0 => bail!("closed before the reply"),
            some => client.take(&buffer[..some], &mut out, &mut |_| done = true)?,
        }
    }
    Ok(())
}

async fn connections(link: &Link, shape: Shape, load: &Arc<Load>) -> Result<JoinSet<Result<Histogram>>> {
    let mut asking = JoinSet::new();
    for _ in 0..shape.connections {
        asking.spawn(converse(link.connect().await?, shape, load.clone()));
    }
    Ok(asking)
}

/// What all connections of a measurement share.
struct Load {
    phase: AtomicU8,
    /// Of an open loop.
    due: Option<Due>,
}

const WARM_UP: u8 = 0;
const MEASURED: u8 = 1;
const OVER: u8 = 2;

/// Requests that no connection has taken yet, by when they were due.
#[derive(Default)]
struct Due {
    queue: Mutex<VecDeque<Instant>>,
    notify: Notify,
}

impl Due {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Instant>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }

    async fn last(
        &self,
        mut asking: JoinSet<Result<Histogram>>,
        lasting: Lasting,
        spent: impl Fn() -> Result<f64>,
    ) -> Result<Seen> {
        self.hold_for(lasting.warm_up, &mut asking).await?;
        let (begun, before) = (Instant::now(), spent()?);
        self.phase.store(MEASURED, Ordering::Relaxed);
        self.hold_for(lasting.measured, &mut asking).await?;
        self.phase.store(OVER, Ordering::Relaxed);
        let (seconds, spent) = (begun.elapsed().as_secs_f64(), spent()? - before);
        if let Some(due) = &self.due {
            due.lock().clear();
            due.notify.notify_waiters();
        }
        let mut took = Histogram::default();
        let ending = async {
            while let Some(ended) = asking.join_next().await {
                took.add(&ended??);
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, ending).await.context("replies that never came")??;
        Ok(Seen { took, seconds, spent })
    }

    /// Waits; a connection that ends meanwhile is an error.
    async fn hold_for(&self, time: Duration, asking: &mut JoinSet<Result<Histogram>>) -> Result<()> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            Some(ended) = asking.join_next() => match ended? {
                Ok(_) => bail!("a connection ended too early"),
                Err(error) => Err(error),
            },
        }
    }
}

async fn converse(mut io: Box<dyn ByteStream>, shape: Shape, load: Arc<Load>) -> Result<Histogram> {
    let (mut client, mut took) = (shape.client(), Histogram::default());
    let (mut out, mut buffer) = (Vec::with_capacity(64 << 10), vec![0; 256 << 10]);
    let mut open = 0;
    client.greet(&mut out);
    loop {
        if load.phase() != OVER {
            let now = Instant::now();
            while client.room() > 0 {
                let due = match &load.due {
                    Some(due) => due.lock().pop_front(),
                    None => Some(now),
                };
                let Some(due) = due else { break };
                client.ask(due, &mut out);
                open += 1;
            }
        } else if open == 0 {
            return Ok(took);
        }
        if !out.is_empty() {
            io.write_all(&out).await?;
            io.flush().await?;
            out.clear();
        }
        let some = match &load.due {
            Some(due) if client.room() > 0 => tokio::select! {
                some = io.read(&mut buffer) => some,
                () = due.notify.notified() => continue,
            },
            _ => io.read(&mut buffer).await,
        };
        let some = some.context("wait for replies")?;
        if some == 0 {
            bail!("closed with {open} requests open");
        }
        let (now, counts) = (Instant::now(), load.phase() == MEASURED);
        client.take(&buffer[..some], &mut out, &mut |due| {
            open -= 1;
            if counts {
                took.record(now.saturating_duration_since(due));
            }
        })?;
    }
}

const PATIENCE: Duration = Duration::from_secs(15);

//! `cargo xtask bench l7`: the waypoint beside Envoy, nginx and HAProxy, with the same work, repetition by repetition in turn.
//!
//! ```text
//!            core 0             core 1
//!   generator, backend  <──>  the proxy        one thread each; a loopback of their own
//! ```
//!
//! What counts is what a proxy does with a second of its processor's time, so that the load need not keep up with the fastest.

mod saturated;
mod latency;
mod idle;
mod change;
mod figures;
mod proxy;
mod ground;
pub mod waypoint;
pub mod model;
mod envoy;
mod nginx;
mod haproxy;
mod routes;
mod generator;
mod link;
mod backend;
pub mod authority;
pub mod address;
mod http1;
mod http2;
mod frames;
mod hpack;
pub mod talk;
mod histogram;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use serde_json::json;

use self::address::Door;
use self::figures::Figures;
use self::generator::{Lasting, Shape, once};
use self::ground::Ground;
use self::proxy::{Proxy, Who};
use self::routes::Routes;
use crate::bench::machine::{self, Machine, Spent};
use crate::bench::report::{self, Only};
use crate::needs::lacking;
use crate::run::take_down_on_signals;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// A first impression in three minutes
    #[arg(long)]
    quick: bool,
    /// Write every figure of every repetition there, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Repetitions of everything
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Only the parts whose name contains this, such as gRPC, mTLS, 1 MiB; or latency, memory, change
    #[arg(long, default_value = "", hide_default_value = true)]
    only: Only,
    /// Only proxies whose name contains this, Weft always: envoy, nginx, haproxy
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
}

impl Plan {
    fn asked(&self) -> Vec<Who> {
        let named = |who: &Who| {
            let name = who.name().to_lowercase();
            *who == Who::Weft || self.peer.as_ref().is_none_or(|peer| name.contains(&peer.to_lowercase()))
        };
        Who::ALL.into_iter().filter(named).collect()
    }

    fn lasting(&self) -> Lasting {
        let measured = if self.quick { 500 } else { 2000 };
        Lasting { warm_up: Duration::from_millis(measured / 4), measured: Duration::from_millis(measured) }
    }

    fn repetitions(&self) -> usize {
        self.repetitions.max(1)
    }

    fn clients(&self) -> usize {
        if self.quick { 1_000 } else { 5_000 }
    }
}

/// Measures, prints the table and says which of the floors do not hold.
///
/// # Errors
/// When the machine lacks something, or a proxy does not come up or ends.
pub fn run(plan: &Plan) -> Result<ExitCode> {
    take_down_on_signals();
    if let Some(lacking) = lacking(&[]) {
        bail!("{lacking}");
    }
    let machine = Machine::here()?;
    if machine.cores < 2 {
        bail!("the proxy has a core for itself: this machine has one");
    }
    println!("{machine}");
    let (ground, there) = Ground::prepare(&plan.asked())?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of open files")?;

    let mut figures = Figures::default();
    let (begun, before) = (Instant::now(), spent(&ground)?);
    // Sockets belong to the namespace of the thread that makes them.
    ground.place.run(|| -> Result<()> {
        let mut core = CpuSet::new();
        core.set(LOAD_CORE)?;
        sched_setaffinity(Pid::from_raw(0), &core)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(measure(plan, &ground, &there, &mut figures))
    })?;
    let others = (spent(&ground)? - before) / begun.elapsed().as_secs_f64();

    println!("\nload average after it: {}", machine::load()?);
    figures.busy = others > BUSY;
    if figures.busy {
        println!(
            "WARNING: other processes had {:.0} % of a core: figures drift, and times are not judged",
            others * 100.0
        );
    }
    println!("\n{figures}{DIFFERENCES}");
    figures.unlogged().iter().for_each(|short| println!("WARNING: {short}"));
    let own = json!({"others": others, "figures": figures.json()});
    report::conclude(&machine, &figures.missed(), own, plan.json.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

async fn measure(plan: &Plan, ground: &Ground, there: &[Who], figures: &mut Figures) -> Result<()> {
    backend::serve(ground.certificates(), &ground.authority)?;
    let mut proxies = there.iter().map(|who| Proxy::start(ground, *who, Routes::Few)).collect::<Result<Vec<_>>>()?;
    for proxy in &mut proxies {
        ready(ground, proxy).await?;
    }
    saturated::measure(plan, ground, &mut proxies, figures).await?;
    if plan.only.wants("latency") {
        latency::measure(plan, ground, &proxies, figures).await?;
    }
    // Addresses are free for further processes.
    drop(proxies);
    if plan.only.wants("memory") {
        idle::measure(plan, ground, there, figures).await?;
    }
    if plan.only.wants("change") {
        change::measure(plan, ground, there, figures).await?;
    }
    Ok(())
}

/// Waits until a request gets through every door.
async fn ready(ground: &Ground, proxy: &mut Proxy) -> Result<()> {
    for door in Door::ALL {
        let link = proxy.who.link(ground, door)?;
        let shape = Shape { kind: door.kind, connections: 1, streams: 1 };
        let begun = Instant::now();
        loop {
            let asked = async { once(&mut *link.connect().await?, shape).await };
            match tokio::time::timeout(Duration::from_secs(5), asked).await.context("no reply").flatten() {
                Ok(()) => break,
                Err(error) if begun.elapsed() > Duration::from_secs(10) => {
                    return Err(error.context(format!("{}, {}", proxy.who.name(), door.name())));
                }
                Err(_) => {
                    proxy.is_running()?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }
    Ok(())
}

/// Seconds that all cores have spent on others than this benchmark.
fn spent(ground: &Ground) -> Result<f64> {
    let Spent { machine, run } = Spent::so_far(ground.run.cgroup())?;
    Ok(machine - run - machine::process_seconds("self")?)
}

/// What is told with every table.
const DIFFERENCES: &str = "
Rates are requests per second of the proxy's own processor time. nginx keeps neither counters by route nor histograms, and
speaks HTTP/1.1 to the backends of `HTTP/2`; HAProxy keeps no histograms and writes its log line by line. With mTLS Weft is
asked over its own transport, the others over TLS.
";
/// Where generator and backend run.
const LOAD_CORE: usize = 0;
/// Where the proxy runs.
const PROXY_CORE: usize = 1;
/// Share of a core that others may have without being mentioned.
const BUSY: f64 = 0.1;

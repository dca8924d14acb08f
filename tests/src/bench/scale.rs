//! `cargo xtask bench scale`: one controller beside a real API server, with as many agents and pods as a large cluster has.
//!
//! ```text
//!          core 0                                                core 1
//!   etcd, kube-apiserver, whoever changes pods, 100 agents  <──>  mesh-ctrl
//! ```
//!
//! Pods are objects that nothing runs, and agents are no agents: they say and acknowledge what an agent does, over the TLS and
//! with the token that it has, and look only for what is measured ([`subscriber`]). What counts is what the controller
//! does and how long it takes; the API server and all agents share the other core.

mod phases;
mod figures;
mod subscriber;
mod counted;
mod raw;
mod world;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::json;

use self::figures::Figures;
use self::phases::Stage;
use crate::bench::machine::{self, Machine};
use crate::bench::report::{self, Only};
use crate::cluster::Cluster;
use crate::cluster::binaries::Binaries;
use crate::run::take_down_on_signals;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Pods in the mesh; ten make a service
    #[arg(long, default_value_t = 10_000)]
    pods: usize,
    /// Agents that are connected
    #[arg(long, default_value_t = 100)]
    agents: usize,
    /// How often all agents come anew, and return
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Changes of one pod, one after the other
    #[arg(long, default_value_t = 200)]
    changes: usize,
    /// Seconds of 100 changes each
    #[arg(long, default_value_t = 20)]
    seconds: usize,
    /// Only the parts whose name contains this: sync, change, stream, return
    #[arg(long, default_value = "", hide_default_value = true)]
    only: Only,
    /// Write every figure there, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the controller's log there
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// Measures, prints the table and says which of the floors do not hold.
///
/// # Errors
/// When the machine lacks something, or a part of the cluster does not come up or stops working.
pub fn run(plan: &Plan) -> Result<ExitCode> {
    take_down_on_signals();
    let machine = Machine::here()?;
    if machine.cores < 2 {
        bail!("the controller has a core for itself: this machine has one");
    }
    println!("{machine}");
    let cluster = Cluster::of_test(&Binaries::ensure()?)?;
    let world = world::fill(&cluster, plan.pods, plan.agents)?;
    let mut figures = Figures::default();
    let mut stage = Stage::set(plan, &cluster, world)?;
    stage.measure(&mut figures)?;
    if let Some(file) = &plan.log {
        fs::write(file, stage.log()).with_context(|| format!("write {}", file.display()))?;
    }

    println!("\nload average after it: {}\n\n{figures}", machine::load()?);
    report::conclude(&machine, &figures.missed(), json!({"figures": figures.json()}), plan.json.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

/// Keeps every thread of a process on one core; those that it starts later inherit that.
fn pin_process(pid: u32, core: usize) -> Result<()> {
    // Twice: a thread may be made while they are gone through.
    for _ in 0..2 {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            if let Ok(tid) = task?.file_name().to_string_lossy().parse() {
                pin(tid, core)?;
            }
        }
    }
    Ok(())
}

/// Keeps one thread on a core, the caller's own if `tid` is 0.
fn pin(tid: i32, core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    match sched_setaffinity(Pid::from_raw(tid), &set) {
        // It has ended meanwhile.
        Err(nix::errno::Errno::ESRCH) => Ok(()),
        pinned => Ok(pinned?),
    }
}

/// Processes that this one has started.
fn children() -> Result<Vec<u32>> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // Behind the name, which may hold anything: state and parent.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        if parent == Some(own) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Where the API server and the agents are.
const OTHERS_CORE: usize = 0;
/// Where the controller is.
const CONTROLLER_CORE: usize = 1;

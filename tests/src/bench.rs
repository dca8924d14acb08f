//! `cargo xtask bench`: plain TCP beside Weft, on the same machine, in the same run, repetition by repetition in turn.
//!
//! ```text
//!            core 0                                core 1
//!   client, agent a ── node a ── wire ── node b ── agent b, server      across nodes
//!   client, agent a ──────────── node a ────────── server               on one node
//! ```
//!
//! Ends are pinned, because two processes that share a core share its cache, which two nodes cannot.

pub mod l7;
pub mod scale;
mod stage;
mod idle;
mod handshake;
mod figures;
mod report;
mod machine;
mod spread;
mod relay;
pub mod load;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction};
use serde_json::json;

use crate::bench::figures::Figures;
use crate::bench::machine::Machine;
use crate::bench::report::Only;
use crate::bench::stage::{Path, Stage, Test};
use crate::mesh::Setup;
use crate::needs::lacking;
use crate::run::take_down_on_signals;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
#[command(arg(
    Arg::new("all")
        .long("all")
        .action(ArgAction::SetTrue)
        .conflicts_with_all(["quick", "only", "path"])
        .help("Everything, as without --quick, --only and --path")
))]
pub struct Plan {
    /// A first impression in half a minute
    #[arg(long)]
    quick: bool,
    /// Write every figure of every repetition there, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Repetitions of everything
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Only the parts whose name contains this: throughput, round trip, connect, connections in, requests a second, idle, handshake
    #[arg(long, default_value = "", hide_default_value = true)]
    only: Only,
    /// Only the paths whose name contains this, to profile one: Weft, plain, across, one node
    #[arg(long)]
    path: Option<String>,
    /// Congestion control of all pods, with and without the mesh: cubic, bbr; else what the machine has
    #[arg(long, value_name = "NAME")]
    congestion_control: Option<String>,
    /// NAME=VALUE in the environment of the agents, to compare settings
    #[arg(long, value_name = "NAME=VALUE")]
    agent: Vec<String>,
}

impl Plan {
    fn takes(&self, path: Path) -> bool {
        self.path.as_ref().is_none_or(|part| path.name().contains(part.as_str()))
    }

    fn seconds(&self) -> f64 {
        if self.quick { 0.5 } else { 2.0 }
    }

    fn repetitions(&self) -> usize {
        if self.quick { 3 } else { self.repetitions.max(1) }
    }

    fn connections(&self) -> usize {
        if self.quick { 2_000 } else { 10_000 }
    }

    fn setup(&self) -> Result<Setup> {
        let mut setup = Setup::default().agent("WORKER_THREADS", "1").agent("LOG_LEVEL", "info");
        for setting in &self.agent {
            let (name, value) = setting.split_once('=').with_context(|| format!("{setting} is not NAME=VALUE"))?;
            setup = setup.agent(name, value);
        }
        let cores = [("a", CLIENT_CORE), ("b", SERVER_CORE), ("c", CLIENT_CORE), ("d", SERVER_CORE)];
        Ok(cores.into_iter().fold(setup, |setup, (node, core)| setup.core(node, core)))
    }
}

/// Measures, prints the table and says which of the floors do not hold.
///
/// # Errors
/// When the machine lacks something, or a part of the mesh does not come up or stops working.
pub fn run(plan: &Plan) -> Result<ExitCode> {
    take_down_on_signals();
    if let Some(lacking) = lacking(&[]) {
        bail!("{lacking}");
    }
    let mut machine = Machine::here()?;
    machine.congestion_control = plan.congestion_control.clone().unwrap_or(machine.congestion_control);
    if machine.cores < 2 {
        bail!("the ends are pinned to a core each: this machine has one");
    }
    println!("{machine}");
    let mut figures = Figures::default();
    measure_paths(plan, &mut figures)?;
    if plan.only.wants("idle") {
        idle::measure(plan, &mut figures).context("measure idle connections")?;
    }
    if plan.only.wants("handshake") {
        handshake::measure(plan, &mut figures).context("measure handshakes")?;
    }
    println!("\nload average after it: {}", machine::load()?);

    println!("\n{figures}");
    let own = json!({"seconds": plan.seconds(), "figures": figures.json()});
    report::conclude(&machine, &figures.missed(), own, plan.json.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

/// Throughput, round trips and connections, on every path in turn.
fn measure_paths(plan: &Plan, figures: &mut Figures) -> Result<()> {
    let short = |test: &Test| !plan.quick || !matches!(test, Test::Storm { .. });
    let tests = Test::ALL.into_iter().filter(|test| plan.only.wants(test.name()) && short(test));
    let tests: Vec<Test> = tests.collect();
    if tests.is_empty() {
        return Ok(());
    }
    let stage = Stage::set(plan.setup()?, plan.congestion_control.as_deref())?;
    for test in tests {
        for repetition in 1..=plan.repetitions() {
            for path in Path::ALL.into_iter().filter(|path| plan.takes(*path)) {
                let measured = stage.measure(test, path, Duration::from_secs_f64(plan.seconds()));
                let measured = measured.with_context(|| format!("{} {}", test.name(), path.name()))?;
                for (what, unit, value) in measured {
                    figures.add(path.place(), &what, unit, path.way(), value);
                }
            }
            eprint!("\r{} {repetition}/{}   ", test.name(), plan.repetitions());
        }
        eprintln!();
    }
    Ok(())
}

/// Where the client's program and its node's agent run.
const CLIENT_CORE: usize = 0;
/// Where the server's program and its node's agent run.
const SERVER_CORE: usize = 1;

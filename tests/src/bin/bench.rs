//! Measures plain TCP beside Weft (`cargo xtask bench`), other proxies beside its waypoint (`cargo xtask bench l7`),
//! or the controller of a large cluster (`cargo xtask bench scale`). Inside pods it is the load itself.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use weft_tests::bench::{Plan, l7, load, run, scale};

#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    plan: Plan,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// The waypoint beside Envoy, nginx and HAProxy
    L7(l7::Plan),
    /// The controller with many pods and agents
    Scale(scale::Plan),
    /// The load, as it runs in pods
    Load {
        #[command(subcommand)]
        load: load::Load,
    },
}

fn main() -> Result<ExitCode> {
    let Arguments { plan, part } = Arguments::parse();
    match part {
        Some(Part::Load { load }) => load::run(load).map(|()| ExitCode::SUCCESS),
        Some(Part::L7(plan)) => l7::run(&plan),
        Some(Part::Scale(plan)) => scale::run(&plan),
        None => run(&plan),
    }
}

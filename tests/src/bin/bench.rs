//! Measures plain TCP beside Weft (`cargo xtask bench`), or other proxies beside its waypoint (`cargo xtask bench l7`). Inside
//! pods it is the load itself.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use weft_tests::bench::{Plan, l7, load, run};

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
        None => run(&plan),
    }
}

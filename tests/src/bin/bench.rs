//! Measures plain TCP beside Weft: `cargo xtask bench`. Inside pods it is the load itself.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use weft_tests::bench::{Plan, load, run};

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
        None => run(&plan),
    }
}

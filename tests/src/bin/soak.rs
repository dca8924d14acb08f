//! Long transfers, then churn beside bulk: `cargo xtask soak`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use weft_tests::soak::{Plan, run};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    plan: Plan,
}

fn main() -> Result<ExitCode> {
    run(&Arguments::parse().plan)
}

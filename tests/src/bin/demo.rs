//! Shows what Weft does, on this machine: `cargo xtask demo`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
struct Arguments {
    /// Leave the mesh running, and print how to look around
    #[arg(long)]
    keep: bool,
}

fn main() -> Result<ExitCode> {
    weft_tests::demo::play(Arguments::parse().keep)
}

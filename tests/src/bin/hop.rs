//! Weft's waypoint as the benchmark of requests needs it: `cargo xtask bench l7` starts it.

use anyhow::Result;
use clap::Parser;
use mesh_net::logging;
use weft_tests::bench::l7::waypoint::{Hop, run};

/// Requests are made of many short-lived pieces: with the system's allocator these are a fifth of what one costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    hop: Hop,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let _log = logging::start("info", false);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(arguments.hop))
}

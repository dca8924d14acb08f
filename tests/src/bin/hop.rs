//! Weft's waypoint as the benchmark of requests needs it: `cargo xtask bench l7` starts it.

use anyhow::Result;
use clap::Parser;
use mesh_net::logging;
use weft_tests::bench::l7::waypoint::{Hop, run};

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

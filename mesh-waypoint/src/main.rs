//! `mesh-waypoint`: one instance of a waypoint.

use std::process::ExitCode;

use clap::Parser;
use mesh_net::logging;
use mesh_waypoint::app;
use mesh_waypoint::settings::Flags;

/// Requests are made of many short-lived pieces: with the system's allocator these are a fifth of what one costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Weft's waypoint.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
}

fn main() -> ExitCode {
    let settings = match Cli::parse().flags.check() {
        Ok(settings) => settings,
        Err(mistakes) => {
            eprintln!("mesh-waypoint: {mistakes}");
            return ExitCode::from(2);
        }
    };
    let log = logging::start(&settings.log_level, settings.log_json);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mesh-waypoint: start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(app::run(settings, &log)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

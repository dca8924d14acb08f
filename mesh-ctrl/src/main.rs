//! The controller's program: settings, logging, signals.

use std::io::IsTerminal;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use mesh_ctrl::app::App;
use mesh_ctrl::debug::LogLevel;
use mesh_ctrl::settings::{Flags, Settings};
use mesh_ctrl::uninstall;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, reload};

/// To tell a hundred agents of each change is many small allocations: a tenth of the work with the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit status of a start that could not be understood.
const BAD_SETTINGS: i32 = 2;

/// Weft's controller: tells node agents what the mesh is, and issues their certificates.
#[derive(Parser)]
#[command(name = "mesh-ctrl", version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Box<Flags>,
}

#[derive(Subcommand)]
enum Command {
    /// Takes Weft off the cluster: nodes, waypoints, definitions, roles and its namespace
    Uninstall(uninstall::Options),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if let Some(Command::Uninstall(options)) = cli.command {
        start_log("info", false)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(uninstall::run(options));
    }
    let flags = *cli.flags;
    let (filter, json) = (flags.log.clone(), flags.log_format == "json");
    let settings = match Settings::read(flags) {
        Ok(settings) => settings,
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("mesh-ctrl: {mistake}");
            }
            std::process::exit(BAD_SETTINGS);
        }
    };
    let log_level = start_log(&filter, json)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let app = App::start(settings, log_level).await?;
        app.run(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await;
        Ok(())
    })
}

fn start_log(filter: &str, json: bool) -> anyhow::Result<LogLevel> {
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(filter)?);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let lines = if json { lines.json().boxed() } else { lines.boxed() };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(Arc::new(move |level| {
        if let Some(level) = level {
            let filter = EnvFilter::try_new(level).map_err(|e| e.to_string())?;
            handle.reload(filter).map_err(|e| e.to_string())?;
        }
        handle.with_current(ToString::to_string).map_err(|e| e.to_string())
    }))
}

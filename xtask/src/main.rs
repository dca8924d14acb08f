//! `cargo xtask`: everything a developer runs that is more than one cargo command.
//!
//! ```text
//! setup ──> build-ebpf ──> build ──> test | demo | bench | soak | cluster | image        lint   fuzz   manifests   clean-up
//! ```
//!
//! It sees no other crate of Weft and asks cargo for everything, so that it builds in seconds on a fresh clone.

mod suite;
mod tally;
mod lint;
mod images;
mod object;
mod setup;
mod child;

use std::path::PathBuf;
use std::process::{self, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use crate::setup::Purpose;
use crate::suite::Suite;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Builds, shows and tests Weft")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what building and testing need and this machine lacks
    Setup {
        /// Only report; exit 1 when something is missing
        #[arg(long)]
        check: bool,
    },
    /// Build the eBPF object that mesh-node embeds; print where it is and its size
    BuildEbpf,
    /// Build every program; print where they are
    Build {
        /// Those that are installed, optimised as a whole
        #[arg(long)]
        release: bool,
    },
    /// Bring up a mesh of two nodes on this machine and show what it does
    Demo {
        /// Leave the mesh running, and print how to look around
        #[arg(long)]
        keep: bool,
        /// Build without optimisation: quicker to build, slower to run
        #[arg(long)]
        dev: bool,
        /// Given to the demo as they are
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run tests; the last line is the sum of all
    Test {
        #[arg(value_enum, default_value = "all")]
        suite: Suite,
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Measure plain TCP beside Weft; `bench l7`: Envoy, nginx and HAProxy beside the waypoint; `bench scale`: the controller
    /// of 10,000 pods and 100 agents
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Transfer and churn for long, and look at what is left of it
    Soak {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Formatting, clippy, tidy tests and licences
    Lint,
    /// Run the property tests of every parser of bytes from outside for long
    Fuzz {
        /// Cases per property
        #[arg(long, default_value_t = 200_000)]
        cases: u32,
        /// Only properties whose name contains this
        filter: Option<String>,
    },
    /// A real Kubernetes on this machine: up [--nodes N] [--images] [--name NAME], down [--name NAME], build
    Cluster {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        args: Vec<String>,
    },
    /// Build images of the controller, the agent and the waypoint as OCI archives: without a daemon, and the same bytes for the
    /// same source
    Image {
        /// Tag of the images, and the version that they say they are
        #[arg(long, default_value = "dev")]
        version: String,
        /// Registry and path before the images' names
        #[arg(long, default_value = images::REGISTRY)]
        registry: String,
        /// Where the archives are written; by default images/ in the target directory
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Write the files of deploy/ that are made from code
    Manifests,
    /// Remove what runs that were killed left behind
    CleanUp,
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    child::watch_signals();
    match run(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup { check: true } => Ok(setup::check(&Purpose::ALL)),
        Command::Setup { check: false } => setup::ensure(&Purpose::ALL).map(|()| ExitCode::SUCCESS),
        Command::BuildEbpf => {
            setup::ensure(&[Purpose::Build, Purpose::Ebpf])?;
            object::build().map(|()| ExitCode::SUCCESS)
        }
        Command::Build { release } => {
            setup::ensure(&[Purpose::Build, Purpose::Ebpf])?;
            let profile = if release { Profile::Dist } else { Profile::Dev };
            match profile {
                Profile::Dist => install()?,
                _ => build(profile)?,
            }
            println!("programs are in {}", profile.folder()?.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Demo { keep, dev, args } => {
            setup::ensure(&Purpose::RUN)?;
            clean_up()?;
            let profile = if dev { Profile::Dev } else { Profile::Release };
            build(profile)?;
            let mut demo = built("demo", profile)?;
            let status = child::foreground(demo.args(keep.then_some("--keep")).args(args))?;
            if child::interrupted() {
                clean_up()?;
            }
            Ok(child::code(status))
        }
        Command::Test { suite, filter } => suite::test(suite, filter.as_deref()),
        // A waypoint beside proxies that are optimised as a whole.
        Command::Bench { args } if args.first().is_some_and(|part| part == "l7") => {
            measure(Profile::Dist, &["bench", "hop"], &args)
        }
        Command::Bench { args } => measure(Profile::Release, &["bench"], &args),
        Command::Soak { args } => measure(Profile::Release, &["soak"], &args),
        Command::Lint => lint::lint(),
        Command::Fuzz { cases, filter } => suite::fuzz(cases, filter.as_deref()),
        Command::Cluster { args } => {
            setup::ensure(&[Purpose::Build, Purpose::Ebpf])?;
            let status = child::foreground(cluster(&args)?.args(&args))?;
            Ok(child::code(status))
        }
        Command::Image { version, registry, out } => {
            setup::ensure(&[Purpose::Build, Purpose::Ebpf])?;
            install()?;
            let out = out.unwrap_or_else(|| xtask::target::dir().join("images"));
            images::write(&Profile::Dist.folder()?, &out, &registry, &version).map(|()| ExitCode::SUCCESS)
        }
        Command::Manifests => manifests().map(|()| ExitCode::SUCCESS),
        Command::CleanUp => clean_up().map(|()| ExitCode::SUCCESS),
    }
}

/// Cargo's profiles.
#[derive(Clone, Copy)]
enum Profile {
    Dev,
    Release,
    Dist,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
            Self::Dist => "dist",
        }
    }

    /// Where its programs are.
    fn folder(self) -> Result<PathBuf> {
        let own = std::env::current_exe()?;
        let target = own.ancestors().nth(2).context("this program is in target/<profile>")?;
        let name = if matches!(self, Self::Dev) { "debug" } else { self.name() };
        Ok(target.join(name))
    }
}

/// Runs the first of some programs of the testbed, which may need the others, and takes apart what it may have left. What is built
/// as a whole is built alone: it takes long.
fn measure(profile: Profile, programs: &[&str], args: &[String]) -> Result<ExitCode> {
    setup::ensure(&Purpose::RUN)?;
    clean_up()?;
    match profile {
        Profile::Dist => build_some(profile, programs)?,
        _ => build(profile)?,
    }
    let status = child::foreground(built(programs[0], profile)?.args(args))?;
    clean_up()?;
    Ok(child::code(status))
}

/// All packages with programs: they choose the features of what all use.
const PACKAGES: [&str; 11] =
    ["build", "-p", "mesh-node", "-p", "mesh-cni", "-p", "mesh-waypoint", "-p", "mesh-ctrl", "-p", "weft-tests"];

/// Builds what is installed.
fn install() -> Result<()> {
    build_some(Profile::Dist, &["mesh-node", "mesh-waypoint", "mesh-ctrl"])?;
    images::plugin(&Profile::Dist.folder()?)
}

/// Builds every program, and what scenarios and the demo run beside them.
fn build(profile: Profile) -> Result<()> {
    child::succeed(child::cargo(&PACKAGES).args(["--bins", "--profile", profile.name()]))
}

fn build_some(profile: Profile, programs: &[&str]) -> Result<()> {
    let programs = programs.iter().flat_map(|program| ["--bin", program]);
    let mut cargo = child::cargo(&PACKAGES);
    if matches!(profile, Profile::Dist) {
        images::without_paths(&mut cargo, &[])?;
    }
    child::succeed(cargo.args(["--profile", profile.name()]).args(programs))
}

/// The program that starts and ends clusters.
fn cluster(args: &[String]) -> Result<process::Command> {
    let programs: &[&str] = match args.iter().any(|arg| arg == "--images") {
        true => &["cluster", "mesh-node", "mesh-cni", "mesh-ctrl", "mesh-waypoint"],
        false => &["cluster"],
    };
    build_some(Profile::Dev, programs)?;
    built("cluster", Profile::Dev)
}

/// Has the tests that compare `deploy/crds` with the tables write it, and Helm render the chart.
fn manifests() -> Result<()> {
    let mut tests = child::cargo(&["test", "-p", "mesh-analysis", "--test", "manifests"]);
    child::succeed(tests.env("UPDATE_EXPECT", "1"))?;
    child::succeed(cluster(&[])?.arg("manifest"))
}

/// A program that [`build`] made. Not `cargo run`: for one package alone, cargo chooses other features of what all of them
/// use, and builds TLS a second time.
fn built(name: &str, profile: Profile) -> Result<process::Command> {
    let path = profile.folder()?.join(name);
    if !path.exists() {
        bail!("{} was not built", path.display());
    }
    Ok(process::Command::new(path))
}

fn clean_up() -> Result<()> {
    for name in xtask::clusters::sweep()? {
        println!("ended cluster {name}");
    }
    for id in xtask::leftovers::sweep()? {
        println!("removed what {id} left behind");
    }
    Ok(())
}

//! Runs tests and says with one last line how they went.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::ValueEnum;
use nix::unistd::geteuid;
use xtask::target::ROOT;
use xtask::{clusters, leftovers};

use crate::setup::{self, Purpose};
use crate::tally::Tally;
use crate::{child, clean_up};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Crates that need no root, no cluster and no network
    Pure,
    /// The agent against this kernel, and whole-mesh scenarios
    Mesh,
    /// The controller against a real Kubernetes
    Cluster,
    /// All of them
    All,
}

impl Suite {
    /// As cargo's arguments.
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Pure => &["--workspace", "--exclude=mesh-node", "--exclude=weft-tests"],
            // The controller for its program.
            Self::Mesh => &["-p=mesh-node", "-p=mesh-waypoint", "-p=mesh-ctrl", "-p=weft-tests"],
            // The agent for the features that all of them share: nothing is built twice.
            Self::Cluster => &["-p=mesh-node", "-p=mesh-cni", "-p=mesh-waypoint", "-p=mesh-ctrl", "-p=weft-tests"],
            Self::All => &["--workspace"],
        }
    }

    /// Which targets of the packages are built and run, as cargo's arguments.
    fn targets(self) -> &'static [&'static str] {
        match self {
            Self::Cluster => &["--bins", "--test=cluster"],
            // Documentation's examples are run only if no target is named.
            Self::Pure | Self::Mesh | Self::All => &[],
        }
    }
}

/// Builds what `suite` needs, runs it and prints `N passed, N failed, N skipped` as the last line.
pub(crate) fn test(suite: Suite, filter: Option<&str>) -> Result<ExitCode> {
    let mut tally = Tally::default();
    let mesh = suite != Suite::Pure;
    setup::ensure(if mesh { &Purpose::ALL } else { &[Purpose::Build] })?;
    if mesh {
        clean_up()?;
    }
    let packages = suite.packages();
    // Scenarios run the daemons as programs, which `cargo test` alone would not build; and what both build together has one
    // set of features, so nothing is built twice.
    let targets = suite.targets();
    let every: &[&str] = if targets.is_empty() { &["--all-targets"] } else { targets };
    let built = child::succeed(child::cargo(&["build"]).args(packages).args(every));
    if built.is_ok() && matches!(suite, Suite::Cluster | Suite::All) && !child::interrupted() {
        // Where they cannot be had, the tests say so and are counted as skipped.
        if let Err(error) = child::succeed(crate::built("cluster", crate::Profile::Dev)?.args(["build", "--nodes"])) {
            eprintln!("error: {error:#}");
        }
    }
    let chosen: Vec<&str> = packages.iter().chain(targets).copied().collect();
    match built {
        Ok(()) => {
            cargo_test(&chosen, filter.as_slice(), &[("RUST_TEST_THREADS", THREADS)], &mut tally)?;
            once_more(&[], &mut tally)?;
            if let Some(program) = tally.scenarios.clone().filter(|_| filter.is_none()) {
                for (variable, value, scenarios) in OTHER_PATHS {
                    println!("\nscenarios with {variable}={value}");
                    run(&program, scenarios, &[("RUST_TEST_THREADS", THREADS), (variable, value)], &mut tally)?;
                    once_more(&[(variable, value)], &mut tally)?;
                }
            }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            tally.failed += 1;
        }
    }
    if mesh {
        // A test that was killed had no chance to take its run apart.
        clusters::sweep()?;
        leftovers::sweep()?;
    }
    conclude(tally)
}

/// Runs the properties that feed parsers with what a peer, a file or a cluster may send, with `cases` cases each.
pub(crate) fn fuzz(cases: u32, filter: Option<&str>) -> Result<ExitCode> {
    setup::ensure(&[Purpose::Build])?;
    let mut tally = Tally::default();
    let cases = cases.to_string();
    let filters = filter.map_or(HOSTILE.to_vec(), |only| vec![only]);
    cargo_test(FUZZED, &filters, &[("PROPTEST_CASES", &cases)], &mut tally)?;
    conclude(tally)
}

fn cargo_test(packages: &[&str], filters: &[&str], environment: &[(&str, &str)], tally: &mut Tally) -> Result<()> {
    if child::interrupted() {
        return Ok(());
    }
    let mut cargo = child::cargo(&["test", "--no-fail-fast"]);
    cargo.args(packages).arg("--").args(filters).arg("--show-output").envs(environment.iter().copied());
    follow(cargo, tally)
}

/// Runs a test binary that cargo has built and run before. Asked for that one alone, cargo would choose other features for what it
/// depends on, and build them anew.
fn run(program: &Path, arguments: &[&str], environment: &[(&str, &str)], tally: &mut Tally) -> Result<()> {
    if child::interrupted() {
        return Ok(());
    }
    let mut command = Command::new(Path::new(ROOT).join(program).canonicalize()?);
    // Cargo runs tests in the folder of their package.
    command
        .args(arguments)
        .arg("--show-output")
        .envs(environment.iter().copied())
        .current_dir(Path::new(ROOT).join("tests"));
    tally.line(&format!("Running again ({})", program.display()));
    follow(command, tally)
}

/// Runs tests, prints what they print and counts them.
fn follow(mut command: Command, tally: &mut Tally) -> Result<()> {
    println!("> {}", child::line(&command));
    let failed_before = tally.failed;
    let mut names = false;
    let status = child::lines(&mut command, |line| {
        tally.line(line);
        // `--show-output` is there for the output; the names that come with it were printed before.
        names = line == "successes:" || names && (line.is_empty() || line.starts_with("    "));
        if !names {
            println!("{line}");
        }
    })?;
    tally.end(status.success(), failed_before);
    Ok(())
}

/// Runs scenarios and tests in clusters that failed once more, each alone: they wait for dozens of processes, and a machine that is busy
/// with something else may fail them. What passes then is counted as passed, and named at the end: it is a fault of the test or of Weft
/// all the same.
fn once_more(environment: &[(&str, &str)], tally: &mut Tally) -> Result<()> {
    let failed = std::mem::take(&mut tally.worlds);
    if failed.len() > UNSTEADY {
        return Ok(());
    }
    for (program, name) in failed {
        println!("\n{name} once more, alone");
        let mut own = Tally::default();
        run(&program, &["--exact", &name], &[environment, &[("RUST_TEST_THREADS", "1")]].concat(), &mut own)?;
        if (own.passed, own.failed) == (1, 0) {
            tally.forgive(name);
        }
    }
    Ok(())
}

fn conclude(mut tally: Tally) -> Result<ExitCode> {
    if !tally.failures.is_empty() {
        // Thousands of lines further up otherwise.
        println!("\nwhat failed tests printed, once more:");
        tally.failures.iter().for_each(|line| println!("{line}"));
    }
    if !tally.unsteady.is_empty() {
        println!("\nfailed first, and passed when run again alone:");
        tally.unsteady.iter().for_each(|name| println!("  {name}"));
    }
    if !tally.reasons.is_empty() {
        println!("\nskipped for lack of something:");
        tally.reasons.iter().for_each(|reason| println!("  {reason}"));
        if std::env::var("CI").is_ok_and(|ci| ci == "true") && geteuid().is_root() {
            println!("on CI as root nothing may be lacking: these count as failed");
            tally.forbid_skips();
        }
    }
    if tally.passed + tally.failed + tally.skipped == 0 {
        println!("no test has such a name");
        tally.failed += 1;
    }
    println!("{tally}");
    Ok(match (child::interrupted(), tally.failed) {
        (true, _) => ExitCode::from(130),
        (false, 0) => ExitCode::SUCCESS,
        (false, _) => ExitCode::FAILURE,
    })
}

/// Crates that read bytes from outside.
const FUZZED: &[&str] = &[
    "-p=mesh-core",
    "-p=mesh-analysis",
    "-p=mesh-net",
    "-p=mesh-ctrl",
    "-p=mesh-node",
    "-p=mesh-cni",
    "-p=mesh-waypoint",
];

/// How the properties of parsers are named: no bytes panic, arbitrary text is an object or a finding, and the like.
const HOSTILE: &[&str] = &["panic", "arbitrary", "damaged", "any_bytes", "survives_the_wire"];

/// Scenarios carry their connections over Weft's own transport. These are run again, over HBONE and within one node.
const OTHER_PATHS: [(&str, &str, &[&str]); 2] = [
    (
        "WEFT_TEST_TRANSPORT",
        "hbone",
        &[
            "authorization",
            "carried",
            "closing",
            "crowds",
            "endurance",
            "guarded",
            "hostile",
            "identity",
            "opt_in",
            "protocols",
            "resilience",
            "revocation",
            "routing",
            "strictness",
            "transfers",
            "upgrade",
        ],
    ),
    // One of them is about both at once.
    ("WEFT_TEST_PAIR", "near", &["closing", "protocols", "transfers", "--skip=every_kind_of_destination"]),
];

/// More tests of whole worlds than this do not fail by chance.
const UNSTEADY: usize = 3;

/// Tests of one binary at a time. Each scenario is a world of its own with a dozen processes: two keep a small machine honest.
const THREADS: &str = "2";

//! What a change has to pass before tests are worth running.

use std::process::ExitCode;

use anyhow::Result;

use crate::child;
use crate::setup::{self, Purpose};

/// Runs every check, also after one has failed, and names those that did.
pub(crate) fn lint() -> Result<ExitCode> {
    setup::ensure(&[Purpose::Build, Purpose::Ebpf])?;
    let mut checks: Vec<(&str, Vec<&str>)> = vec![
        ("formatting", vec!["fmt", "--all", "--check"]),
        ("clippy", vec!["clippy", "--workspace", "--all-targets", "--exclude", "mesh-ebpf", "--", "-D", "warnings"]),
        // Its programs build for the kernel's target only; the ABI is checked on the host.
        ("clippy of the ABI", vec!["clippy", "-p", "mesh-ebpf", "--lib", "--", "-D", "warnings"]),
        ("tidy", vec!["test", "--quiet", "-p", "xtask", "--test", "tidy"]),
    ];
    if setup::program("cargo-deny").is_some() {
        checks.push(("licences", vec!["deny", "--offline", "check", "licenses", "bans", "sources"]));
    } else {
        println!("licences: not checked, cargo-deny is not installed (cargo install cargo-deny --locked)");
    }
    let mut failed = Vec::new();
    for (name, arguments) in checks {
        let mut command = child::cargo(&arguments);
        println!("> {}", child::line(&command));
        if !child::foreground(&mut command)?.success() {
            failed.push(name);
        }
        if child::interrupted() {
            return Ok(ExitCode::from(130));
        }
    }
    if failed.is_empty() {
        println!("lint: all checks passed");
        return Ok(ExitCode::SUCCESS);
    }
    println!("lint: failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

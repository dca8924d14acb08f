//! A network namespace of the run, and code that runs inside it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};
use xtask::leftovers;

use crate::run::Run;

/// A named network namespace, known to `ip netns` too. It is removed with the run.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
    file: Arc<File>,
}

impl Netns {
    /// Makes `<run id>-<suffix>`, with the loopback up, no reverse path filter and no duplicate address detection (a
    /// second of silence on every new IPv6 address).
    ///
    /// # Errors
    /// What `ip` or the kernel said.
    pub fn make(run: &Run, suffix: &str) -> Result<Netns> {
        let name = format!("{}-{suffix}", run.id());
        {
            // The first `ip netns add` after boot turns the directory into a mount; two at once do it twice.
            let lock = File::create(Path::new(leftovers::RUNS).join(".netns.lock"))?;
            let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
            ip(&["netns", "add", &name], "")?;
        }
        let path = Path::new(leftovers::NETNS).join(&name);
        let file = Arc::new(File::open(&path).with_context(|| format!("open {}", path.display()))?);
        let netns = Netns { name, path, file };
        netns.sysctl(&[
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv6/conf/all/disable_ipv6", "0"),
            ("ipv6/conf/default/disable_ipv6", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
        ])?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The name that `ip netns` knows.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file to hand to `mesh-node enrol --netns`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `ip` commands in it, one a line; the first that fails stops them.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn ip(&self, commands: &str) -> Result<()> {
        ip(&["-n", &self.name, "-batch", "-"], commands)
    }

    /// Sets kernel parameters, named by path below `/proc/sys/net`.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            settings.iter().try_for_each(|(key, value)| {
                let path = Path::new("/proc/sys/net").join(key);
                fs::write(&path, value).with_context(|| format!("set {} to {value}", path.display()))
            })
        })
    }

    /// Calls `action` on a thread in this namespace and waits for it: sockets it makes belong here and stay usable after.
    /// A panic in it goes on in the caller.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let ran = thread::scope(|scope| {
            let inside = || {
                self.enter();
                action()
            };
            scope.spawn(inside).join()
        });
        ran.unwrap_or_else(|panic| panic::resume_unwind(panic))
    }

    /// Calls `action` on a thread in this namespace, beside the caller.
    pub fn begin<T: Send + 'static>(&self, action: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let netns = self.clone();
        thread::spawn(move || {
            netns.enter();
            action()
        })
    }

    /// Moves the calling thread, for good.
    fn enter(&self) {
        setns(&*self.file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace that it made");
    }
}

fn ip(arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run ip")?;
    // Commands are far shorter than a pipe holds, so this cannot block against the other pipe.
    child.stdin.take().expect("piped").write_all(input.as_bytes())?;
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said)?;
    if !child.wait()?.success() {
        bail!("ip {}: {}\n{input}", arguments.join(" "), said.trim());
    }
    Ok(())
}

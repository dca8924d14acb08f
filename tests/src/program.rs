//! A program that runs in a place: starting it, waiting for it, ending it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use xtask::download;

use crate::cgroup::Cgroup;
use crate::netns::Netns;
use crate::wait::{PATIENCE, until};

/// A command that has not run yet.
#[must_use]
pub struct Launch {
    program: String,
    command: Command,
    netns: Netns,
    core: Option<usize>,
    log: PathBuf,
}

/// What a command that ended by itself left.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Launch {
    /// The shell joins the cgroup and then becomes the program, so the program's first instruction runs there; the
    /// namespace is inherited from the thread that starts it.
    pub(crate) fn new(program: &str, netns: Netns, cgroup: &Cgroup, log: PathBuf) -> Launch {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo 0 > \"$0\" && exec \"$@\""]).arg(cgroup.dir().join("cgroup.procs"));
        command.arg(find(program).unwrap_or_else(|| program.into()));
        command.stdin(Stdio::null()).process_group(0);
        Launch { program: program.to_owned(), command, netns, core: None, log }
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Launch {
        self.command.arg(argument);
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Launch {
        self.command.args(arguments);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Launch {
        self.command.env(name, value);
        self
    }

    /// Keeps it, with all of its threads, on one core.
    pub fn on_core(mut self, core: usize) -> Launch {
        self.core = Some(core);
        self
    }

    /// Gives it `end` as its standard input.
    pub fn stdin(mut self, end: impl Into<OwnedFd>) -> Launch {
        self.command.stdin(end.into());
        self
    }

    /// Starts it; what it prints goes to its log.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn start(mut self) -> Result<Program> {
        let log = self.log.with_added_extension("log");
        let out = File::create(&log).with_context(|| format!("make {}", log.display()))?;
        self.command.stdout(out.try_clone()?).stderr(out);
        let child = self.spawn()?;
        Ok(Program { name: self.program, child, log, ended: None })
    }

    /// Runs it to its end, at most for [`PATIENCE`].
    ///
    /// # Errors
    /// When it is not installed or does not end. A status other than 0 is no error here.
    pub fn output(self) -> Result<Output> {
        self.output_within(PATIENCE)
    }

    /// As [`output`](Launch::output), with another deadline.
    ///
    /// # Errors
    /// When it is not installed or does not end.
    pub fn output_within(mut self, within: Duration) -> Result<Output> {
        let files = [self.log.with_added_extension("out"), self.log.with_added_extension("err")];
        self.command.stdout(File::create(&files[0])?).stderr(File::create(&files[1])?);
        let child = self.spawn()?;
        let mut program = Program { name: self.program, child, log: files[1].clone(), ended: None };
        let status = program.wait_exit(within)?;
        Ok(Output { status, stdout: fs::read(&files[0])?, stderr: fs::read(&files[1])? })
    }

    /// Runs it to its end and yields what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn stdout(self) -> Result<String> {
        let name = self.program.clone();
        let output = self.output()?;
        if !output.status.success() {
            bail!("{name}: {}: {}{}", output.status, text(&output.stdout), text(&output.stderr));
        }
        Ok(text(&output.stdout))
    }

    fn spawn(&mut self) -> Result<Child> {
        if find(&self.program).is_none() {
            bail!("{} is not installed", self.program);
        }
        let (netns, core, command) = (&self.netns, self.core, &mut self.command);
        let spawned = netns.run(|| {
            // Of this thread alone, which ends here; the child inherits it.
            core.map_or(Ok(()), pin_thread)?;
            command.spawn()
        });
        spawned.with_context(|| format!("start {}", self.program))
    }
}

fn pin_thread(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Where a program is: a path as it is, a name in PATH and in root's directories, and what `cargo xtask setup` fetched by the name
/// that it has there.
#[must_use]
pub fn find(program: &str) -> Option<OsString> {
    if program.contains('/') {
        return Path::new(program).exists().then(|| program.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .chain(download::ALL.iter().filter(|it| it.name == program).map(|it| it.file()))
        .find(|file| file.is_file())
        .map(PathBuf::into_os_string)
}

/// The program `name` that this workspace builds, beside the one that runs: `target/<profile>/<name>`.
///
/// # Errors
/// When it has not been built.
pub fn built(name: &str) -> Result<String> {
    let mut dir = std::env::current_exe()?;
    dir.pop();
    if dir.ends_with("deps") {
        dir.pop();
    }
    let path = dir.join(name);
    if !path.exists() {
        bail!("{} is not there: cargo xtask build (or test) makes it", path.display());
    }
    path.into_os_string().into_string().ok().context("a target directory with a name in UTF-8")
}

/// A running program. Dropping it ends it, with all of its process group, at once.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Program {
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it prints to.
    #[must_use]
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// What it has printed so far, both streams.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| text(&bytes)).unwrap_or_default()
    }

    /// Waits until a socket in its namespace listens on `port`.
    ///
    /// # Errors
    /// When none does, or the program ends before.
    pub fn wait_listens(&mut self, port: u16) -> Result<()> {
        let tables = ["tcp", "tcp6"].map(|table| format!("/proc/{}/net/{table}", self.pid()));
        self.wait(&format!("listen on port {port}"), PATIENCE, |_| {
            tables.iter().any(|table| fs::read_to_string(table).is_ok_and(|table| listens(&table, port))).then_some(())
        })
    }

    /// Waits until its log holds `needle`.
    ///
    /// # Errors
    /// When it never does, or the program ends before.
    pub fn wait_logs(&mut self, needle: &str) -> Result<()> {
        self.wait(&format!("print {needle:?}"), PATIENCE, |program| program.log().contains(needle).then_some(()))
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it does not, with the end of its log.
    pub fn wait_exit(&mut self, within: Duration) -> Result<ExitStatus> {
        let ended = until("its end", within, || self.ended());
        ended.with_context(|| format!("{} (pid {}); its log ends:\n{}", self.name, self.pid(), self.log_end()))
    }

    /// Its status when it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.ended() {
            bail!("{} has ended ({status})", self.name);
        }
        kill(self.process(), signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Ends it as `kill -9` does and waits until it is gone.
    ///
    /// # Errors
    /// When it had ended before.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait_exit(PATIENCE).map(drop)
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// When it had ended before, or does not end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait_exit(PATIENCE)
    }

    fn wait<T>(&mut self, what: &str, within: Duration, mut condition: impl FnMut(&Program) -> Option<T>) -> Result<T> {
        let what = format!("{} to {what}", self.name);
        let waited = until(&what, within, || match condition(self) {
            Some(value) => Some(Ok(value)),
            None => self.ended().map(Err),
        });
        match waited {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(status)) => bail!("waited for {what}, but it ended ({status}); its log ends:\n{}", self.log_end()),
            Err(error) => Err(error.context(format!("its log ends:\n{}", self.log_end()))),
        }
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn process(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.ended().is_none() {
            // The group is its own (`process_group(0)`), and as it has not been waited for, its number is not reused.
            // It may end by itself this moment.
            let _ = killpg(self.process(), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// Whether `/proc/net/tcp` or `tcp6` shows a socket that listens (state 0A) on `port`.
fn listens(table: &str, port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace())
        .any(|mut fields| fields.nth(1).is_some_and(|local| local.ends_with(&suffix)) && fields.nth(1) == Some("0A"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listening_socket_on_that_port_listens() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n   \
                     0: 0100007F:18EB 00000000:0000 0A 00000000:00000000\n   \
                     1: 0100007F:1F90 0100007F:18EC 01 00000000:00000000\n";
        assert!(listens(table, 0x18eb));
        assert!(!listens(table, 0x18ec), "the peer's port");
        assert!(!listens(table, 0x1f90), "connected, not listening");
    }
}

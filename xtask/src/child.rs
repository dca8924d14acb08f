//! Runs cargo and package managers, and passes signals on to them, so that a Ctrl-C ends the child first and leaves this
//! process to clean up.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use xtask::target::ROOT;

/// Catches SIGINT and SIGTERM and forwards them to the running child. Caught, not blocked: a child would inherit the mask.
pub(crate) fn watch_signals() {
    let mut signals = Signals::new([SIGINT, SIGTERM]).expect("both can be caught");
    thread::spawn(move || {
        for signal in signals.forever() {
            INTERRUPTED.store(true, Ordering::SeqCst);
            match CHILD.load(Ordering::SeqCst) {
                0 => std::process::exit(128 + signal),
                // It may have ended this moment.
                child => _ = kill(Pid::from_raw(child), Signal::try_from(signal).ok()),
            }
        }
    });
}

/// Whether a signal asked this process to stop.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// The cargo that runs this xtask, in the workspace's root.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).current_dir(ROOT);
    // Set for this package by `cargo run`; inherited, they would make build scripts run again.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Runs `command` with this process's own input and output.
pub(crate) fn foreground(command: &mut Command) -> Result<ExitStatus> {
    let mut child = command.spawn().with_context(|| format!("run {}", line(command)))?;
    CHILD.store(child.id().cast_signed(), Ordering::SeqCst);
    let status = child.wait();
    CHILD.store(0, Ordering::SeqCst);
    Ok(status?)
}

/// Runs `command` and fails unless it succeeds.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let status = foreground(command)?;
    if interrupted() {
        bail!("interrupted");
    }
    if !status.success() {
        bail!("{} failed ({status})", line(command));
    }
    Ok(())
}

/// Runs `command` in a process group of its own, with both outputs in one stream, and calls `each` for every line.
pub(crate) fn lines(command: &mut Command, mut each: impl FnMut(&str)) -> Result<ExitStatus> {
    let (reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    let mut child = command.spawn().with_context(|| format!("run {}", line(command)))?;
    CHILD.store(-child.id().cast_signed(), Ordering::SeqCst);
    // The writing ends in `command` would keep the pipe open for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes)? > 0 {
        each(String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']));
        bytes.clear();
    }
    let status = child.wait();
    CHILD.store(0, Ordering::SeqCst);
    Ok(status?)
}

/// The exit status to pass on: a child ended by a signal counts as 128 + signal, as in a shell.
pub(crate) fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = command.get_args().map(|word| word.to_string_lossy());
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or(&program).to_owned();
    std::iter::once(program.into()).chain(words).collect::<Vec<_>>().join(" ")
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Target of forwarded signals as kill(2) takes it: a pid, a negated process group, or 0 while nothing runs.
static CHILD: AtomicI32 = AtomicI32::new(0);

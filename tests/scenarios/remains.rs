//! A run leaves nothing behind, however it ends, and two runs never meet.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weft_tests::apps;
use weft_tests::needs;
use weft_tests::program::built;
use weft_tests::topology::Topology;
use weft_tests::wait::{PATIENCE, until};
use xtask::leftovers;

#[test]
fn a_finished_run_leaves_nothing() -> Result<()> {
    needs!();
    let (id, pid) = {
        let world = Topology::with_nodes("finished", &["a", "b"])?;
        let pod = world.pod("pod").on(world.node("a"))?;
        // What a test forgets to hold must go too: a program that only the cgroup still knows.
        let echo = apps::probe(&pod, "echo", 7000, &[])?;
        let pid = echo.pid();
        std::mem::forget(echo);
        drop(pod.dial(pod.at(7000))?);
        let id = world.run().id().to_owned();
        assert_eq!(traces(&id)?.len(), KINDS, "the test can see what it looks for: {:?}", traces(&id)?);
        (id, pid)
    };
    assert_eq!(traces(&id)?, Vec::<String>::new());
    until("the forgotten program to be gone", PATIENCE, || leftovers::start_time(pid).is_none().then_some(()))
}

#[test]
fn a_panicking_test_leaves_nothing_but_its_logs() -> Result<()> {
    needs!();
    let world = Topology::with_nodes("panicking", &["a"])?;
    let pod = world.pod("pod").on(world.node("a"))?;
    let _echo = apps::probe(&pod, "echo", 7000, &[])?;
    let id = world.run().id().to_owned();
    let caught = catch_unwind(AssertUnwindSafe(move || {
        let _world = world;
        panic!("as a failed assertion does");
    }));
    assert!(caught.is_err());
    assert_eq!(traces(&id)?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_killed_run_is_swept_and_a_living_one_is_not() -> Result<()> {
    needs!();
    let living = Topology::with_nodes("living", &["a"])?;
    let (mut child, id) = world_in_another_process()?;
    assert!(!leftovers::sweep()?.contains(&id), "its owner is alive");
    assert_eq!(traces(&id)?.len(), KINDS, "{:?}", traces(&id)?);

    child.kill()?;
    child.wait()?;
    // Another sweep on this machine may be at it already; the claim is that all of it goes.
    leftovers::sweep()?;
    until("the killed run to be swept", PATIENCE, || traces(&id).is_ok_and(|traces| traces.is_empty()).then_some(()))?;
    assert_eq!(traces(living.run().id())?.len(), KINDS, "the living one is untouched");
    Ok(())
}

#[test]
fn an_interrupted_program_takes_its_run_apart() -> Result<()> {
    needs!();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (mut child, id) = world_in_another_process()?;
        assert_eq!(traces(&id)?.len(), KINDS, "{:?}", traces(&id)?);
        let pods = leftovers::cgroup2_mount()?.join(&id).join("node-a/pods/default-web/cgroup.procs");
        for pid in fs::read_to_string(pods)?.lines() {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            assert!(status.contains("SigBlk:\t0000000000000000"), "a pod's program inherited a mask:\n{status}");
        }
        kill(Pid::from_raw(child.id().cast_signed()), signal)?;
        assert_eq!(child.wait()?.code(), Some(128 + signal as i32));
        assert_eq!(traces(&id)?, Vec::<String>::new(), "after {signal}");
    }
    Ok(())
}

/// `world` with a pod and a program in it, and the id of its run.
fn world_in_another_process() -> Result<(Child, String)> {
    let mut child = Command::new(built("world")?).arg("web@a").stdout(Stdio::piped()).process_group(0).spawn()?;
    for line in BufReader::new(child.stdout.take().context("piped")?).lines() {
        if let Some(id) = line?.strip_prefix("up: ") {
            return Ok((child, id.to_owned()));
        }
    }
    bail!("world ended early ({})", child.wait()?)
}

#[test]
fn two_runs_side_by_side_do_not_meet() -> Result<()> {
    needs!();
    let (left, right) = (Topology::with_nodes("left", &["a"])?, Topology::with_nodes("right", &["a"])?);
    let (one, other) = (left.pod("pod").on(left.node("a"))?, right.pod("pod").on(right.node("a"))?);
    assert_eq!(one.v4, other.v4, "the same addresses in both");
    let _echo = apps::probe(&one, "echo", 7000, &[])?;
    drop(left.outside().dial(one.at(7000))?);
    let refused = right.outside().dial(other.at(7000)).expect_err("nothing listens over there");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    // Both may listen on the same port at the same time.
    let listeners: [TcpListener; 2] = [one.listen(7001)?, other.listen(7001)?];
    drop(listeners);
    drop(left);
    let listener = other.listen(7002)?;
    drop(right.outside().dial(other.at(7002))?);
    listener.accept().context("the other run still works")?;
    Ok(())
}

#[test]
fn a_program_that_is_not_there_or_ends_early_is_named() -> Result<()> {
    needs!();
    let world = Topology::with_nodes("early", &["a"])?;
    let node = world.node("a");
    let error = node.command("weft-no-such-program").start().map(drop).unwrap_err();
    assert_eq!(error.to_string(), "weft-no-such-program is not installed");
    let probe = node.command(&built("probe")?).args(["say", "127.0.0.1:1"]);
    // A backtrace would push the error out of the end of the log that is shown.
    let mut probe = probe.env("RUST_BACKTRACE", "0").start()?;
    let error = format!("{:#}", probe.wait_listens(7000).unwrap_err());
    assert!(error.contains("it ended") && error.contains("Connection refused"), "{error}");
    Ok(())
}

/// Whatever carries the id: one entry per kind.
fn traces(id: &str) -> Result<Vec<String>> {
    let mut traces = Vec::new();
    let namespaces = leftovers::namespaces(id)?;
    if !namespaces.is_empty() {
        traces.push(format!("netns {namespaces:?}"));
    }
    let cgroup = leftovers::cgroup2_mount()?.join(id);
    if cgroup.exists() {
        traces.push(format!("cgroup {}", cgroup.display()));
    }
    let mounts = fs::read_to_string("/proc/mounts")?;
    if mounts.lines().any(|line| line.contains(&format!("/{id}/"))) {
        traces.push("mount".to_owned());
    }
    let state = std::path::Path::new(leftovers::RUNS).join(id);
    if state.exists() {
        traces.push(format!("state {}", state.display()));
    }
    Ok(traces)
}

/// Kinds of traces that a run has while it lives.
const KINDS: usize = 4;

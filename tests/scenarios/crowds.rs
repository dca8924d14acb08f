//! Many connections at once, and some that stand still.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_tests::apps;
use weft_tests::mesh::{self, Mesh, Setup};
use weft_tests::needs;
use weft_tests::pair::Pair;
use weft_tests::program::built;
use weft_tests::wait::{PATIENCE, accepted, until};

/// One worker, so that everything shares its tunnels.
fn one_worker() -> Setup {
    Setup::default().agent("WORKER_THREADS", "1")
}

/// How long each of 1,000 connections took to open, ask and be answered, twenty of them at a time; the longest last.
fn quick(pair: &Pair, to: SocketAddr) -> Result<Vec<Duration>> {
    let (begun, took) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(QUICK)));
    thread::scope(|scope| -> Result<()> {
        let asking: Vec<_> = (0..20)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while begun.fetch_add(1, Ordering::Relaxed) < QUICK {
                        let begun = Instant::now();
                        let mut stream = pair.web.dial(to)?;
                        stream.set_read_timeout(Some(PATIENCE))?;
                        stream.write_all(&[b'?'; 1000])?;
                        stream.read_exact(&mut [0; 1000])?;
                        took.lock().expect("nobody panics while holding it").push(begun.elapsed());
                    }
                    Ok(())
                })
            })
            .collect();
        asking.into_iter().try_for_each(|asking| asking.join().expect("asking does not panic"))
    })?;
    let mut took = took.into_inner().expect("nobody panics while holding it");
    took.sort();
    ensure!(took.len() == QUICK, "only {} came back", took.len());
    Ok(took)
}

/// Fills a connection in both directions until neither end takes any more. Neither ever reads.
fn stuck(pair: &Pair, listener: &std::net::TcpListener, to: SocketAddr) -> Result<[TcpStream; 2]> {
    let near = pair.web.dial(to)?;
    let (far, _) = accepted(listener)?;
    for mut end in [&near, &far] {
        end.set_write_timeout(Some(Duration::from_millis(300)))?;
        let mut sent = 0;
        while let Ok(more) = end.write(&[b'x'; 64 << 10]) {
            sent += more;
            ensure!(sent < 1 << 30, "an end that is not read takes a gibibyte");
        }
    }
    Ok([near, far])
}

fn quick_beside_stuck(name: &str, count: usize) -> Result<()> {
    let pair = Pair::with_setup(name, one_worker())?;
    let _echo = apps::probe(&pair.db, "echo", 7000, &[])?;
    let listener = pair.db.listen(7001)?;
    let to = pair.db.at(7000);
    quick(&pair, to)?;
    let alone = quick(&pair, to)?;
    let stuck: Vec<_> = (0..count).map(|_| stuck(&pair, &listener, pair.db.at(7001))).collect::<Result<_>>()?;
    let beside = quick(&pair, to)?;
    let of = |took: &[Duration]| [took[QUICK / 2], took[QUICK * 99 / 100], took[QUICK - 1]];
    println!("p50, p99, slowest alone {:?}; beside {count} stuck {:?}", of(&alone), of(&beside));
    for node in ["a", "b"] {
        left(&pair.mesh, node, count)?;
    }
    // A queue behind somebody who is stuck would last until these give up; the rest is how busy the machine is.
    ensure!(beside[QUICK / 2] < alone[QUICK / 2] * 5 + Duration::from_millis(50), "most are slower");
    ensure!(beside[QUICK - 1] < alone[QUICK - 1] * 5 + Duration::from_secs(1), "the slowest is slower");
    drop(stuck);
    for node in ["a", "b"] {
        left(&pair.mesh, node, 0)?;
    }
    Ok(())
}

#[test]
fn a_reader_that_is_stuck_does_not_slow_a_thousand_quick_connections() -> Result<()> {
    needs!();
    quick_beside_stuck("stuck", 1)
}

#[test]
fn twenty_stuck_readers_of_one_tunnel_do_not_slow_the_others() -> Result<()> {
    needs!();
    quick_beside_stuck("twenty", 20)
}

#[test]
fn readers_that_are_stuck_hold_little_of_an_agents_memory() -> Result<()> {
    needs!();
    let pair = Pair::with_setup("held_back", one_worker())?;
    // So that it is not the kernel that holds most.
    for pod in [&pair.web, &pair.db] {
        pod.netns().sysctl(&[("ipv4/tcp_rmem", "4096 16384 65536"), ("ipv4/tcp_wmem", "4096 16384 65536")])?;
    }
    let listener = pair.db.listen(7001)?;
    let fill = |count: usize| -> Result<Vec<[TcpStream; 2]>> {
        thread::scope(|scope| {
            let some =
                || (0..count / FILLING).map(|_| stuck(&pair, &listener, pair.db.at(7001))).collect::<Result<Vec<_>>>();
            let threads: Vec<_> = (0..FILLING).map(|_| scope.spawn(some)).collect();
            let filled = threads.into_iter().map(|thread| thread.join().expect("filling does not panic"));
            Ok(filled.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
        })
    };
    let few = fill(FEW)?;
    let before = [footprint(&pair.mesh, "a")?, footprint(&pair.mesh, "b")?];
    let many = fill(MANY)?;
    for (node, before) in ["a", "b"].into_iter().zip(before) {
        left(&pair.mesh, node, FEW + MANY)?;
        let held = footprint(&pair.mesh, node)?;
        let each = held.resident.saturating_sub(before.resident) as f64 / MANY as f64;
        println!("agent {node}: {before:?}, then {held:?}: {each:.1} KiB for each that is stuck");
        // A record for either direction, which is 33 KiB, and what an idle connection has; a batch is 129 KiB. What is stuck in a
        // tunnel that carries others too is taken off it, as far as the stream's window lets it come.
        let window = if mesh::transport().as_deref() == Some("hbone") { 256.0 } else { 0.0 };
        ensure!(each <= 64.0 + window, "agent {node} holds {each:.1} KiB for each connection that is stuck");
    }
    drop((few, many));
    for node in ["a", "b"] {
        left(&pair.mesh, node, 0)?;
    }
    Ok(())
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_leave_nothing() -> Result<()> {
    needs!();
    let pair = Pair::open("crowd")?;
    let _echo = apps::probe(&pair.db, "echo", 7000, &[])?;
    hold(&pair, 200, || Ok(()))?;
    for node in ["a", "b"] {
        left(&pair.mesh, node, 0)?;
    }
    let before = [footprint(&pair.mesh, "a")?, footprint(&pair.mesh, "b")?];
    let mut held = before;
    hold(&pair, CROWD, || {
        for node in ["a", "b"] {
            let open = connections(&pair.mesh, node)?.len();
            ensure!(open == CROWD, "{node} carries {open}");
        }
        held = [footprint(&pair.mesh, "a")?, footprint(&pair.mesh, "b")?];
        Ok(())
    })?;
    for (node, (before, held)) in ["a", "b"].iter().zip(before.iter().zip(&held)) {
        let each = (held.resident.saturating_sub(before.resident)) as f64 / CROWD as f64;
        println!("agent {node}: {before:?}, then {held:?}: {each:.1} KiB for each connection");
        ensure!(each <= 12.0, "agent {node} holds {each:.1} KiB for each connection");
    }
    for node in ["a", "b"] {
        left(&pair.mesh, node, 0)?;
    }
    // A shared tunnel carries 200 connections; it and some lanes are kept for a while for the next ones.
    for (node, before) in ["a", "b"].into_iter().zip(before) {
        let now = footprint(&pair.mesh, node)?;
        let kept = CROWD / 200 + TUNNELS_NOT_FULL + LANES_KEPT;
        ensure!(now.descriptors <= before.descriptors + kept, "agent {node} holds {now:?}");
    }
    for (node, before) in ["a", "b"].into_iter().zip(before) {
        let mut last = 0;
        let waited = until(&format!("{node} to close idle tunnels"), Duration::from_secs(150), || {
            last = footprint(&pair.mesh, node).ok()?.descriptors;
            (last <= before.descriptors).then_some(())
        });
        waited.with_context(|| format!("it holds {last} descriptors, {} at first", before.descriptors))?;
    }
    Ok(())
}

/// Opens `count` connections to the echo server, calls `meanwhile`, proves that each is alive, and closes them.
fn hold(pair: &Pair, count: usize, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let (mut line, far_end) = UnixStream::pair()?;
    let begun = Instant::now();
    let hold = pair.web.command(&built("probe")?).args(["hold", &pair.db.at(7000).to_string()]);
    let mut hold = hold.args(["--connections", &count.to_string()]).stdin(far_end).start()?;
    let mut says = |what: String| {
        until(&what, Duration::from_secs(240), || {
            let said = hold.log().contains(&what);
            (said || hold.ended().is_some()).then_some(said)
        })
        .and_then(|said| if said { Ok(()) } else { Err(anyhow::anyhow!("it ended: {}", hold.log())) })
    };
    says(format!("holding {count}"))?;
    println!("{count} opened in {:?}", begun.elapsed());
    meanwhile()?;
    line.write_all(b"\n")?;
    says(format!("all {count} alive"))?;
    drop(line);
    ensure!(hold.wait_exit(PATIENCE)?.success(), "{}", hold.log());
    Ok(())
}

/// What an agent's process holds.
#[derive(Clone, Copy, Debug)]
struct Footprint {
    /// KiB of memory.
    resident: usize,
    descriptors: usize,
}

fn footprint(mesh: &Mesh, node: &str) -> Result<Footprint> {
    let process = format!("/proc/{}", mesh.agent(node).program.pid());
    let status = fs::read_to_string(format!("{process}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let resident = resident.trim().trim_end_matches(" kB").parse()?;
    Ok(Footprint { resident, descriptors: fs::read_dir(format!("{process}/fd"))?.count() })
}

/// Waits until the agent of `node` carries `count` connections and no more.
fn left(mesh: &Mesh, node: &str, count: usize) -> Result<()> {
    let mut last = 0;
    let waited = until(&format!("{node} to carry {count}"), PATIENCE, || {
        last = connections(mesh, node).ok()?.len();
        (last == count).then_some(())
    });
    waited.with_context(|| format!("it carries {last}"))
}

fn connections(mesh: &Mesh, node: &str) -> Result<Vec<Value>> {
    mesh.connections(node, "carried")
}

const QUICK: usize = 1_000;
/// So many have a batch of records in hand.
const FEW: usize = 60;
const MANY: usize = 300;
/// Threads that fill connections.
const FILLING: usize = 20;
const CROWD: usize = 10_000;
/// Tunnels that take the rest, and those that opened because others were full for a moment.
const TUNNELS_NOT_FULL: usize = 20;
/// By two workers, 256 each.
const LANES_KEPT: usize = 512;

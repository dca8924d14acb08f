//! `cargo xtask soak`: many bytes in every manner over every path, then churn beside bulk for minutes, and what is left of it.
//!
//! Keys are renewed every 4 MiB, so that a long transfer meets thousands of renewals.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::apps;
use crate::bulk::{Manner, between};
use crate::mesh::{Mesh, Setup};
use crate::needs::lacking;
use crate::outcome::{Outcome, ask};
use crate::pod::Pod;
use crate::run::take_down_on_signals;
use crate::wait::{PATIENCE, accepted, until};

/// How much and how long.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// GiB over each path, half of it each way
    #[arg(long, default_value_t = 20.0)]
    gib: f64,
    /// Minutes of churn
    #[arg(long, default_value_t = 15.0)]
    minutes: f64,
    /// New connections in a second
    #[arg(long, default_value_t = 200)]
    rate: u32,
}

/// Client, server and the name of the path between them.
struct Line<'a> {
    name: &'static str,
    client: &'a Pod,
    server: &'a Pod,
}

/// Transfers, soaks, and says what does not hold.
///
/// # Errors
/// When the machine lacks something, or a part of the mesh does not come up or stops working.
pub fn run(plan: &Plan) -> Result<ExitCode> {
    take_down_on_signals();
    if let Some(lacking) = lacking(&[]) {
        bail!("{lacking}");
    }
    let setup = Setup::default()
        .agent("KEY_RECORDS", "256")
        .agent("LOG_LEVEL", "info,access=warn")
        .agent_of("c", "TRANSPORT", "hbone")
        .agent_of("d", "TRANSPORT", "hbone");
    let mesh = Mesh::with_setup("soak", &["a", "b", "c", "d"], setup)?;
    mesh.namespace("soak", true)?;
    let pod = |name, node| mesh.enrolled(mesh.pod(name).namespace("soak"), node);
    let (web, db, near) = (pod("web", "a")?, pod("db", "b")?, pod("near", "a")?);
    let (webh, dbh) = (pod("webh", "c")?, pod("dbh", "d")?);
    for pod in [&web, &db, &near, &webh, &dbh] {
        mesh.until_captured(pod)?;
    }
    let lines = [
        Line { name: "own transport", client: &web, server: &db },
        Line { name: "HBONE", client: &webh, server: &dbh },
        Line { name: "same node", client: &web, server: &near },
    ];
    for line in &lines {
        transfer(line, plan.gib).with_context(|| format!("transfer over {}", line.name))?;
    }
    let lasting = soak(plan, &mesh, &lines)?;
    println!("{}", if lasting { "everything held" } else { "NOT everything held" });
    Ok(if lasting { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every manner, both ways at once, and half-closes at every place where a record could end.
fn transfer(line: &Line<'_>, gib: f64) -> Result<()> {
    let listener = line.server.listen(TRANSFER)?;
    let pair = || -> Result<[TcpStream; 2]> {
        let client = line.client.dial(line.server.at(TRANSFER))?;
        let (server, _) = accepted(&listener)?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
        }
        Ok([client, server])
    };
    let both = |manner, bytes: [u64; 2]| -> Result<()> {
        let [client, server] = pair()?;
        let [near, far] = between(manner, [&client, &server], bytes, Duration::ZERO)?;
        ensure!([near.sent, near.received] == bytes && [far.received, far.sent] == bytes, "{near:?}, {far:?}");
        ensure!(
            near.sent_sha256 == far.received_sha256 && near.received_sha256 == far.sent_sha256,
            "{near:?}, {far:?}"
        );
        Ok(())
    };
    let bytes = (gib * f64::from(1 << 30) / 2.0 / Manner::ALL.len() as f64) as u64;
    for manner in Manner::ALL {
        let begun = Instant::now();
        both(manner, [bytes; 2]).with_context(|| format!("{manner:?}"))?;
        println!(
            "{:<14} {manner:<9?} {} MiB each way, hashes equal, in {:.1?}",
            line.name,
            bytes >> 20,
            begun.elapsed()
        );
    }
    for size in EDGES {
        for other in [0, size] {
            both(Manner::Steady, [size, other]).with_context(|| format!("{size} and {other} bytes"))?;
        }
    }
    println!("{:<14} half-closes at {} sizes", line.name, EDGES.len());
    Ok(())
}

/// What an agent holds.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    resident_kib: u64,
    descriptors: usize,
    tasks: u64,
}

fn sample(mesh: &Mesh, node: &str, begun: Instant) -> Result<Sample> {
    let pid = mesh.agent(node).program.pid();
    // Before the agent is asked: a question is a descriptor, too.
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let metrics = mesh.admin(node, "/metrics")?;
    let tasks =
        metrics.lines().find_map(|line| line.strip_prefix("weft_worker_tasks ")).context("no weft_worker_tasks")?;
    Ok(Sample {
        at: begun.elapsed(),
        resident_kib: resident.trim().trim_end_matches(" kB").parse()?,
        descriptors,
        tasks: tasks.parse()?,
    })
}

fn soak(plan: &Plan, mesh: &Mesh, lines: &[Line<'_>; 3]) -> Result<bool> {
    let _echoes = lines.iter().map(|line| apps::probe(line.server, "echo", ECHO, &[])).collect::<Result<Vec<_>>>()?;
    for line in lines {
        ensure!(ask(line.client, line.server.at(ECHO)) == Outcome::Answered, "{}", line.name);
    }
    let (begun, length) = (Instant::now(), Duration::from_secs_f64(plan.minutes * 60.0));
    // What an agent makes for the first of anything, it keeps.
    churn(plan, mesh, lines, WARM)?;
    quiet(mesh)?;
    let before: BTreeMap<&str, Sample> =
        NODES.iter().map(|n| Ok((*n, sample(mesh, n, begun)?))).collect::<Result<_>>()?;
    println!(
        "churn: {} connections a second and a bulk stream on each path, for {:.1} minutes",
        plan.rate, plan.minutes
    );
    let Churned { made, failed, bytes, took, samples } = churn(plan, mesh, lines, length)?;
    println!(
        "{made} connections, {failed} failed, {:.0} a second; {} MiB of bulk",
        made as f64 / took.as_secs_f64(),
        bytes >> 20
    );
    quiet(mesh)?;
    let mut held = failed == 0;
    for node in NODES {
        let (before, after) = (before[node], sample(mesh, node, begun)?);
        let growth = growth(&samples[node]);
        let ok = growth.abs() <= 0.02 && after.descriptors <= before.descriptors && after.tasks <= before.tasks;
        held &= ok;
        println!(
            "agent {node}: resident memory {:+.2} % from the second third to the last ({} KiB at the end); \
             descriptors {} before, {} after; tasks {} before, {} after: {}",
            growth * 100.0,
            after.resident_kib,
            before.descriptors,
            after.descriptors,
            before.tasks,
            after.tasks,
            if ok { "held" } else { "NOT held" }
        );
    }
    Ok(held)
}

/// What came of some churn.
struct Churned {
    made: u64,
    failed: u64,
    bytes: u64,
    took: Duration,
    samples: BTreeMap<&'static str, Vec<Sample>>,
}

fn churn(plan: &Plan, mesh: &Mesh, lines: &[Line<'_>; 3], length: Duration) -> Result<Churned> {
    let (stop, made, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (mut samples, mut bytes) = (BTreeMap::<&str, Vec<Sample>>::new(), 0);
    let started = Instant::now();
    thread::scope(|scope| -> Result<()> {
        // Each path has its share, by threads that each keep a pace.
        let pace = Duration::from_secs_f64(CLIENTS as f64 * lines.len() as f64 / f64::from(plan.rate));
        for line in lines {
            let to = line.server.at(ECHO);
            for client in 0..CLIENTS {
                let (stop, made, failed) = (&stop, &made, &failed);
                scope.spawn(move || knock(line.client, to, pace, client, stop, made, failed));
            }
        }
        let bulks: Vec<_> = lines.iter().map(|line| scope.spawn(|| bulk(line, &stop))).collect();
        while started.elapsed() < length && bulks.iter().all(|bulk| !bulk.is_finished()) {
            thread::sleep(Duration::from_secs(5).min(length));
            for node in NODES {
                samples.entry(node).or_default().push(sample(mesh, node, started)?);
            }
        }
        stop.store(true, Ordering::Relaxed);
        for bulk in bulks {
            bytes += bulk.join().expect("the bulk does not panic")?;
        }
        Ok(())
    })?;
    let (made, failed) = (made.into_inner(), failed.into_inner());
    Ok(Churned { made, failed, bytes, took: started.elapsed(), samples })
}

/// Resident memory of the last third of the time against the second; the first is for warming up.
fn growth(samples: &[Sample]) -> f64 {
    let end = samples.last().map_or(Duration::ZERO, |last| last.at);
    let mean = |from: f64, to: f64| {
        let within = samples.iter().filter(|s| s.at > end.mul_f64(from) && s.at <= end.mul_f64(to));
        let all: Vec<f64> = within.map(|s| s.resident_kib as f64).collect();
        all.iter().sum::<f64>() / all.len().max(1) as f64
    };
    let (second, last) = (mean(1.0 / 3.0, 2.0 / 3.0), mean(2.0 / 3.0, 1.0));
    if second == 0.0 { 0.0 } else { last / second - 1.0 }
}

fn knock(
    from: &Pod,
    to: SocketAddr,
    pace: Duration,
    client: usize,
    stop: &AtomicBool,
    made: &AtomicU64,
    failed: &AtomicU64,
) {
    let begun = Instant::now() + pace.mul_f64(client as f64 / CLIENTS as f64);
    for turn in 0.. {
        thread::sleep((begun + pace * turn).saturating_duration_since(Instant::now()));
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let outcome = ask(from, to);
        made.fetch_add(1, Ordering::Relaxed);
        if outcome != Outcome::Answered {
            eprintln!("{} to {to}: {outcome:?}", from.name);
            failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One transfer after the other, hashes compared; yields the bytes.
fn bulk(line: &Line<'_>, stop: &AtomicBool) -> Result<u64> {
    let listener = line.server.listen(TRANSFER)?;
    let mut bytes = 0;
    while !stop.load(Ordering::Relaxed) {
        let client = line.client.dial(line.server.at(TRANSFER))?;
        let (server, _) = accepted(&listener)?;
        let [near, far] = between(Manner::Steady, [&client, &server], [PORTION, 0], Duration::from_millis(2))?;
        ensure!(near.sent_sha256 == far.received_sha256, "{}: {near:?}, {far:?}", line.name);
        bytes += PORTION;
    }
    Ok(bytes)
}

/// Waits until no agent carries anything or keeps a tunnel: pools let go of what was not used for 90 s.
fn quiet(mesh: &Mesh) -> Result<()> {
    for node in NODES {
        until(&format!("node {node} to be quiet"), Duration::from_secs(60), || {
            mesh.connections(node, "carried").ok()?.is_empty().then_some(())
        })?;
    }
    thread::sleep(POOLS);
    Ok(())
}

const NODES: [&str; 4] = ["a", "b", "c", "d"];
const TRANSFER: u16 = 7100;
const ECHO: u16 = 7000;
/// Clients of each path.
const CLIENTS: usize = 4;
/// Bytes of one transfer of the bulk.
const PORTION: u64 = 64 << 20;
/// An idle tunnel is kept for 90 s, and looked for every 15.
const POOLS: Duration = Duration::from_secs(130);
const WARM: Duration = Duration::from_secs(10);
/// Around the ends of records, frames and scratch memory.
const EDGES: [u64; 15] =
    [0, 1, 16_374, 16_375, 16_376, 16_383, 16_384, 16_385, 32_767, 32_769, 131_071, 131_072, 131_073, 262_144, 262_145];

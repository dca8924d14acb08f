//! A node's agent is replaced while its pods go on.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::Value;
use weft_tests::apps;
use weft_tests::footprint::footprint;
use weft_tests::held::Held;
use weft_tests::knock::{Knocking, ask};
use weft_tests::mesh::{Agent, Mesh, Setup};
use weft_tests::needs;
use weft_tests::pod::Pod;
use weft_tests::program::built;
use weft_tests::wait::{PATIENCE, until};

#[test]
fn a_successor_takes_every_new_connection_and_the_old_agent_finishes_its_own() -> Result<()> {
    needs!();
    let mut mesh = Mesh::with_nodes("upgrade", &["a", "b"])?;
    let (web, db) = shop(&mesh)?;
    let _servers = [apps::probe(&web, "echo", 7000, &[])?, apps::probe(&db, "echo", 7000, &[])?];
    let loops = [
        Knocking::begin(&web, &db.everywhere(7000)),
        Knocking::begin(&db, &web.everywhere(7000)),
        Knocking::begin(mesh.world.outside(), &web.everywhere(7000)),
    ];
    let all_go_on = || loops.iter().try_for_each(|knocking| knocking.until_answered(10));
    let live = [Held::begin(&web, db.at(7000))?, Held::begin(&db, web.at6(7000))?];
    let all_live = || live.iter().try_for_each(Held::check);
    all_go_on()?;

    let successor = beside(&mut mesh, "a", AFTER)?;
    until("the successor to be ready", PATIENCE, || mesh.admin_at("a", AFTER, "/healthz/ready").ok())
        .with_context(|| successor.program.log())?;
    all_go_on()?;
    all_live()?;
    until("a connection at the successor", PATIENCE, || (successor.accesses().len() > 20).then_some(()))?;
    let taken_over = format!("{:#}", mesh.admin("a", "/healthz/ready").expect_err("another agent has the pods"));
    assert!(taken_over.contains("taken over"), "{taken_over}");

    // Nothing new comes to the old one: it has the two live ones, and what it was asked for before has ended.
    until("the old agent to have two connections", PATIENCE, || (connections(&mesh, OLD).ok()? == 2).then_some(()))?;
    let old = &mut mesh.agents[0].program;
    old.signal(Signal::SIGTERM)?;
    let asked = Instant::now();
    until("the old agent not to be ready", PATIENCE, || mesh.admin("a", "/healthz/ready").is_err().then_some(()))?;
    let said = format!("{:#}", mesh.admin("a", "/healthz/ready").expect_err("it drains"));
    assert!(said.contains("503") && (said.contains("draining") || said.contains("taken over")), "{said}");
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    for _ in 0..3 {
        all_go_on()?;
        all_live()?;
    }
    drop(live);
    let status = mesh.agents[0].program.wait_exit(PATIENCE)?;
    assert_eq!(status.code(), Some(0), "{status}");
    all_go_on()?;
    mesh.none_failed(loops).with_context(|| successor.ended_badly())?;
    let warnings = mesh.agents[0].program.log().lines().filter(|line| line.contains("taken over")).count();
    assert_eq!(warnings, 1, "it says so once");
    drop(successor);
    Ok(())
}

#[test]
fn a_pod_that_leaves_the_mesh_during_an_update_keeps_what_the_old_agent_carries_and_no_rule_afterwards() -> Result<()> {
    needs!();
    leaving_during_an_update("upgrade_leave", |mesh| mesh.namespace("shop", false), |_| Ok(()))?;
    leaving_during_an_update("upgrade_left", |_| Ok(()), |mesh| mesh.namespace("shop", false))
}

/// Has web leave the mesh before or after a successor takes over, with a connection that the old agent carries.
fn leaving_during_an_update(
    name: &str,
    before: impl Fn(&Mesh) -> Result<()>,
    after: impl Fn(&Mesh) -> Result<()>,
) -> Result<()> {
    let mut mesh = Mesh::with_nodes(name, &["a", "b"])?;
    mesh.namespace("shop", false)?;
    let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
    let db = mesh.enrolled(mesh.pod("db").namespace("shop"), "b")?;
    let _servers = [apps::probe(&web, "echo", 7000, &[])?, apps::probe(&db, "echo", 7000, &[])?];
    let outside = footprint(&web)?;
    mesh.namespace("shop", true)?;
    mesh.until_captured(&web)?;
    mesh.until_captured(&db)?;
    let held = [Held::begin(&web, db.at(7000))?, Held::begin(&db, web.at6(7000))?];

    before(&mesh)?;
    let successor = beside(&mut mesh, "a", AFTER)?;
    until("the successor to be ready", PATIENCE, || mesh.admin_at("a", AFTER, "/healthz/ready").ok())
        .with_context(|| successor.program.log())?;
    after(&mesh)?;
    until("the successor to let go of the pod", PATIENCE, || {
        let config: Value = serde_json::from_str(&mesh.admin_at("a", AFTER, "/config").ok()?).ok()?;
        config["pods"].as_array()?.iter().any(|pod| pod["state"] == "outside").then_some(())
    })?;
    let knocking = Knocking::begin(&web, &db.everywhere(7000));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        held.iter().try_for_each(Held::check).with_context(|| {
            format!("{:.1} s after it left:\n{}", begun.elapsed().as_secs_f64(), successor.program.log())
        })?;
        thread::sleep(Duration::from_millis(50));
    }
    knocking.until_answered(10)?;
    mesh.none_failed([knocking])?;
    assert_ne!(footprint(&web)?, outside, "the comparison does not even see what the old agent needs");
    assert_eq!(connections(&mesh, OLD)?, 2);
    drop(held);
    // The old agent's listeners go with it: nothing is steered to them any more.
    let rules = |lines: BTreeSet<String>| lines.into_iter().filter(|line| !line.contains(" listener ")).collect();
    let (expected, now): (Vec<String>, _) = (rules(outside.clone()), || footprint(&web).map(rules));
    let same = until("no rule to be left in the pod", PATIENCE, || (now().ok()? == expected).then_some(()));
    same.with_context(|| format!("{:?}\n{}", now(), successor.program.log()))?;
    assert_eq!(mesh.agents[0].program.terminate()?.code(), Some(0));
    assert_eq!(footprint(&web)?, outside);
    let knocking = Knocking::begin(&web, &db.everywhere(7000));
    knocking.until_answered(10)?;
    mesh.none_failed([knocking])
}

#[test]
fn a_drain_ends_at_its_deadline_with_status_0() -> Result<()> {
    needs!();
    let mut mesh = Mesh::with_setup("upgrade_deadline", &["a", "b"], Setup::default().agent("DRAIN_SECONDS", "2"))?;
    let (web, db) = shop(&mesh)?;
    let _echo = apps::probe(&db, "echo", 7000, &[])?;
    let held = Held::begin(&web, db.at(7000))?;
    mesh.agents[0].program.signal(Signal::SIGTERM)?;
    let asked = Instant::now();
    until("the agent not to be ready", PATIENCE, || mesh.admin("a", "/healthz/ready").is_err().then_some(()))?;
    held.check()?;
    let status = mesh.agents[0].program.wait_exit(PATIENCE)?;
    let took = asked.elapsed();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!((Duration::from_secs(2)..Duration::from_secs(6)).contains(&took), "{took:?}");
    assert!(held.check().is_err(), "what is left is cut");
    assert!(mesh.agents[0].program.log().contains("deadline passed"));
    mesh.agents[0].until_access(&["agent_stopped"])?;
    Ok(())
}

#[test]
fn an_idle_agent_ends_at_once() -> Result<()> {
    needs!();
    let mut mesh = Mesh::with_nodes("upgrade_idle", &["a", "b"])?;
    let (web, db) = shop(&mesh)?;
    let _echo = apps::probe(&db, "echo", 7000, &[])?;
    Held::begin(&web, db.at(7000))?.check()?;
    until("no connections", PATIENCE, || (connections(&mesh, OLD).ok()? == 0).then_some(()))?;
    let asked = Instant::now();
    for agent in &mut mesh.agents {
        assert_eq!(agent.program.terminate()?.code(), Some(0));
    }
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    Ok(())
}

#[test]
fn sighup_changes_nothing() -> Result<()> {
    needs!();
    let mut mesh = Mesh::with_nodes("upgrade_hup", &["a", "b"])?;
    let (web, db) = shop(&mesh)?;
    let _echo = apps::probe(&db, "echo", 7000, &[])?;
    let knocking = Knocking::begin(&web, &db.everywhere(7000));
    let held = Held::begin(&web, db.at(7000))?;
    for _ in 0..3 {
        mesh.agents[0].program.signal(Signal::SIGHUP)?;
        mesh.agents[1].program.signal(Signal::SIGHUP)?;
        knocking.until_answered(20)?;
        held.check()?;
    }
    for agent in &mut mesh.agents {
        assert!(agent.program.ended().is_none());
    }
    mesh.admin("a", "/healthz/ready")?;
    mesh.none_failed([knocking])
}

#[test]
fn the_capabilities_of_the_unit_are_enough() -> Result<()> {
    needs!("setpriv");
    let unit = include_str!("../../deploy/systemd/weft-node.service");
    let named = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).context("capabilities")?;
    let kept: Vec<String> =
        named.split(' ').map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase())).collect();
    let mut through = ["setpriv", "--no-new-privs", "--bounding-set"].map(str::to_owned).to_vec();
    through.push(format!("-all,{}", kept.join(",")));
    let setup = Setup { through, ..Setup::default() };
    let mut mesh = Mesh::with_setup("upgrade_capabilities", &["a", "b"], setup)?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", mesh.agents[0].program.pid()))?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).context("its capabilities")?;
    assert_eq!(u64::from_str_radix(mask, 16)?.count_ones() as usize, kept.len(), "{mask}");
    let (web, db) = shop(&mesh)?;
    let _echo = apps::probe(&db, "echo", 7000, &[])?;
    // In, out, in again; and with an earlier agent's pins.
    for label in [true, false, true] {
        mesh.namespace("shop", label)?;
        let state = if label { "enrolled" } else { "outside" };
        for pod in [&web, &db] {
            mesh.until_config(&pod.node, state, |config| {
                let pods = config["pods"].as_array().into_iter().flatten();
                pods.into_iter().all(|entry| entry["state"] == state)
            })?;
        }
        for address in db.everywhere(7000) {
            ask(&web, address, "hello")?;
        }
    }
    mesh.agents[0].program.kill()?;
    mesh.agents[0] = mesh.start_agent("a")?;
    ask(&web, db.at(7000), "again")?;
    mesh.agents[0].until_access(&[&db.identity("cluster.local")])?;
    let log = mesh.agents[0].program.log();
    assert!(!log.contains("lacks a facility") && !log.contains("Operation not permitted"), "{log}");
    Ok(())
}

#[test]
fn remove_takes_the_mesh_off_a_node() -> Result<()> {
    needs!();
    let mut mesh = Mesh::with_nodes("upgrade_remove", &["a", "b"])?;
    mesh.namespace("shop", false)?;
    let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
    let db = mesh.pod("db").namespace("shop").on(mesh.world.node("b"))?;
    let _echo = apps::probe(&db, "echo", 7000, &[])?;
    ask(&web, db.at(7000), "before")?;
    let before = footprint(&web)?;
    mesh.namespace("shop", true)?;
    mesh.until_captured(&web)?;
    mesh.agents[0].program.kill()?;
    assert!(ask(&web, db.at(7000), "refused").is_err());
    let node = mesh.world.node("a");
    let pins = mesh.world.run().bpffs().join("a");
    let pods = mesh.world.run().cgroup().child(&node.pods_cgroup())?;
    let remove = node.command(&built("mesh-node")?).arg("remove").arg("--pin-dir").arg(&pins);
    remove.arg("--cgroup-root").arg(pods.dir()).stdout()?;
    assert_eq!(footprint(&web)?, before);
    assert!(!pins.exists(), "pins are left in {}", pins.display());
    for address in db.everywhere(7000) {
        ask(&web, address, "as before")?;
    }
    Ok(())
}

fn shop(mesh: &Mesh) -> Result<(Pod, Pod)> {
    mesh.namespace("shop", true)?;
    let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
    let db = mesh.enrolled(mesh.pod("db").namespace("shop"), "b")?;
    mesh.until_captured(&web)?;
    mesh.until_captured(&db)?;
    Ok((web, db))
}

/// A second agent on the node, with its admin endpoint on `port`; all else is as the first one has it.
fn beside(mesh: &mut Mesh, node: &str, port: u16) -> Result<Agent> {
    let before = mesh.setup.clone();
    mesh.setup = before.clone().agent("ADMIN_ADDRESS", &format!("127.0.0.1:{port}"));
    let successor = mesh.launch_agent(node);
    mesh.setup = before;
    successor
}

/// How many connections the agent of node a shows.
fn connections(mesh: &Mesh, port: u16) -> Result<usize> {
    Ok(mesh.connections_at("a", port, "carried")?.len())
}

/// Admin ports of the agent that is there, and of the one that comes.
const OLD: u16 = 15000;
const AFTER: u16 = 15001;

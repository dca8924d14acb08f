//! Who sends by a clock on nodes whose congestion control is BBR.

use anyhow::{Context, Result, ensure};
use weft_tests::held::Held;
use weft_tests::mesh::{Mesh, Setup};
use weft_tests::pod::Pod;
use weft_tests::{apps, needs, objects};

/// A pod of `shop` on `node`, whose namespace has BBR before the agent makes a socket in it; none on a kernel without BBR.
fn paced(mesh: &Mesh, name: &str, node: &str) -> Result<Option<Pod>> {
    let pod = mesh.pod(name).namespace("shop").on(mesh.world.node(node))?;
    if let Err(error) = pod.netns().sysctl(&[("ipv4/tcp_congestion_control", "bbr")]) {
        println!("skipped: {}: needs a kernel with BBR: {error:#}", module_path!());
        return Ok(None);
    }
    mesh.apply(&format!("pod-shop-{name}"), &objects::pod(&pod))?;
    mesh.enrol(&pod)?;
    Ok(Some(pod))
}

/// Congestion control of the pod's sockets, its own and its agent's, that have `port` at either end.
fn algorithms(pod: &Pod, port: u16) -> Result<Vec<String>> {
    let filter = format!("( sport = :{port} or dport = :{port} )");
    let lines = pod.command("ss").args(["-tinHO", "state", "established", &filter]).stdout()?;
    let known = ["bbr", "cubic", "reno"];
    let one = |line: &str| line.split_whitespace().find(|word| known.contains(word)).map(str::to_owned);
    lines.lines().map(|line| one(line).with_context(|| format!("no algorithm in {line:?}"))).collect()
}

#[test]
fn tunnels_over_a_short_path_are_not_paced_unless_the_agent_is_told_so() -> Result<()> {
    needs!("ss");
    let setup = Setup::default().agent("PACE_FROM_MICROS", "10000").agent_of("b", "PACE_FROM_MICROS", "0");
    let mesh = Mesh::with_setup("pacing", &["a", "b"], setup)?;
    mesh.namespace("shop", true)?;
    let Some(web) = paced(&mesh, "web", "a")? else { return Ok(()) };
    let Some(db) = paced(&mesh, "db", "b")? else { return Ok(()) };
    for pod in [&web, &db] {
        mesh.until_captured(pod)?;
    }
    let _echo = apps::probe(&db, "echo", 7000, &[])?;
    let held = Held::begin(&web, db.at(7000))?;

    assert_eq!(algorithms(&web, 15008)?, ["cubic"], "the end that dialled, whose agent has room for 10 ms");
    assert_eq!(algorithms(&db, 15008)?, ["bbr"], "the end that took it, whose agent is to leave all as it is");
    for pod in [&web, &db] {
        let ends = algorithms(pod, 7000)?;
        ensure!(ends == ["reno", "reno"], "application and agent of {}, within one host: {ends:?}", pod.name);
    }
    held.check()
}

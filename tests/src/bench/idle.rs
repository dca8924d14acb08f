//! What connections cost that do nothing, and how long an agent takes to start.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::figures::{Figures, Way};
use super::load::HOLD;
use super::machine::anonymous;
use super::stage::{load, many_ports, serve};
use super::{CLIENT_CORE, Plan};
use crate::mesh::Mesh;
use crate::wait::{PATIENCE, until};

/// A mesh of its own, so that no earlier load has left its memory in the agents.
pub(super) fn measure(plan: &Plan, figures: &mut Figures) -> Result<()> {
    let mut mesh = Mesh::with_setup("bench-idle", &["a", "b"], plan.setup()?)?;
    mesh.namespace("meshed", true)?;
    let pod = |name, node| mesh.enrolled(mesh.pod(name).namespace("meshed"), node);
    let (client, server) = (pod("client", "a")?, pod("server", "b")?);
    for pod in [&client, &server] {
        many_ports(pod)?;
        mesh.until_captured(pod)?;
    }
    let serving = serve(&server)?;
    let hold = |connections: usize| -> Result<_> {
        let (input, far_end) = UnixStream::pair()?;
        let to = server.at(HOLD).to_string();
        let launch = load(&client)?.args(["hold", "--connections", &connections.to_string(), &to]);
        let mut holding = launch.stdin(far_end).on_core(CLIENT_CORE).start()?;
        let wait = Duration::from_secs(120);
        let line = format!("holding {connections}");
        until("connections to be held", wait, || match (holding.log().contains(&line), holding.ended()) {
            (true, _) => Some(Ok(())),
            (false, Some(status)) => Some(Err(anyhow::anyhow!("{status}: {}", holding.log()))),
            (false, None) => None,
        })??;
        Ok((input, holding))
    };
    let memory = |mesh: &Mesh| -> Result<Vec<f64>> {
        ["a", "b"].iter().map(|node| anonymous(mesh.agent(node).program.pid())).collect()
    };

    // The first connection brings the tunnel's own memory.
    drop(hold(1)?);
    let connections = plan.connections();
    let before = memory(&mesh)?;
    let held = hold(connections)?;
    let after = memory(&mesh)?;
    drop(held);
    for (node, (before, after)) in ["client's", "server's"].iter().zip(before.iter().zip(&after)) {
        let each = (after - before) / connections as f64 / 1024.0;
        let what = format!("memory of an idle connection, {node} agent ({connections} of them)");
        figures.add("each agent", &what, "KiB", Way::Agents, each);
    }

    // It never closes what it holds, and an agent waits for its connections.
    drop(serving);
    for node in ["a", "b"] {
        let none = || mesh.connections(node, "carried").ok()?.is_empty().then_some(());
        until(&format!("the connections of node {node} to end"), PATIENCE, none)?;
    }
    for _ in 0..plan.repetitions() {
        let mut agent = mesh.agents.pop().expect("two agents run");
        let node = agent.node.clone();
        agent.program.terminate()?;
        let begun = Instant::now();
        let agent = mesh.launch_agent(&node)?;
        until("the agent to be ready", PATIENCE, || mesh.admin(&node, "/healthz/ready").ok())?;
        figures.add(
            "each agent",
            "start to ready, a pod adopted",
            "ms",
            Way::Agents,
            begun.elapsed().as_secs_f64() * 1e3,
        );
        mesh.agents.push(agent);
    }
    Ok(())
}

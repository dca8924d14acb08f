//! Direct connections while agents die, come back and cannot try.

use anyhow::{Context, Result, ensure};
use weft_tests::mesh::Setup;
use weft_tests::needs;
use weft_tests::objects::security;
use weft_tests::outcome::Outcome::{Answered, Refused, Reset};
use weft_tests::outcome::{ask, prove};
use weft_tests::wait::{PATIENCE, until};

use super::{ECHO, World, hold};

#[test]
fn without_an_agent_verdicts_hold_and_with_the_next_all_is_accounted_for() -> Result<()> {
    needs!();
    let mut world = World::open("same_node_killed")?;
    let shell = world.mesh.enrolled(world.mesh.pod("shell").namespace("dev"), "a")?;
    world.mesh.namespace("dev", true)?;
    world.mesh.until_captured(&shell)?;
    let not_dev = "{action: DENY, rules: [{from: [{source: {namespaces: [dev]}}]}]}";
    world.policy(&security("AuthorizationPolicy", "prod", "no-dev", not_dev))?;
    world.until_verdicts(10)?;
    let before = hold(&world.web, world.db.at(ECHO))?;
    world.until_direct(2)?;
    let at = world.index();
    world.mesh.agents[at].program.kill()?;
    prove(&before).context("without an agent")?;
    let ends_meanwhile = hold(&world.web, world.db.at6(ECHO)).context("begun without an agent")?;
    let ended = ends_meanwhile.local_addr()?.to_string();
    drop(ends_meanwhile);
    let meanwhile = hold(&world.web, world.db.at6(ECHO)).context("begun without an agent")?;
    for to in world.db.everywhere(ECHO) {
        assert_eq!(ask(&shell, to), Refused, "it was not allowed before either");
    }
    world.mesh.agents[at] = world.mesh.start_agent("a")?;
    for pod in [&world.web, &world.db, &shell] {
        world.mesh.until_captured(pod)?;
    }
    world.until_verdicts(10)?;
    world.until_direct(4)?;
    let agent = world.mesh.agent("a");
    let line = agent.until_access(&[&ended, "inbound", "\"reason\":\"complete\""])?;
    assert_eq!((&line["bytes_recv"], &line["bytes_sent"]), (&14.into(), &14.into()), "{line:#}");
    assert_eq!(line["src.identity"], *world.web.identity("cluster.local"), "{line:#}");
    for (stream, bytes) in [(before, 42), (meanwhile, 28)] {
        prove(&stream).context("with the next agent")?;
        let client = stream.local_addr()?.to_string();
        drop(stream);
        let line = agent.until_access(&[&client, "inbound", "\"reason\":\"complete\""])?;
        assert_eq!((&line["bytes_recv"], &line["bytes_sent"]), (&bytes.into(), &bytes.into()), "{line:#}");
    }
    assert_eq!(ask(&shell, world.db.at(ECHO)), Reset);
    world.until_direct(0)?;
    ensure!(world.rows("outside")?.is_empty(), "they were never outside of the mesh");
    Ok(())
}

#[test]
fn an_agent_that_is_replaced_leaves_its_connections_to_the_next() -> Result<()> {
    needs!();
    let mut world = World::open("same_node_replaced")?;
    world.until_verdicts(4)?;
    let live = hold(&world.web, world.db.at(ECHO))?;
    let client = live.local_addr()?.to_string();
    world.until_direct(2)?;
    let at = world.index();
    let status = world.mesh.agents[at].program.terminate()?;
    ensure!(status.success(), "{status}: there is nothing to drain");
    let lines = world.mesh.agents[at].accesses();
    ensure!(lines.iter().all(|line| !line.to_string().contains(&client)), "it goes on: {lines:#?}");
    prove(&live).context("between two agents")?;
    world.mesh.agents[at] = world.mesh.start_agent("a")?;
    world.until_direct(2)?;
    prove(&live).context("with the next agent")?;
    drop(live);
    for direction in ["inbound", "outbound"] {
        let facts = [&*client, direction, "kernel_attested", "\"reason\":\"complete\""];
        let line = world.mesh.agent("a").until_access(&facts)?;
        assert_eq!((&line["bytes_recv"], &line["bytes_sent"]), (&42.into(), &42.into()), "{line:#}");
    }
    Ok(())
}

#[test]
fn verdicts_of_a_dead_agent_grow_too_old() -> Result<()> {
    needs!();
    let mut world = World::with_setup("same_node_old", Setup::default().agent("SAME_NODE_SECONDS", "3"))?;
    world.until_verdicts(4)?;
    let live = hold(&world.web, world.db.at(ECHO))?;
    let at = world.index();
    world.mesh.agents[at].program.kill()?;
    hold(&world.web, world.db.at6(ECHO)).context("at once")?;
    for to in world.db.everywhere(ECHO) {
        until("verdicts to be too old", PATIENCE, || (ask(&world.web, to) == Refused).then_some(()))?;
    }
    prove(&live).context("what is open goes on")?;
    Ok(())
}

#[test]
fn an_agent_that_cannot_try_it_carries_everything_and_says_so() -> Result<()> {
    needs!();
    let mut world = World::open("same_node_untried")?;
    world.until_verdicts(4)?;
    let at = world.index();
    world.mesh.agents[at].program.kill()?;
    // No room for the cgroup of the trial's application.
    let pods = world.mesh.world.run().cgroup().child(&world.mesh.world.node("a").pods_cgroup())?;
    std::fs::write(pods.dir().join("cgroup.max.descendants"), "0")?;
    world.mesh.agents[at] = world.mesh.start_agent("a")?;
    for pod in [&world.web, &world.db] {
        world.mesh.until_captured(pod)?;
    }
    world.until_verdicts(0)?;
    ensure!(world.mesh.admin("a", "/metrics")?.contains("\nweft_same_node_active 0\n"));
    ensure!(world.mesh.agent("a").program.log().contains("did not pass their trial"));
    for to in world.db.everywhere(ECHO) {
        assert_eq!(ask(&world.web, to), Answered);
    }
    world.mesh.agent("a").until_access(&["mutual_tls", "\"reason\":\"complete\"", "inbound"])?;
    ensure!(world.rows("direct")?.is_empty());
    Ok(())
}

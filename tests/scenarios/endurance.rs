//! Agents and controllers that die, come back, or are not there yet.

use std::fs;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use serde_json::Value;
use weft_tests::apps;
use weft_tests::held::Held;
use weft_tests::knock::{Knocking, ask};
use weft_tests::mesh::Mesh;
use weft_tests::needs;
use weft_tests::objects;
use weft_tests::place::Place;
use weft_tests::pod::Pod;
use weft_tests::program::Program;
use weft_tests::wait::{PATIENCE, until};

#[test]
fn a_dead_agents_pods_are_refused_at_once_until_the_next_one_has_them_again() -> Result<()> {
    needs!();
    let mut mesh = Mesh::with_nodes("endurance_agent", &["a", "b"])?;
    let shop = Shop::open(&mesh)?;
    let strangers = [
        mesh.pod("stranger").namespace("elsewhere").on(mesh.world.node("a"))?,
        mesh.pod("stranger").namespace("afar").on(mesh.world.node("b"))?,
    ];
    let _servers = [apps::probe(&strangers[0], "echo", 7000, &[])?, apps::probe(&strangers[1], "echo", 7000, &[])?];
    let untouched = Knocking::begin(&strangers[0], &strangers[1].everywhere(7000));
    let untouched_too = Knocking::begin(&strangers[1], &strangers[0].everywhere(7000));
    shop.works()?;
    for round in 0..2 {
        until("web and near to do without the agent", PATIENCE, || {
            mesh.admin("a", "/metrics").ok()?.contains("\nweft_same_node_verdicts 4\n").then_some(())
        })?;
        mesh.agents[0].program.kill()?;
        untouched.until_answered(10)?;
        untouched_too.until_answered(10)?;
        // What policy lets talk within the node goes on.
        for address in shop.near.everywhere(7000) {
            ask(&shop.web, address, "still").with_context(|| format!("round {round}"))?;
        }
        // Out of the pod: to the mesh, to a stranger. Into the pod: from a stranger, from the node.
        for (client, to) in [
            (&*shop.web, shop.db.everywhere(7000)),
            (&*shop.web, strangers[1].everywhere(7000)),
            (&*strangers[0], shop.web.everywhere(7000)),
            (&*strangers[1], shop.web.everywhere(7000)),
            (&**mesh.world.node("a"), shop.web.everywhere(7000)),
            (mesh.world.outside(), shop.web.everywhere(7000)),
        ] {
            for address in to {
                refused_at_once(client, address).with_context(|| format!("round {round}"))?;
            }
        }
        // Through the other agent, which tries for as long as an agent takes to start.
        let late = Knocking::begin(&shop.db, &shop.web.everywhere(7000));
        let begun = Instant::now();
        mesh.agents[0] = mesh.launch_agent("a")?;
        until("a request to be answered again", PATIENCE, || ask(&shop.web, shop.db.at(7000), "back").ok())?;
        let recovered = begun.elapsed();
        println!("recovered after {recovered:?}");
        assert!(recovered < Duration::from_secs(2), "{recovered:?}");
        until("readiness", PATIENCE, || mesh.admin("a", "/healthz/ready").ok())?;
        let config: Value = serde_json::from_str(&mesh.admin("a", "/config")?)?;
        assert_eq!(states(&config), ["shop/near enrolled", "shop/web enrolled"], "ready, so all are in the mesh");
        late.until_answered(4)?;
        late.none_failed()?;
        shop.works()?;
    }
    untouched.none_failed()?;
    untouched_too.none_failed()?;
    Ok(())
}

#[test]
fn a_dead_controller_is_missed_by_nobody_but_newcomers() -> Result<()> {
    needs!();
    let mut mesh = Mesh::with_nodes("endurance_ctrl", &["a", "b"])?;
    let shop = Shop::open(&mesh)?;
    let loops =
        [Knocking::begin(&shop.web, &shop.db.everywhere(7000)), Knocking::begin(&shop.db, &shop.web.everywhere(7000))];
    let all_go_on = || loops.iter().try_for_each(|knocking| knocking.until_answered(10));
    let live = Held::begin(&shop.web, shop.db.at(7000))?;
    all_go_on()?;
    mesh.controller.kill()?;
    all_go_on()?;
    live.check()?;
    // Ready: what it has is enough to go on.
    mesh.admin("a", "/healthz/ready")?;

    let new = mesh.pod("new").namespace("shop").on(mesh.world.node("a"))?;
    mesh.apply("pod-shop-new", &objects::pod(&new))?;
    let enrolling = mesh.enrol_output(&new)?;
    ensure!(enrolling.status.success(), "{enrolling:?}");
    let said = String::from_utf8_lossy(&enrolling.stderr).into_owned();
    assert!(said.contains("not in the mesh yet") && said.contains("control plane"), "{said}");
    let entry = entry(&mesh, "a", "new")?;
    assert_eq!(entry["state"], "waiting", "{entry}");
    assert!(entry["waiting_for"].as_str().is_some_and(|why| why.contains("control plane")), "{entry}");
    let ready = format!("{:#}", mesh.admin("a", "/healthz/ready").expect_err("a pod waits"));
    assert!(ready.contains("503") && ready.contains("shop/new"), "{ready}");

    mesh.restart_controller()?;
    mesh.until_captured(&new)?;
    ask(&new, shop.db.at(7000), "in the mesh")?;
    mesh.agents[1].until_access(&[&new.identity("cluster.local")])?;
    live.check()?;
    all_go_on()?;
    // The new pod, told to both agents; nothing that they had.
    assert_eq!(resources_sent(&mesh)?, 2);
    mesh.none_failed(loops)
}

#[test]
fn a_controller_that_comes_back_sends_only_what_changed_removals_too() -> Result<()> {
    needs!();
    let mut mesh = Mesh::with_nodes("endurance_resume", &["a", "b"])?;
    let shop = Shop::open(&mesh)?;
    let gone = mesh.enrolled(mesh.pod("gone").namespace("shop"), "b")?;
    mesh.until_captured(&gone)?;
    mesh.apply(
        "deny",
        &objects::deny("shop", "no-near", "db", &[shop.near.identity("cluster.local").trim_start_matches("spiffe://")]),
    )?;
    for node in ["a", "b"] {
        mesh.until_config(node, "the policy", |config| has_policy(config, "no-near"))?;
    }
    assert!(ask(&shop.near, shop.db.at(7000), "denied").is_err());

    mesh.controller.kill()?;
    mesh.restart_controller()?;
    until_up_to_date(&mesh, 2)?;
    assert_eq!(resources_sent(&mesh)?, 0, "nothing changed");

    mesh.controller.kill()?;
    mesh.source.delete("deny")?;
    mesh.source.delete("pod-shop-gone")?;
    let later = mesh.pod("later").namespace("shop").on(mesh.world.node("a"))?;
    mesh.apply("pod-shop-later", &objects::pod(&later))?;
    mesh.restart_controller()?;
    for node in ["a", "b"] {
        mesh.until_config(node, "what changed meanwhile", |config| {
            let names: Vec<&str> =
                config["workloads"].as_array().into_iter().flatten().filter_map(|w| w["name"].as_str()).collect();
            names.contains(&"later") && !names.contains(&"gone") && !has_policy(config, "no-near")
        })?;
    }
    ask(&shop.near, shop.db.at(7000), "allowed again")?;
    // The new pod, and db, which lists one policy less; to two agents.
    assert_eq!(resources_sent(&mesh)?, 4);
    shop.works()
}

#[test]
fn an_agent_that_starts_without_a_controller_waits_and_says_so() -> Result<()> {
    needs!();
    let mut mesh = Mesh::with_nodes("endurance_alone", &["a", "b"])?;
    let shop = Shop::open(&mesh)?;
    mesh.controller.kill()?;
    mesh.agents[0].program.kill()?;
    mesh.agents[0] = mesh.launch_agent("a")?;
    until("the admin endpoint", PATIENCE, || mesh.admin("a", "/config").ok())?;
    let said = format!("{:#}", mesh.admin("a", "/healthz/ready").expect_err("it knows nothing of the mesh"));
    assert!(said.contains("503") && said.contains("control stream"), "{said}");
    // Its pods are not in the clear meanwhile, and not left hanging either.
    for address in shop.db.everywhere(7000) {
        refused_at_once(&shop.web, address)?;
    }
    mesh.agents[0].program.wait_logs("control stream")?;
    mesh.restart_controller()?;
    until("readiness", PATIENCE, || mesh.admin("a", "/healthz/ready").ok())?;
    shop.works()
}

#[test]
fn a_full_disk_costs_the_record_of_pods_and_nothing_else() -> Result<()> {
    needs!();
    let mut mesh = Mesh::with_nodes("endurance_full", &["a", "b"])?;
    let shop = Shop::open(&mesh)?;
    mesh.agents[0].program.kill()?;
    let run_dir = mesh.agents[0].run_dir().to_owned();
    mount(Some("tmpfs"), &run_dir, Some("tmpfs"), MsFlags::empty(), Some("size=16k"))
        .with_context(|| format!("mount a small tmpfs at {}", run_dir.display()))?;
    mesh.agents[0] = mesh.start_agent("a")?;
    let full = fs::write(run_dir.join("filler"), vec![0; 64 << 10]).expect_err("it does not fit");
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    for pod in [&shop.web, &shop.near] {
        mesh.enrol(pod)?;
        mesh.until_captured(pod)?;
    }
    shop.works()?;
    mesh.agents[0].program.wait_logs("after a restart pods must be enrolled anew")?;
    mesh.admin("a", "/healthz/ready")?;
    Ok(())
}

/// Two pods on node a and one on node b, all in the mesh, all echoing.
struct Shop {
    web: Pod,
    near: Pod,
    db: Pod,
    _servers: [Program; 3],
}

impl Shop {
    fn open(mesh: &Mesh) -> Result<Shop> {
        mesh.namespace("shop", true)?;
        let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
        let near = mesh.enrolled(mesh.pod("near").namespace("shop"), "a")?;
        let db = mesh.enrolled(mesh.pod("db").namespace("shop"), "b")?;
        for pod in [&web, &near, &db] {
            mesh.until_captured(pod)?;
        }
        let echo = |pod: &Pod| apps::probe(pod, "echo", 7000, &[]);
        let servers = [echo(&web)?, echo(&near)?, echo(&db)?];
        Ok(Shop { web, near, db, _servers: servers })
    }

    /// Every pod reaches every other.
    fn works(&self) -> Result<()> {
        let pods = [&self.web, &self.near, &self.db];
        for client in pods {
            for server in pods.into_iter().filter(|server| server.name != client.name) {
                for address in server.everywhere(7000) {
                    ask(client, address, "hello").with_context(|| format!("{} asks {address}", client.name))?;
                }
            }
        }
        Ok(())
    }
}

fn refused_at_once(from: &Place, to: std::net::SocketAddr) -> Result<()> {
    let begun = Instant::now();
    let refused = match from.dial(to) {
        Ok(_) => anyhow::bail!("{} reached {to} with no agent to carry it", from.name()),
        Err(error) => error.kind(),
    };
    let took = begun.elapsed();
    ensure!(refused == ErrorKind::ConnectionRefused, "{} to {to}: {refused}", from.name());
    ensure!(took < Duration::from_millis(900), "{} to {to}: refused after {took:?}", from.name());
    Ok(())
}

/// What `/config` says of a pod of the node.
fn entry(mesh: &Mesh, node: &str, name: &str) -> Result<Value> {
    let config: Value = serde_json::from_str(&mesh.admin(node, "/config")?)?;
    let entry = config["pods"].as_array().into_iter().flatten().find(|entry| entry["name"] == *name);
    entry.cloned().with_context(|| format!("{name} is not in {config:#}"))
}

fn has_policy(config: &Value, name: &str) -> bool {
    config["policies"].as_array().into_iter().flatten().any(|policy| policy["key"]["name"] == *name)
}

fn states(config: &Value) -> Vec<String> {
    let pods = config["pods"].as_array().into_iter().flatten();
    pods.map(|pod| format!("{} {}", pod["uid"].as_str().unwrap_or_default(), pod["state"].as_str().unwrap_or_default()))
        .collect()
}

/// Resources that the controller has sent since it started, to all agents together.
fn resources_sent(mesh: &Mesh) -> Result<u64> {
    let metrics = mesh.controller_admin("/metrics")?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("weft_ads_resources_total "));
    Ok(line.with_context(|| metrics.clone())?.parse()?)
}

/// Waits until `agents` agents are connected and have acknowledged all there is.
fn until_up_to_date(mesh: &Mesh, agents: usize) -> Result<()> {
    let mut last = String::new();
    let waited = until("all agents to be up to date", PATIENCE, || {
        last = mesh.controller_admin("/debug/agents").ok()?;
        let view: Value = serde_json::from_str(&last).ok()?;
        let view = view.as_array()?;
        let current = view.iter().all(|agent| {
            agent["types"].as_object().is_some_and(|types| {
                types.len() == 2 && types.values().all(|kind| kind["lag"] == 0 && kind["wildcard"] == true)
            })
        });
        (view.len() == agents && current).then_some(())
    });
    waited.context(last)
}

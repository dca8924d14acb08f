//! An agent is ready when every pod of its node that should be in the mesh is; but it does not wait for ever for one that is not there.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::cluster::node::Node;
use weft_tests::node_binaries;
use weft_tests::wait::{PATIENCE, until};

use crate::installed::{self, label};
use crate::nodes::{START, pod};

/// How long an agent waits for a pod that it does not find.
const HOLD: Duration = Duration::from_secs(30);

#[test]
fn a_pod_that_should_be_in_the_mesh_and_is_not_found_holds_its_agent_unready_for_a_while() -> Result<()> {
    let mut cluster = installed::begin(&node_binaries!())?;
    installed::ready(cluster.api())?;
    label(cluster.api(), Some("weft"))?;
    ensure!(ready(&cluster.nodes()[1])?.starts_with("200"), "the agent is not ready before");

    // A kubelet that stands still: its node has a pod by the API server's word, with an address, and nothing of it runs.
    let signal = |node: &Node, name: &str| node.read(&format!("kill -{name} $(cat /run/node/kubelet.pid)"));
    signal(&cluster.nodes()[1], "STOP")?;
    let lost = pod("lost", "node-2", "exec sleep 86400");
    cluster.api().apply(&lost)?;
    let address = "10.200.250.250";
    let running = json!({
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
    });
    cluster.api().set_status(&lost, &running)?;
    let begun = Instant::now();
    let said = until("the agent not to be ready", PATIENCE, || {
        ready(&cluster.nodes()[1]).ok().filter(|said| said.starts_with("503"))
    })?;
    ensure!(said.contains("default/lost is not found: no process of it below"), "{said}");
    ensure!(ready(&cluster.nodes()[0])?.starts_with("200"), "the other node's agent waits for it as well");
    let missing = missing(&cluster.nodes()[1])?;
    ensure!(missing[0]["holds_readiness"] == true, "{missing}");

    // It gives up, and says so.
    until("the agent to be ready without it", HOLD + START, || {
        ready(&cluster.nodes()[1]).ok().filter(|said| said.starts_with("200"))
    })?;
    println!("figure: ready again {:.0} s after a pod was missed", begun.elapsed().as_secs_f64());
    ensure!(begun.elapsed() > HOLD - Duration::from_secs(2), "{:?}", begun.elapsed());
    let missing = self::missing(&cluster.nodes()[1])?;
    ensure!(
        missing[0]["holds_readiness"] == false && missing.as_array().is_some_and(|all| all.len() == 1),
        "{missing}"
    );
    ensure!(admin(&cluster.nodes()[1], "/metrics")?.contains("weft_pods_missing 1"), "no metric");
    let log = cluster.nodes()[1].read("cat /var/log/pods/weft-system_weft-node-*/*/*.log")?;
    ensure!(log.contains("lost") && log.contains("the agent is ready without it"), "{log}");

    // The kubelet goes on and starts it.
    signal(&cluster.nodes()[1], "CONT")?;
    let found = until("the pod to be in the mesh", 2 * START, || {
        let config: Value = serde_json::from_str(&admin(&cluster.nodes()[1], "/config").ok()?).ok()?;
        let enrolled = |pod: &Value| pod["name"] == "lost" && pod["state"] == "enrolled";
        config["pods"].as_array()?.iter().any(enrolled).then(|| config["missing"].clone())
    })?;
    until("nothing to be missing", PATIENCE, || {
        self::missing(&cluster.nodes()[1]).ok()?.as_array()?.is_empty().then_some(())
    })
    .with_context(|| found.to_string())?;
    ensure!(ready(&cluster.nodes()[1])?.starts_with("200"), "the agent is not ready in the end");
    Ok(())
}

/// Status and text of a node's agent's readiness.
fn ready(node: &Node) -> Result<String> {
    node.read("curl -s -w ' %{http_code}' http://127.0.0.1:15000/healthz/ready").map(|said| {
        let (text, status) = said.rsplit_once(' ').unwrap_or_default();
        format!("{status} {text}")
    })
}

fn missing(node: &Node) -> Result<Value> {
    let config: Value = serde_json::from_str(&admin(node, "/config")?)?;
    Ok(config["missing"].clone())
}

fn admin(node: &Node, path: &str) -> Result<String> {
    node.read(&format!("curl -s http://127.0.0.1:15000{path}"))
}

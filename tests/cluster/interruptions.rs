//! What runs the mesh goes and comes back, and traffic notices as little as it must.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_tests::cluster::api::Api;
use weft_tests::cluster::node::Node;
use weft_tests::node_binaries;
use weft_tests::wait::until;

use crate::installed::{self, Watched, client, of_manifest, pods_of, roll, server, service};
use crate::mesh::tcpdump;
use crate::nodes::{START, get};
use crate::source::definition;

/// What requests of `fresh` have in them.
const MARKER: &str = "MARKER-77c1e0";
const ALL: [&str; 3] = ["fresh", "kept", "held"];

#[test]
fn agents_controllers_and_kubelets_come_and_go_and_new_connections_are_not_refused() -> Result<()> {
    let mut cluster = installed::with_traffic(&node_binaries!())?;
    let mut clients = talking(cluster.api())?;

    // The agents themselves, by their DaemonSet.
    let took = roll(cluster.api(), of_manifest("DaemonSet", "weft-node")?, "1")?;
    clients.iter().try_for_each(|client| client.goes_on(50))?;
    println!("figure: rolling update of two agents took {:.1} s", took.as_secs_f64());
    clients.iter().try_for_each(|client| client.none_failed("rolling update of the agents"))?;
    let pods = agents(cluster.api())?;
    let draining = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_string()).count();
    println!("figure: {} agents, of them {draining} that finish their connections", pods.len());
    ensure!(pods.len() - draining == 2, "{pods:?}");

    // A kubelet, as its service manager would start it again.
    clients.iter_mut().try_for_each(Watched::forget)?;
    for number in 0..2 {
        restart_kubelet(&cluster.nodes()[number])?;
    }
    clients.iter().try_for_each(|client| client.goes_on(50))?;
    clients.iter().try_for_each(|client| client.none_failed("restart of both kubelets"))?;

    // Both controllers, for a minute.
    clients.iter_mut().try_for_each(Watched::forget)?;
    let mut controller = of_manifest("Deployment", "weft-controller")?;
    controller["spec"]["replicas"] = json!(0);
    cluster.api().apply(&controller)?;
    let gone = || pods_of(cluster.api(), "weft-controller").ok().filter(Vec::is_empty);
    until("the controllers to be gone", START, gone)?;
    thread::sleep(Duration::from_secs(60));
    clients.iter().try_for_each(|client| client.goes_on(50))?;
    clients.iter().try_for_each(|client| client.none_failed("a minute without controllers"))?;
    controller["spec"]["replicas"] = json!(2);
    cluster.api().apply(&controller)?;
    installed::ready(cluster.api())?;

    // An agent, as the kernel ends what runs out of memory. Nothing may be said in the clear meanwhile.
    clients.iter_mut().try_for_each(Watched::forget)?;
    let (port, file) = (cluster.nodes()[0].port.clone(), cluster.dir().join("killed.pcap"));
    let mut capture = tcpdump(&port, &file, &["tcp and not port 8081"]).spawn()?;
    let ended = kill_agents(&mut cluster.nodes()[0])?;
    let killed = Instant::now();
    ensure!(ended > 0, "there was no agent to kill");
    installed::ready(cluster.api())?;
    clients.iter().try_for_each(|client| client.goes_on(50))?;
    println!(
        "figure: traffic goes on {:.1} s after {ended} agents of a node were killed",
        killed.elapsed().as_secs_f64()
    );
    let [near, far, beside] = &clients;
    for client in [near, far] {
        for manner in ALL {
            client.failed(manner, "agents of node-1 killed")?;
        }
    }
    // Pods of one node, without a Service in between, talk by the kernel alone.
    beside.none_failed("agents of node-1 killed")?;
    clients.iter_mut().try_for_each(Watched::forget)?;
    clients.iter().try_for_each(|client| client.goes_on(200))?;
    clients.iter().try_for_each(|client| client.none_failed("after the agents are back"))?;
    capture.kill()?;
    capture.wait()?;
    let seen = fs::read(&file)?;
    ensure!(seen.len() > 10_000, "nothing was captured");
    ensure!(
        !seen.windows(MARKER.len()).any(|window| window == MARKER.as_bytes()),
        "a request crossed the link as it was"
    );
    Ok(())
}

/// A server on node-1, to be reached through the mesh alone, a client on each node, and one that asks a pod by its address.
fn talking(api: &Api) -> Result<[Watched; 3]> {
    api.apply(&definition("security.istio.io", "PeerAuthentication", "peerauthentications"))?;
    let strict = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "mtls": {"mode": "STRICT"}},
    });
    until("the definition to be served", START, || api.apply(&strict).ok())?;
    installed::label(api, Some("weft"))?;
    api.apply(&service("web", "10.96.7.7"))?;
    api.apply(&server("web", "node-1", 2))?;
    let all = ["--fresh", "10.96.7.7:80", "--kept", "10.96.7.7:80", "--held", "10.96.7.7:7000", "--marker", MARKER];
    let web = until("the servers", START, || {
        let pods = pods_of(api, "web").ok()?;
        pods.first()?["status"]["podIP"].as_str().map(str::to_owned)
    })?;
    api.apply(&client("near", "node-1", &all))?;
    api.apply(&client("far", "node-2", &all))?;
    api.apply(&client("beside", "node-1", &["--held", &format!("{web}:7000")]))?;
    let clients = [
        Watched::begin(api, "near", &ALL)?,
        Watched::begin(api, "far", &ALL)?,
        Watched::begin(api, "beside", &["held"])?,
    ];
    // Who is outside of the mesh is not answered.
    until("STRICT to hold", START, || get(&web, 8080).map_or(true, |page| page.is_empty()).then_some(()))?;
    Ok(clients)
}

/// The agents' pods.
fn agents(api: &Api) -> Result<Vec<Value>> {
    pods_of(api, "weft-node")
}

fn restart_kubelet(node: &Node) -> Result<()> {
    let pid = || node.read("cat /run/node/kubelet.pid");
    let before = pid()?;
    node.read(&format!("kill -9 {}", before.trim()))?;
    until("another kubelet", START, || pid().ok().filter(|now| *now != before && !now.trim().is_empty()))?;
    Ok(())
}

/// Ends the agents of a node, and says how many there were.
fn kill_agents(node: &mut Node) -> Result<usize> {
    let script =
        "for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" = mesh-node ] && echo ${p#/proc/}; done; true";
    let pids = node.read(script)?;
    for pid in pids.split_whitespace() {
        node.read(&format!("kill -9 {pid}"))?;
    }
    Ok(pids.split_whitespace().count())
}

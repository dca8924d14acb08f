//! Nodes that really run pods.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::cluster::Cluster;
use weft_tests::cluster::api::Api;
use weft_tests::cluster::image::TOOLS;
use weft_tests::node_binaries;
use weft_tests::wait::until;

#[test]
fn pods_of_two_nodes_reach_each_other_by_a_service_and_nothing_is_left_behind() -> Result<()> {
    let binaries = node_binaries!();
    let cluster = Cluster::of_test_with_nodes(&binaries, 2)?;
    let api = cluster.api();
    api.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.96.7.7", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }))?;
    api.apply(&pod("web", "node-1", "echo hello >/index.html; exec httpd -f -p 8080 -h /"))?;
    let address = address(api, "web")?;

    // From the machine itself, and from a pod of the other node by the service's address.
    let page = until("the page", START, || get(&address, 8080).ok().filter(|page| page.contains("hello")));
    page.with_context(|| format!("from {address}"))?;
    let ask = "until timeout 2 wget -qO- http://10.96.7.7/; do sleep 0.1; done";
    let found = "[ \"$(timeout 2 wget -qO- http://10.96.7.7/)\" = hello ] && exec httpd -f -p 8081 -h /";
    api.apply(&pod("client", "node-2", &format!("{ask}; {found}")))?;
    let client = self::address(api, "client")?;
    // It listens once it has had its answer.
    until("the client to have its answer", START, || TcpStream::connect((client.as_str(), 8081)).ok().map(drop))?;

    let dir = cluster.dir().to_owned();
    let made = fs::read_to_string(dir.join("made"))?;
    ensure!(made.lines().count() > 4 && made.lines().all(is_there), "{made}");
    drop(cluster);
    let left: Vec<&str> = made.lines().filter(|note| is_there(note)).collect();
    ensure!(left.is_empty() && !dir.exists(), "left behind: {left:?}");
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    ensure!(!mounts.contains(&dir.display().to_string()), "{mounts}");
    Ok(())
}

/// Whether the link or cgroup of a note is there.
fn is_there(note: &str) -> bool {
    match note.split_once(' ') {
        Some(("link", name)) => Path::new("/sys/class/net").join(name).exists(),
        Some(("cgroup", path)) => Path::new(path).exists(),
        _ => true,
    }
}

pub(crate) fn pod(name: &str, node: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "app", "image": TOOLS, "imagePullPolicy": "Never", "command": ["sh", "-c", script],
            }],
        },
    })
}

/// The pod's address, once it has one.
pub(crate) fn address(api: &Api, name: &str) -> Result<String> {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}});
    let found = until("the pod's address", START, || {
        let pod = api.get(&pod).ok().flatten()?;
        pod["status"]["podIP"].as_str().map(str::to_owned)
    });
    found.with_context(|| format!("{:?}", api.get(&pod)))
}

pub(crate) fn get(address: &str, port: u16) -> Result<String> {
    let mut stream = TcpStream::connect((address, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

/// Until a pod runs, on a machine that is busy.
pub(crate) const START: Duration = Duration::from_secs(180);

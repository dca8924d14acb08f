//! The CNI plugin on real nodes: a new pod waits until it is in the mesh, and nobody else waits for anything.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::cluster::Cluster;
use weft_tests::cluster::api::Api;
use weft_tests::cluster::node::Node;
use weft_tests::node_binaries;
use weft_tests::wait::until;

use crate::installed::ready;
use crate::manifests;
use crate::mesh::tcpdump;
use crate::nodes::{START, get, pod};
use crate::source::definition;

/// What clients say in every request.
const MARKER: &str = "MARKER-c41e57";
/// What an agent says of how long new pods waited.
const WAITED: &str = "grep -ho 'pod=.* waited=[^ ]*' /var/log/pods/weft-system_weft-node-*/agent/*.log";
const CONFIGURATION: &str = "/etc/cni/net.d/10-bridge.conflist";

#[test]
fn a_new_pods_very_first_connection_is_in_the_mesh_and_other_pods_never_wait() -> Result<()> {
    let mut cluster = Cluster::of_test_with_nodes(&node_binaries!(), 2)?;
    cluster.import_weft(&["mesh-ctrl", "mesh-node"])?;
    let (port, dir) = (cluster.nodes()[0].port.clone(), cluster.dir().to_owned());
    let originals = cluster.nodes().iter().map(|node| read(node, CONFIGURATION)).collect::<Result<Vec<_>>>()?;
    let before = &originals[1];
    ensure!(!before.contains("weft-cni"), "{before}");
    install(cluster.api(), "closed")?;
    ready(cluster.api())?;
    let chained = read(&cluster.nodes()[1], CONFIGURATION)?;
    ensure!(chained.contains("weft-cni"), "an agent is ready and the plugin is not in place: {chained}");

    // A server that takes nothing but the mesh, and one that is no part of it.
    let api = cluster.api();
    api.apply(&definition("security.istio.io", "PeerAuthentication", "peerauthentications"))?;
    api.apply(&json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "shop", "labels": {"istio.io/dataplane-mode": "weft"}},
    }))?;
    let strict = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "mtls": {"mode": "STRICT"}},
    });
    until("the definition to be served", START, || api.apply(&strict).is_ok().then_some(()))?;
    let serve = "echo hello >/index.html; exec httpd -f -p 8080 -h /";
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "shop"}});
    until("the account of the namespace", START, || api.get(&account).ok().flatten())?;
    for namespace in ["shop", "default"] {
        let mut server = in_namespace(namespace, "web", "node-1", serve);
        let probe = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1});
        server["spec"]["containers"][0]["readinessProbe"] = probe;
        api.apply(&server)?;
        until("the server", START, || is_ready(&found(api, namespace, "web")?).then_some(()))?;
    }
    let (web, plain) = (address(api, "shop", "web")?, address(api, "default", "web")?);
    ensure!(get(&plain, 8080)?.contains("hello"));
    ensure!(!get(&web, 8080).is_ok_and(|page| page.contains("hello")), "the strict server answers what is plain");

    // First acts: one connection, one attempt, and the answer for all to see.
    let file = dir.join("first.pcap");
    let mut capture = tcpdump(&port, &file, &["tcp"]).spawn()?;
    std::thread::sleep(Duration::from_millis(500));
    for number in 0..4 {
        let name = format!("first-{number}");
        api.apply(&in_namespace("shop", &name, "node-2", &first_act(&web)))?;
        let said = outcome(api, "shop", &name)?;
        ensure!(said == "hello", "{name} had {said:?} for its first connection");
    }
    std::thread::sleep(Duration::from_millis(500));
    capture.kill()?;
    capture.wait()?;
    let crossed = text(&file)?;
    ensure!(!crossed.contains(MARKER), "a first request crossed the link as it was");

    let waited = cluster.nodes()[1].command(&["sh", "-c", WAITED]).stdout(Stdio::piped()).output()?.stdout;
    println!("figure: waits of new pods:\n{}", String::from_utf8_lossy(&waited));
    let api = cluster.api();

    // The same from a pod that is no part of the mesh: at once, in the clear, and refused by who is strict.
    let mut capture = tcpdump(&port, &dir.join("plain.pcap"), &["tcp"]).spawn()?;
    std::thread::sleep(Duration::from_millis(500));
    api.apply(&in_namespace("default", "outside", "node-2", &first_act(&plain)))?;
    ensure!(outcome(api, "default", "outside")? == "hello");
    api.apply(&in_namespace("default", "stranger", "node-2", &first_act(&web)))?;
    ensure!(outcome(api, "default", "stranger")?.is_empty(), "the strict server answers a stranger");
    std::thread::sleep(Duration::from_millis(500));
    capture.kill()?;
    capture.wait()?;
    ensure!(text(&dir.join("plain.pcap"))?.contains(MARKER), "the capture does not even see what is not encrypted");

    // Another tool writes its configuration again.
    let node = &cluster.nodes()[1];
    write(node, CONFIGURATION, before)?;
    let begun = Instant::now();
    until("the plugin to be inserted again", Duration::from_secs(10), || {
        read(node, CONFIGURATION).is_ok_and(|now| now == chained).then_some(())
    })?;
    println!("figure: inserted again after {:.2} s", begun.elapsed().as_secs_f64());

    // Without agents: who is no part of the mesh starts, who is does not, until there is one again.
    let api = cluster.api();
    agents(api, false)?;
    api.apply(&in_namespace("default", "unheeding", "node-2", &first_act(&plain)))?;
    ensure!(outcome(api, "default", "unheeding")? == "hello");
    api.apply(&in_namespace("shop", "late", "node-2", &first_act(&web)))?;
    until("the pod's refusal to be said", START, || {
        refusals(api, "late").ok().filter(|said| said.contains("weft: pod shop/late"))
    })?;
    ensure!(!has_started(api, "shop", "late"), "it started without an agent");
    agents(api, true)?;
    ready(api)?;
    ensure!(outcome(api, "shop", "late")? == "hello", "its first connection was not in the mesh");

    // The same where that is said to be better than waiting.
    install(api, "open")?;
    let node = &cluster.nodes()[1];
    until("the new setting", START, || {
        read(node, CONFIGURATION).is_ok_and(|now| now.contains(r#""onFailure":"open""#)).then_some(())
    })?;
    let api = cluster.api();
    agents(api, false)?;
    api.apply(&in_namespace("shop", "open", "node-2", "exec sleep 1000"))?;
    until("the pod to start without an agent", START, || has_started(api, "shop", "open").then_some(()))?;

    // Away again, by the agent's own image on each node.
    let daemon_set = api.get(&daemon_set())?.context("the DaemonSet")?;
    api.delete(&daemon_set)?;
    for name in ["node-1", "node-2"] {
        api.apply(&uninstaller(&daemon_set, name))?;
    }
    for name in ["node-1", "node-2"] {
        let done = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("gone-{name}"), "namespace": "weft-system"}});
        let phase = || api.get(&done).ok().flatten().filter(|pod| pod["status"]["phase"] == "Succeeded");
        until("the node to be rid of Weft", START, phase).with_context(|| format!("{:?}", api.get(&done)))?;
    }
    for (node, before) in cluster.nodes().iter().zip(&originals) {
        ensure!(read(node, CONFIGURATION)? == *before, "{}", read(node, CONFIGURATION)?);
        for path in ["/etc/cni/net.d/weft.d", "/opt/cni/bin/weft-cni", "/sys/fs/bpf/weft", "/run/weft/cni.sock"] {
            ensure!(!node.command(&["test", "-e", path]).status()?.success(), "{path} is left on {}", node.name);
        }
    }
    let api = cluster.api();
    api.apply(&in_namespace("shop", "after", "node-2", "exec sleep 1000"))?;
    until("a pod to start after all that", START, || has_started(api, "shop", "after").then_some(()))
}

/// Applies the manifest, with a wait that a test can wait for.
fn install(api: &Api, on_failure: &str) -> Result<()> {
    for mut object in manifests::objects()? {
        if object["kind"] == "DaemonSet" {
            for variable in object["spec"]["template"]["spec"]["containers"][0]["env"].as_array_mut().context("env")? {
                match variable["name"].as_str() {
                    Some("CNI_ON_FAILURE") => variable["value"] = on_failure.into(),
                    Some("CNI_TIMEOUT_SECONDS") => variable["value"] = "3".into(),
                    _ => {}
                }
            }
        }
        api.apply(&object)?;
    }
    Ok(())
}

fn daemon_set() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "weft-node", "namespace": "weft-system"}})
}

/// Has agents on both nodes, or on none.
fn agents(api: &Api, wanted: bool) -> Result<()> {
    let mut set = api.get(&daemon_set())?.context("the DaemonSet")?;
    let selector = &mut set["spec"]["template"]["spec"]["nodeSelector"];
    *selector = if wanted { json!({"kubernetes.io/os": "linux"}) } else { json!({"weft.io/nowhere": "true"}) };
    set["metadata"] = json!({"name": "weft-node", "namespace": "weft-system"});
    set["status"] = Value::Null;
    api.apply(&json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": set["metadata"], "spec": set["spec"],
    }))?;
    let count = if wanted { 2 } else { 0 };
    let is_so = || {
        let status = api.get(&daemon_set()).ok().flatten()?["status"].clone();
        let numbers = [&status["currentNumberScheduled"], &status["numberReady"]];
        numbers.iter().all(|number| **number == count).then_some(())
    };
    until("the agents to come or go", 2 * START, is_so)?;
    let sockets = || listed(api, "weft-node").is_ok_and(|pods| pods == count).then_some(());
    until("the agents' pods to come or go", 2 * START, sockets)
}

/// How many pods there are with that label.
fn listed(api: &Api, app: &str) -> Result<usize> {
    let list = api.list("/api/v1/namespaces/weft-system/pods")?;
    Ok(list.iter().filter(|pod| pod["metadata"]["labels"]["app"] == app).count())
}

fn in_namespace(namespace: &str, name: &str, node: &str, script: &str) -> Value {
    let mut pod = pod(name, node, script);
    pod["metadata"]["namespace"] = namespace.into();
    pod["spec"]["enableServiceLinks"] = false.into();
    pod
}

/// One request as the container's first act; what came of it is served.
fn first_act(server: &str) -> String {
    format!(
        "said=$(timeout 8 wget -qO- 'http://{server}:8080/?{MARKER}'); mkdir /www; echo \"$said\" >/www/index.html; \
         exec httpd -f -p 8081 -h /www"
    )
}

/// What came of a pod's first act.
fn outcome(api: &Api, namespace: &str, name: &str) -> Result<String> {
    let address = address(api, namespace, name)?;
    let page = until("the pod's first act to be over", START, || {
        get(&address, 8081).ok().filter(|page| page.contains("200 OK"))
    })?;
    Ok(page.rsplit("\r\n\r\n").next().unwrap_or_default().trim().to_owned())
}

fn found(api: &Api, namespace: &str, name: &str) -> Option<Value> {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}});
    api.get(&pod).ok().flatten()
}

fn address(api: &Api, namespace: &str, name: &str) -> Result<String> {
    let address = || found(api, namespace, name)?["status"]["podIP"].as_str().map(str::to_owned);
    until("the pod's address", START, address).with_context(|| format!("{:?}", found(api, namespace, name)))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn has_started(api: &Api, namespace: &str, name: &str) -> bool {
    found(api, namespace, name).is_some_and(|pod| pod["status"]["phase"] == "Running")
}

/// What is said of a pod that does not start.
fn refusals(api: &Api, name: &str) -> Result<String> {
    let events = api.list("/api/v1/namespaces/shop/events")?;
    let of_pod = events.iter().filter(|event| event["involvedObject"]["name"] == name);
    Ok(of_pod.filter_map(|event| event["message"].as_str()).collect::<Vec<_>>().join("\n"))
}

/// The agent's own pod, but for what it does.
fn uninstaller(daemon_set: &Value, node: &str) -> Value {
    let mut spec = daemon_set["spec"]["template"]["spec"].clone();
    spec["nodeName"] = node.into();
    spec["restartPolicy"] = "Never".into();
    spec["nodeSelector"] = json!({});
    let container = &mut spec["containers"][0];
    container["args"] = json!(["uninstall"]);
    container["readinessProbe"] = Value::Null;
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("gone-{node}"), "namespace": "weft-system"},
        "spec": spec,
    })
}

fn read(node: &Node, path: &str) -> Result<String> {
    let output = node.command(&["cat", path]).stdout(Stdio::piped()).output()?;
    ensure!(output.status.success(), "read {path} on {}", node.name);
    Ok(String::from_utf8(output.stdout)?)
}

fn write(node: &Node, path: &str, text: &str) -> Result<()> {
    let script = format!("cat >{path}.new <<'END'\n{}\nEND\nmv {path}.new {path}", text.trim_end());
    ensure!(node.command(&["sh", "-c", &script]).status()?.success(), "write {path} on {}", node.name);
    Ok(())
}

/// What was captured, every byte that is no text left out.
fn text(file: &std::path::Path) -> Result<String> {
    let bytes = fs::read(file)?;
    ensure!(bytes.len() > 1000, "nothing was captured");
    Ok(bytes.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { ' ' }).collect())
}

//! Weft is taken off a cluster, and what ran on it runs on.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::cluster::Cluster;
use weft_tests::cluster::api::Api;
use weft_tests::cluster::node::Node;
use weft_tests::node_binaries;
use weft_tests::program::built;
use weft_tests::wait::until;

use crate::installed::{self, TRAFFIC, Watched, client, pods_of, server, service};
use crate::manifests;
use crate::mesh::captured;
use crate::nodes::START;
use crate::waypoints::DEFINITIONS;

const MANIFEST: &str = include_str!("../../deploy/kubernetes/uninstall.yaml");
/// What requests of `fresh` have in them.
const MARKER: &str = "MARKER-0f53d2";
const MANNERS: [&str; 2] = ["fresh", "kept"];
const DEFINITION_LIST: &str =
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?labelSelector=app.kubernetes.io%2Fpart-of%3Dweft";

#[test]
fn uninstall_leaves_nodes_and_pods_as_they_were_and_pods_talk_on() -> Result<()> {
    let mut cluster = Cluster::of_test_with_nodes(&node_binaries!(), 2)?;
    let port = cluster.nodes()[0].port.clone();
    let dir = cluster.dir().to_owned();
    cluster.import(TRAFFIC, "traffic")?;
    cluster.import_weft(&["mesh-ctrl", "mesh-node"])?;
    let api = cluster.api();
    api.apply(&service("web", "10.96.7.7"))?;
    api.apply(&server("web", "node-1", 1))?;
    api.apply(&client("client", "node-2", &["--fresh", "10.96.7.7:80", "--kept", "10.96.7.7:80", "--marker", MARKER]))?;
    let mut client = Watched::begin(api, "client", &MANNERS)?;
    let plain = captured(&port, &dir.join("before.pcap"), "tcp")?;
    ensure!(plain.contains(MARKER), "the capture does not even see what is not encrypted");
    let before = everything(&mut cluster)?;

    let api = cluster.api();
    for definition in DEFINITIONS.iter().map(|text| serde_saphyr::from_multiple::<Value>(text)) {
        definition?.iter().try_for_each(|one| api.apply(one).map(drop))?;
    }
    for object in manifests::objects()? {
        api.apply(&object)?;
    }
    installed::ready(api)?;
    for object in [kept(), gateway()] {
        until("the definitions to be served", START, || api.apply(&object).ok())?;
    }
    installed::label(api, Some("weft"))?;
    until("nothing in the clear any more", START, || {
        let seen = captured(&port, &dir.join("mesh.pcap"), "tcp and not port 8081").ok()?;
        (!seen.contains(MARKER)).then_some(())
    })?;
    let deployment =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "gate", "namespace": "default"}});
    until("the waypoint's Deployment", START, || api.get(&deployment).ok()?)?;
    let meshed = everything(&mut cluster)?;
    ensure!(meshed != before, "the comparison does not even see Weft");

    let api = cluster.api();
    client.forget()?;
    let begun = Instant::now();
    for object in serde_saphyr::from_multiple::<Value>(MANIFEST)? {
        api.apply(&object)?;
    }
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "weft-system"}});
    let gone = until("the namespace to be gone", 5 * START, || api.get(&namespace).ok()?.is_none().then_some(()));
    gone.with_context(|| log(api))?;
    println!("figure: uninstalled in {:.1} s", begun.elapsed().as_secs_f64());
    client.goes_on(100)?;
    for manner in MANNERS {
        client.failed(manner, "uninstall")?;
    }
    ensure!(client.failed("fresh", "uninstall")? == 0, "new connections failed");

    // The definitions that have objects are there yet, and their objects.
    let left: BTreeSet<String> = names(&api.list(DEFINITION_LIST)?);
    let used = ["gateways.gateway.networking.k8s.io", "peerauthentications.security.istio.io"];
    ensure!(left == used.map(str::to_owned).into(), "{left:?}");
    ensure!(api.get(&kept())?.is_some() && api.get(&gateway())?.is_some());
    let status = Command::new(built("mesh-ctrl")?)
        .args(["uninstall", "--crds", "--kubeconfig"])
        .arg(cluster.kubeconfig())
        .status()?;
    ensure!(status.success(), "{status}");
    for path in [
        DEFINITION_LIST,
        "/apis/apps/v1/deployments?labelSelector=app.kubernetes.io%2Fmanaged-by%3Dweft-controller",
        "/api/v1/services?labelSelector=app.kubernetes.io%2Fmanaged-by%3Dweft-controller",
    ] {
        ensure!(api.list(path)?.is_empty(), "{:?}", names(&api.list(path)?));
    }
    for path in [
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    ] {
        // The uninstaller's own roles go a moment after the namespace.
        let ours =
            || names(&api.list(path).unwrap_or_default()).into_iter().filter(|name| name.contains("weft")).collect();
        let none = until("objects of the cluster to go", START, || Vec::is_empty(&ours()).then_some(()));
        none.with_context(|| format!("{path}: {:?}", ours()))?;
    }

    roles_fit(&cluster)?;

    // Nodes and pods are as they were. kube-proxy takes a moment for what it need no longer know.
    let same = until("nodes to be as they were", START, || (everything(&mut cluster).ok()? == before).then_some(()));
    if same.is_err() {
        let now = everything(&mut cluster)?;
        for (place, lines) in &before {
            let differ: Vec<_> = lines.symmetric_difference(&now[place]).collect();
            ensure!(differ.is_empty(), "{place}: {differ:#?}");
        }
    }
    let plain = captured(&port, &dir.join("after.pcap"), "tcp")?;
    ensure!(plain.contains(MARKER), "requests are still not in the clear");
    Ok(())
}

const USER: &str = "system:serviceaccount:weft-system:weft-uninstall";

/// Calls that have to be allowed and that this run has no need of: the waypoint of one instance has no budget.
const UNUSED: [(&str, &str); 1] = [("delete", "poddisruptionbudgets.policy")];

/// That the uninstaller's role allows what it called for, and nothing else.
fn roles_fit(cluster: &Cluster) -> Result<()> {
    let allowed = manifests::allowed(&serde_saphyr::from_multiple::<Value>(MANIFEST)?);
    let calls = cluster.calls_of(USER)?;
    let mut unused = allowed.clone();
    for (verb, resource, status) in &calls {
        // A rule may be about all kinds of a group.
        let any = resource.split_once('.').map_or_else(|| "*".to_owned(), |(_, group)| format!("*.{group}"));
        let rules = [(verb.clone(), resource.clone()), (verb.clone(), any)];
        ensure!(
            rules.iter().any(|rule| allowed.contains(rule)),
            "{verb} {resource} is used and not allowed: {calls:?}"
        );
        ensure!(*status != 403, "{verb} {resource} is refused");
        unused.retain(|rule| !rules.contains(rule));
    }
    unused.retain(|(verb, resource)| !UNUSED.contains(&(verb, resource)));
    ensure!(unused.is_empty(), "allowed and not used: {unused:?} of {calls:?}");
    Ok(())
}

fn kept() -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "nobody", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "nobody"}}, "mtls": {"mode": "STRICT"}},
    })
}

fn gateway() -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "gate", "namespace": "default"},
        "spec": {"gatewayClassName": "weft-waypoint", "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]},
    })
}

fn names(objects: &[Value]) -> BTreeSet<String> {
    objects.iter().filter_map(|object| object["metadata"]["name"].as_str().map(str::to_owned)).collect()
}

/// What the uninstaller has said.
fn log(api: &Api) -> String {
    let pods = pods_of(api, "weft-uninstaller").unwrap_or_default();
    let logs = pods.iter().map(|pod| {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        api.read(&format!("/api/v1/namespaces/weft-system/pods/{name}/log")).unwrap_or_default()
    });
    logs.collect::<Vec<_>>().join("\n")
}

/// What Weft could leave on nodes and in the pods of `default`, line by line.
fn everything(cluster: &mut Cluster) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let pods = cluster.api().list("/api/v1/namespaces/default/pods")?;
    let mut all = BTreeMap::new();
    for node in cluster.nodes() {
        all.insert(node.name.clone(), lines(node, &format!("{NETWORK}\n{NODE}"))?);
        for pod in pods.iter().filter(|pod| pod["spec"]["nodeName"] == *node.name) {
            let name = pod["metadata"]["labels"]["app"].as_str().unwrap_or_default();
            // A waypoint's pods are no user's.
            if !["web", "client"].contains(&name) {
                continue;
            }
            let uid = pod["metadata"]["uid"].as_str().context("a uid")?;
            let first = format!("pid=$(grep -l pod{uid} /proc/[0-9]*/cgroup | head -1 | cut -d/ -f3); [ -n \"$pid\" ]");
            all.insert(name.to_owned(), lines(node, &format!("{first}\nnsenter -t \"$pid\" -n sh -c '{NETWORK}'"))?);
        }
    }
    Ok(all)
}

fn lines(node: &Node, script: &str) -> Result<BTreeSet<String>> {
    let said = node.read(script)?;
    // Pods' own devices on the node come and go; a set of nftables is said in any order, several elements on a line.
    let lines = said.lines().filter(|line| !line.contains("veth")).flat_map(|line| line.split([',', '{', '}']));
    Ok(lines.map(str::trim).map(str::to_owned).collect())
}

/// Rules, routes, filters and settings of a network namespace.
const NETWORK: &str = "ip -4 rule; ip -6 rule; ip -4 route show table all; ip -6 route show table all; nft list ruleset; \
     tc qdisc show; for file in /proc/sys/net/ipv4/* /proc/sys/net/ipv6/* /proc/sys/net/ipv4/conf/all/* /proc/sys/net/ipv4/conf/lo/*; do \
     [ -f $file ] && [ -r $file ] && echo $file $(cat $file 2>/dev/null); done; true";
/// What is of a node alone: pins, the run directory, network configuration and its plugins.
const NODE: &str = "find /sys/fs/bpf /run/weft -mindepth 1 2>/dev/null; ls /opt/cni/bin 2>/dev/null; \
     for file in /etc/cni/net.d/*; do echo $file; cat $file; done; true";

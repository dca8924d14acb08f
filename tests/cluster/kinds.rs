//! Pods of every kind, in a namespace that lets nobody in but the mesh.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::cluster::api::Api;
use weft_tests::cluster::image::TOOLS;
use weft_tests::node_binaries;
use weft_tests::wait::until;

use crate::installed::{self, label, pods_of, server, service};
use crate::nodes::{START, get};
use crate::source::definition;

/// Asks the server by its Service until it is answered: a pod may run a moment before it is in the mesh.
const ASK: &str = "until [ \"$(timeout 3 wget -qO- http://10.96.7.7/)\" = web ]; do sleep 0.2; done";
/// The image of `grpc`, which answers a kubelet's gRPC probes.
const GRPC: &str = "localhost/weft-tests/grpc:1";
const SERVE: &str = "echo hello >/index.html; httpd -p 8080 -h /; exec sleep 86400";

#[test]
fn pods_of_every_kind_work_under_strict() -> Result<()> {
    let mut cluster = installed::with_traffic(&node_binaries!())?;
    cluster.import(GRPC, "grpc")?;
    let node = cluster.nodes()[0].address.to_string();
    let api = cluster.api();
    api.apply(&definition("security.istio.io", "PeerAuthentication", "peerauthentications"))?;
    for object in [strict(), published()] {
        until("the definition to be served", START, || api.apply(&object).ok())?;
    }
    label(api, Some("weft"))?;
    api.apply(&service("web", "10.96.7.7"))?;
    api.apply(&server("web", "node-1", 1))?;

    // A server may take seconds to start where the machine is busy. A probe that does not get through at all leaves its pod not ready.
    let probe = |mut kind: Value| {
        kind["periodSeconds"] = json!(1);
        kind["timeoutSeconds"] = json!(5);
        kind["failureThreshold"] = json!(10);
        kind
    };
    let exec = probe(json!({"exec": {"command": ["true"]}}));
    let http = probe(json!({"httpGet": {"path": "/index.html", "port": 8080}}));
    let tcp = probe(json!({"tcpSocket": {"port": 8080}}));
    let grpc = probe(json!({"grpc": {"port": 8080}}));
    let serving = |more: Value| {
        let mut container = json!({"name": "app", "command": ["sh", "-c", SERVE]});
        container
            .as_object_mut()
            .into_iter()
            .for_each(|fields| fields.extend(more.as_object().cloned().unwrap_or_default()));
        container
    };
    let asking = |name: &str| json!({"name": name, "command": ["sh", "-c", ASK]});
    let pods = [
        (
            "http-probe",
            json!({"containers": [serving(json!({"readinessProbe": http.clone(), "livenessProbe": http}))]}),
        ),
        ("tcp-probe", json!({"containers": [serving(json!({"readinessProbe": tcp.clone(), "livenessProbe": tcp}))]})),
        (
            "exec-probe",
            json!({"containers": [serving(json!({"readinessProbe": exec.clone(), "livenessProbe": exec}))]}),
        ),
        (
            "grpc-probe",
            json!({"containers": [{
                "name": "app", "image": GRPC, "args": ["serve", "--port", "8080"],
                "readinessProbe": grpc.clone(), "livenessProbe": grpc,
            }]}),
        ),
        ("host-port", json!({"containers": [serving(json!({"ports": [{"containerPort": 8080, "hostPort": 18080}]}))]})),
        ("init", json!({"initContainers": [asking("first")], "containers": [serving(json!({}))]})),
    ];
    for (name, spec) in &pods {
        let template = template(name, spec);
        api.apply(
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]}),
        )?;
    }
    let job = json!({"containers": [asking("app")], "restartPolicy": "Never"});
    api.apply(&json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job", "namespace": "default"},
        "spec": {"template": template("job", &job)},
    }))?;
    // A headless Service's name is its pods' addresses.
    api.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "set", "namespace": "default"},
        "spec": {"clusterIP": "None", "selector": {"app": "set"}, "ports": [{"name": "http", "port": 8080}]},
    }))?;
    api.apply(&json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "set", "namespace": "default"},
        "spec": {
            "serviceName": "set", "replicas": 2, "selector": {"matchLabels": {"app": "set"}},
            "template": template("set", &json!({"containers": [serving(json!({}))]})),
        },
    }))?;

    for (name, _) in &pods {
        ready(api, name, 1)?;
    }
    ready(api, "set", 2)?;
    let done = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job", "namespace": "default"}});
    until("the Job to have ended", START, || (api.get(&done).ok()??["status"]["succeeded"] == 1).then_some(()))?;

    // One that asks each pod of the set, and a probed one, by its address.
    let addresses: Vec<String> = ["set", "http-probe"].into_iter().flat_map(|name| addresses(api, name)).collect();
    ensure!(addresses.len() == 3, "{addresses:?}");
    let each: Vec<String> = addresses
        .iter()
        .map(|to| {
            format!("until [ \"$(timeout 3 wget -qO- http://{to}:8080/index.html)\" = hello ]; do sleep 0.2; done")
        })
        .collect();
    let asker =
        json!({"containers": [{"name": "app", "command": ["sh", "-c", each.join("; ")]}], "restartPolicy": "Never"});
    let asker = template("asker", &asker);
    api.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": asker["metadata"], "spec": asker["spec"]}))?;
    until("every pod of the set to answer", START, || {
        pods_of(api, "asker").ok()?.first().filter(|pod| pod["status"]["phase"] == "Succeeded").map(drop)
    })?;

    // Who is outside gets in at the port that is published for everybody, and nowhere else.
    let page = until("the host port to answer", START, || get(&node, 18080).ok().filter(|page| page.contains("hello")));
    page.with_context(|| format!("{:?}", get(&node, 18080)))?;
    for address in &addresses {
        ensure!(
            get(address, 8080).map_or(true, |page| page.is_empty()),
            "{address} answers who is outside of the mesh"
        );
    }
    // None was restarted by a probe that did not get through.
    for (name, _) in &pods {
        let pods = pods_of(api, name)?;
        ensure!(pods[0]["status"]["containerStatuses"][0]["restartCount"] == 0, "{name}: {:?}", pods[0]["status"]);
    }
    installed::ready(api)
}

/// A pod's metadata and spec, with an image of tools where none is said; on node-2 if nothing else is said.
fn template(name: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            if container["image"].is_null() {
                container["image"] = json!(TOOLS);
            }
            container["imagePullPolicy"] = json!("Never");
        }
    }
    let node = if name == "host-port" { "node-1" } else { "node-2" };
    spec["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    spec["terminationGracePeriodSeconds"] = json!(0);
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    json!({"metadata": {"name": name, "namespace": "default", "labels": {"app": name}}, "spec": spec})
}

fn strict() -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": "default"}, "spec": {"mtls": {"mode": "STRICT"}},
    })
}

/// For the one pod that is published at a port of its node.
fn published() -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "host-port", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "host-port"}}, "mtls": {"mode": "PERMISSIVE"}},
    })
}

fn ready(api: &Api, app: &str, count: usize) -> Result<()> {
    let is_ready = |pod: &&Value| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
    };
    let all = until(app, START, || (pods_of(api, app).ok()?.iter().filter(is_ready).count() == count).then_some(()));
    all.with_context(|| {
        format!("{:?}", pods_of(api, app).map(|pods| pods.iter().map(|p| p["status"].clone()).collect::<Vec<_>>()))
    })
}

fn addresses(api: &Api, app: &str) -> Vec<String> {
    let pods = pods_of(api, app).unwrap_or_default();
    pods.iter().filter_map(|pod| pod["status"]["podIP"].as_str().map(str::to_owned)).collect()
}

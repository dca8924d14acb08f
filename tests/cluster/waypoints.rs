//! What the controller makes for Gateways, and what it says of objects in their status.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::cluster::Cluster;
use weft_tests::cluster::api::Api;
use weft_tests::cluster::controller::Controller;
use weft_tests::wait::{PATIENCE, until};
use weft_tests::{binaries, node_binaries};

use crate::manifests;
use crate::nodes::{START, address, get, pod};

/// Istio's kinds and the Gateway API's, as they are installed.
pub(crate) const DEFINITIONS: [&str; 2] =
    [include_str!("../../deploy/crds/gateway-api.yaml"), include_str!("../../deploy/crds/istio.yaml")];

#[test]
fn a_gateway_becomes_objects_that_stay_as_they_should_and_are_written_once() -> Result<()> {
    let cluster = Cluster::of_test(&binaries!())?;
    let api = cluster.api();
    let controllers = start(&cluster)?;
    api.apply(&gateway("gate", "weft-waypoint", &json!({"weft.io/replicas": "2"})))?;
    let deployment = object("apps/v1", "Deployment", "gate");
    let service = object("v1", "Service", "gate");
    let budget = object("policy/v1", "PodDisruptionBudget", "gate");
    let all = [deployment.clone(), service.clone(), budget, object("v1", "ServiceAccount", "gate")];
    for child in &all {
        let found = there(api, child).with_context(|| controllers[0].log())?;
        let owner = &found["metadata"]["ownerReferences"][0];
        ensure!(owner["name"] == "gate" && owner["controller"] == true, "{found}");
    }
    let gate = object(GATEWAYS, "Gateway", "gate");
    let address = there(api, &service)?["spec"]["clusterIP"].clone();
    says(api, &gate, "Accepted", "Accepted", &controllers)?;
    says(api, &gate, "Programmed", "Pending", &controllers)?;
    let status = there(api, &gate)?["status"].clone();
    ensure!(status["addresses"][0]["value"] == address, "{status}");
    ensure!(status["conditions"][0]["observedGeneration"] == 1, "{status}");
    says(api, &object(GATEWAYS, "GatewayClass", "weft-waypoint"), "Accepted", "Accepted", &controllers)?;

    // An instance, as a kubelet would say that it is up.
    let instance = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "gate-1", "namespace": "shop", "labels": {"gateway.networking.k8s.io/gateway-name": "gate"}},
        "spec": {"nodeName": "a", "containers": [{"name": "waypoint", "image": "localhost/app:1"}]},
    });
    api.apply(&instance)?;
    let ready = json!([{"type": "Ready", "status": "True"}]);
    api.set_status(
        &instance,
        &json!({"phase": "Running", "podIP": "10.1.0.9", "podIPs": [{"ip": "10.1.0.9"}], "conditions": ready}),
    )?;
    says(api, &gate, "Programmed", "Programmed", &controllers)?;

    // One of the two has written, and it has written each object once.
    let writes = |controller: &Controller| controller.metric("weft_waypoint_writes_total", &[]);
    let counted = [writes(&controllers[0])?, writes(&controllers[1])?];
    ensure!(counted.iter().sum::<f64>() == 4.0 && counted.contains(&0.0), "{counted:?}");
    let before = there(api, &deployment)?["metadata"]["resourceVersion"].clone();
    std::thread::sleep(Duration::from_secs(2));
    ensure!([writes(&controllers[0])?, writes(&controllers[1])?] == counted, "it goes on writing");
    ensure!(there(api, &deployment)?["metadata"]["resourceVersion"] == before);

    // What somebody changes or removes comes back.
    let mut changed = deployment.clone();
    changed["spec"] = json!({"replicas": 7});
    api.apply(&changed)?;
    until("the number of instances to be what it was", PATIENCE, || {
        (api.get(&deployment).ok()??["spec"]["replicas"] == 2).then_some(())
    })?;
    let first = there(api, &service)?["metadata"]["uid"].clone();
    api.delete(&service)?;
    until("the Service to be there again", PATIENCE, || {
        (api.get(&service).ok()??["metadata"]["uid"] != first).then_some(())
    })?;

    // One instance has no disruption budget; a value that is none leaves all as it is.
    api.apply(&gateway("gate", "weft-waypoint", &json!({"weft.io/replicas": "1"})))?;
    until("the budget to go", PATIENCE, || api.get(&all[2]).ok()?.is_none().then_some(()))?;
    api.apply(&gateway("gate", "weft-waypoint", &json!({"weft.io/replicas": "many"})))?;
    says(api, &gate, "Accepted", "InvalidParameters", &controllers)?;
    ensure!(there(api, &deployment)?["spec"]["replicas"] == 1);

    // Of another class, it is no waypoint of ours.
    api.apply(&gateway("gate", "somebodys", &json!({})))?;
    for child in &all {
        until("what was made to go", PATIENCE, || api.get(child).ok()?.is_none().then_some(()))
            .with_context(|| controllers[0].log())?;
    }
    Ok(())
}

#[test]
fn what_belongs_to_somebody_else_is_not_touched_and_said() -> Result<()> {
    let cluster = Cluster::of_test(&binaries!())?;
    let api = cluster.api();
    let controllers = start(&cluster)?;
    let mut theirs = object("apps/v1", "Deployment", "gate");
    theirs["spec"] = json!({
        "selector": {"matchLabels": {"app": "x"}},
        "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "x", "image": "localhost/x:1"}]}},
    });
    let before = api.apply(&theirs)?;
    api.apply(&gateway("gate", "weft-waypoint", &json!({})))?;
    let gate = object(GATEWAYS, "Gateway", "gate");
    says(api, &gate, "Programmed", "Invalid", &controllers)?;
    let words = there(api, &gate)?["status"]["conditions"].to_string();
    ensure!(words.contains("Deployment shop/gate is there and does not belong"), "{words}");
    ensure!(there(api, &theirs)?["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]);

    api.apply(&gateway("gate", "somebodys", &json!({})))?;
    let service = object("v1", "Service", "gate");
    until("the Service to go", PATIENCE, || api.get(&service).ok()?.is_none().then_some(()))?;
    ensure!(there(api, &theirs)?["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]);
    // Once it is out of the way, the waypoint's own takes its place.
    api.apply(&gateway("gate", "weft-waypoint", &json!({})))?;
    api.delete(&theirs)?;
    until("the Deployment", 2 * PATIENCE, || {
        (api.get(&theirs).ok()??["metadata"]["ownerReferences"][0]["name"] == "gate").then_some(())
    })
}

#[test]
fn objects_say_whether_they_are_in_force() -> Result<()> {
    let cluster = Cluster::of_test(&binaries!())?;
    let api = cluster.api();
    let controllers = start(&cluster)?;
    let mut web = object("v1", "Service", "web");
    web["metadata"]["labels"] = json!({"istio.io/use-waypoint": "gate"});
    web["spec"] = json!({"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]});
    api.apply(&web)?;
    says(api, &web, "istio.io/WaypointBound", "WaypointMissing", &controllers)?;

    let mut route = object(GATEWAYS, "HTTPRoute", "web");
    route["spec"] = json!({
        "parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
        "rules": [{"backendRefs": [{"name": "gone", "port": 80}]}],
    });
    api.apply(&route)?;
    says(api, &route, "Accepted", "Pending", &controllers)?;
    api.apply(&gateway("gate", "weft-waypoint", &json!({})))?;
    says(api, &web, "istio.io/WaypointBound", "WaypointAccepted", &controllers)?;
    says(api, &route, "Accepted", "Accepted", &controllers)?;
    says(api, &route, "ResolvedRefs", "BackendNotFound", &controllers)?;

    for (kind, api_version, spec, condition, reason) in [
        (
            "AuthorizationPolicy",
            SECURITY,
            json!({"targetRefs": [{"kind": "Service", "group": "", "name": "web"}]}),
            "WaypointAccepted",
            "Accepted",
        ),
        ("PeerAuthentication", SECURITY, json!({"mtls": {"mode": "STRICT"}}), "Accepted", "Accepted"),
        ("DestinationRule", NETWORKING, json!({"host": "web"}), "Accepted", "Accepted"),
        (
            "VirtualService",
            NETWORKING,
            json!({"hosts": ["web"], "http": [{"route": [{"destination": {"host": "gone"}}]}]}),
            "ResolvedRefs",
            "RefNotFound",
        ),
        (
            "ServiceEntry",
            NETWORKING,
            json!({"hosts": ["a.example"], "resolution": "DNS", "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]}),
            "Accepted",
            "Accepted",
        ),
    ] {
        let mut written = object(api_version, kind, "one");
        written["spec"] = spec;
        api.apply(&written)?;
        says(api, &written, condition, reason, &controllers)?;
    }
    // What says the same is not written again.
    let writes = || -> Result<f64> {
        let counts: Result<Vec<f64>> = controllers.iter().map(|c| c.metric("weft_status_writes_total", &[])).collect();
        Ok(counts?.iter().sum())
    };
    until("it to be quiet", PATIENCE, || {
        let before = writes().ok()?;
        std::thread::sleep(Duration::from_secs(2));
        (writes().ok()? == before).then_some(())
    })?;
    ensure!(
        controllers.iter().map(|c| c.metric("weft_status_writes_total", &["refused"])).sum::<Result<f64>>()? == 0.0
    );
    Ok(())
}

#[test]
fn requests_pass_through_the_waypoint_that_a_gateway_brought_up() -> Result<()> {
    let mut cluster = Cluster::of_test_with_nodes(&node_binaries!(), 1)?;
    cluster.import_weft(&["mesh-ctrl", "mesh-node", "mesh-waypoint"])?;
    let api = cluster.api();
    definitions(api)?;
    for object in manifests::objects()? {
        api.apply(&object)?;
    }
    api.apply(&json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "default", "labels": {"istio.io/dataplane-mode": "weft"}},
    }))?;
    api.apply(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "default", "labels": {"istio.io/use-waypoint": "gate"}},
        "spec": {
            "clusterIP": "10.96.7.7", "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        },
    }))?;
    api.apply(&pod("web", "node-1", "echo hello >/index.html; exec httpd -f -p 8080 -h /"))?;
    // Only the waypoint knows what this path leads to.
    let ask = "a=$(timeout 5 wget -qO- http://10.96.7.7/by-route) && echo \"$a\" >/www/index.html";
    api.apply(&pod(
        "client",
        "node-1",
        &format!("mkdir /www; httpd -p 8081 -h /www; while :; do {ask}; sleep 0.2; done"),
    ))?;
    let in_default = |mut object: Value| {
        object["metadata"]["namespace"] = "default".into();
        object
    };
    let gate = in_default(gateway("gate", "weft-waypoint", &json!({})));
    api.apply(&gate)?;
    let mut route = in_default(object(GATEWAYS, "HTTPRoute", "web"));
    let path = json!({"type": "ReplaceFullPath", "replaceFullPath": "/index.html"});
    route["spec"] = json!({
        "parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
        "rules": [{
            "matches": [{"path": {"type": "Exact", "value": "/by-route"}}],
            "filters": [{"type": "URLRewrite", "urlRewrite": {"path": path}}],
            "backendRefs": [{"name": "web", "port": 80}],
        }],
    });
    api.apply(&route)?;
    let begun = std::time::Instant::now();
    let up =
        until("the Gateway to be programmed", 2 * START, || has(&api.get(&gate).ok()??, "Programmed", "Programmed"));
    up.with_context(|| format!("{:#}", instances(api).unwrap_or_default()))?;
    println!("figure: a waypoint {:.1} s after its Gateway", begun.elapsed().as_secs_f64());
    let client = address(api, "client")?;
    let answered = until("a request to be led by the route", START, || {
        get(&client, 8081).ok().filter(|page| page.contains("hello")).map(drop)
    });
    answered.with_context(|| format!("{:#}", instances(api).unwrap_or_default()))?;

    // With the Gateway goes what it owns.
    api.delete(&gate)?;
    let deployment = in_default(object("apps/v1", "Deployment", "gate"));
    until("the Deployment to be collected", START, || api.get(&deployment).ok()?.is_none().then_some(()))
}

const GATEWAYS: &str = "gateway.networking.k8s.io/v1";
const SECURITY: &str = "security.istio.io/v1";
const NETWORKING: &str = "networking.istio.io/v1";

/// What has become of the waypoint's instances.
fn instances(api: &Api) -> Result<Value> {
    let list =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "gate", "namespace": "default"}});
    let gate = json!({"apiVersion": GATEWAYS, "kind": "Gateway", "metadata": {"name": "gate", "namespace": "default"}});
    let status = |object: &Value| api.get(object).ok().flatten().map(|found| found["status"].clone());
    Ok(json!([status(&list), status(&gate)]))
}

/// Two controllers that are ready, and namespace shop.
fn start(cluster: &Cluster) -> Result<[Controller; 2]> {
    let api = cluster.api();
    definitions(api)?;
    api.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}))?;
    let controllers = [Controller::start(cluster, "one", &[])?, Controller::start(cluster, "two", &[])?];
    for controller in &controllers {
        controller.wait_ready()?;
    }
    Ok(controllers)
}

fn definitions(api: &Api) -> Result<()> {
    for text in DEFINITIONS {
        let objects: Vec<Value> = serde_saphyr::from_multiple(text).context("deploy/crds is YAML")?;
        for object in objects.iter().filter(|object| !object.is_null()) {
            api.apply(object)?;
        }
    }
    let route =
        json!({"apiVersion": GATEWAYS, "kind": "HTTPRoute", "metadata": {"name": "none", "namespace": "default"}});
    until("the definitions to be served", PATIENCE, || api.get(&route).ok())?;
    Ok(())
}

fn object(api_version: &str, kind: &str, name: &str) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
    if kind != "GatewayClass" {
        object["metadata"]["namespace"] = "shop".into();
    }
    object
}

fn gateway(name: &str, class: &str, annotations: &Value) -> Value {
    let mut gateway = object(GATEWAYS, "Gateway", name);
    gateway["metadata"]["annotations"] = annotations.clone();
    gateway["spec"] =
        json!({"gatewayClassName": class, "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]});
    gateway
}

fn there(api: &Api, object: &Value) -> Result<Value> {
    until(&format!("{object} to be there"), PATIENCE, || api.get(object).ok()?)
}

/// Waits until a condition of the object, or of its first parent, has a reason.
fn says(api: &Api, object: &Value, condition: &str, reason: &str, controllers: &[Controller]) -> Result<()> {
    let what = format!("{} to say {condition} {reason}", object["kind"]);
    until(&what, 2 * PATIENCE, || has(&api.get(object).ok()??, condition, reason)).with_context(|| {
        let found = api.get(object).ok().flatten().unwrap_or_default();
        let logs: Vec<String> = controllers.iter().map(Controller::log).collect();
        format!("{:#}\n{}", found["status"], logs.join("\n\n"))
    })
}

fn has(object: &Value, condition: &str, reason: &str) -> Option<()> {
    let status = &object["status"];
    let lists = [&status["conditions"], &status["parents"][0]["conditions"]];
    let mut all = lists.iter().filter_map(|list| list.as_array()).flatten();
    all.any(|one| one["type"] == condition && one["reason"] == reason).then_some(())
}

//! The controller reads a cluster: all of it, every change, and nothing that is not so.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use weft_tests::binaries;
use weft_tests::cluster::Cluster;
use weft_tests::cluster::agent::Agent;
use weft_tests::cluster::api::Api;
use weft_tests::cluster::controller::{Controller, NAMESPACE};
use weft_tests::wait::{PATIENCE, until};

#[test]
fn what_is_in_the_cluster_is_told_and_what_changes_too() -> Result<()> {
    let cluster = Cluster::of_test(&binaries!())?;
    let api = cluster.api();
    api.apply(&namespace("shop"))?;
    run(api, &pod("web", "shop"), "10.1.0.5")?;
    api.apply(&service("web", "shop"))?;
    api.apply(&slice("web", "shop", "10.1.0.5"))?;

    let controller = Controller::start(&cluster, "controller", &[])?;
    controller.wait_ready()?;
    controller.wait_resource(WEB, true)?;
    controller.wait_resource("shop/web.shop.svc.cluster.local", true)?;

    run(api, &pod("db", "shop"), "10.1.0.6")?;
    controller.wait_resource(DB, true)?;
    api.delete(&pod("web", "shop"))?;
    controller.wait_resource(WEB, false)?;
    api.delete(&service("web", "shop"))?;
    controller.wait_resource("shop/web.shop.svc.cluster.local", false)?;

    let heard = controller.metric("weft_source_heard_timestamp_seconds", &["pods"])?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
    ensure!((now - 60.0..=now + 1.0).contains(&heard), "heard of pods at {heard}, now it is {now}");
    ensure!(controller.metric("weft_source_errors_total", &[])? == 0.0, "{}", controller.log());
    Ok(())
}

#[test]
fn policies_come_into_force_when_their_definition_is_installed_and_go_with_it() -> Result<()> {
    let cluster = Cluster::of_test(&binaries!())?;
    let api = cluster.api();
    api.apply(&namespace("shop"))?;
    let controller = Controller::start(&cluster, "controller", &[])?;
    // Ready without a single one of Istio's definitions.
    controller.wait_ready()?;

    let definition = definition("security.istio.io", "AuthorizationPolicy", "authorizationpolicies");
    api.apply(&definition)?;
    let policy = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "no-one", "namespace": "shop"}, "spec": {"action": "DENY", "rules": [{}]},
    });
    // Served a moment after it was accepted.
    until("the definition to be served", PATIENCE, || api.apply(&policy).is_ok().then_some(()))?;
    controller.wait_resource("shop/no-one", true)?;

    // What cannot be read is a finding, and what held before holds.
    let mut nonsense = policy.clone();
    nonsense["spec"] = json!({"action": "DENNY", "rules": [{}]});
    api.apply(&nonsense)?;
    until("a finding", PATIENCE, || controller.findings().is_ok_and(|f| f.contains("DENNY")).then_some(()))?;
    ensure!(controller.resources()?.contains("shop/no-one"));
    api.apply(&policy)?;
    until("no finding", PATIENCE, || controller.findings().is_ok_and(|f| !f.contains("DENNY")).then_some(()))?;

    api.delete(&definition)?;
    controller.wait_resource("shop/no-one", false)?;
    // And once more: it is followed from the beginning.
    api.apply(&definition)?;
    until("the definition to be served", PATIENCE, || api.apply(&policy).is_ok().then_some(()))?;
    controller.wait_resource("shop/no-one", true)
}

#[test]
fn a_thousand_changes_across_a_crash_of_the_api_server_all_arrive_and_nothing_else_goes() -> Result<()> {
    let mut cluster = Cluster::of_test(&binaries!())?;
    crate::identity::populate(cluster.api())?;
    cluster.api().apply(&namespace("shop"))?;
    run(cluster.api(), &pod("web", "shop"), "10.1.0.5")?;
    let controller = Controller::start(&cluster, "controller", &[])?;
    controller.wait_ready()?;
    controller.wait_resource(WEB, true)?;
    let token =
        || crate::identity::token(cluster.api(), NAMESPACE, "weft-node", Some(("Pod", "weft-node-a")), "istio-ca");
    let agent = Agent::connect(&controller, &token()?)?;
    agent.wait_synced()?;

    let writer = Api::connect(cluster.kubeconfig())?;
    let (halfway, missed) = (AtomicBool::new(false), AtomicBool::new(false));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let changes = scope.spawn(|| -> Result<()> {
            for number in 0..CHANGES {
                // Those of every third are gone again at the end.
                let mut service = service(&format!("s{}", number % NAMES), "shop");
                service["spec"]["ports"][0]["port"] = (1000 + number).into();
                let change =
                    || if number % 3 == 2 { writer.delete(&service) } else { writer.apply(&service).map(drop) };
                until("the API server to take a change", Duration::from_secs(60), || match change() {
                    Ok(()) => Some(()),
                    Err(error) => format!("{error:#}").contains("NotFound").then_some(()),
                })?;
                halfway.store(number >= CHANGES / 2, Ordering::Relaxed);
            }
            Ok(())
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if controller.resources().is_ok_and(|names| !names.contains(WEB)) {
                    missed.store(true, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        let crashed = (|| {
            until("half of the changes", Duration::from_secs(60), || halfway.load(Ordering::Relaxed).then_some(()))?;
            cluster.kill_apiserver()?;
            cluster.start_apiserver()
        })();
        let changed = changes.join().expect("the writer does not panic");
        stop.store(true, Ordering::Relaxed);
        crashed?;
        changed
    })?;
    ensure!(!missed.load(Ordering::Relaxed), "a pod that was there all along was not told for a moment");

    // The last change of each name decides.
    let last = |name: usize| (0..CHANGES).rev().find(|number| number % NAMES == name);
    let there = |name: usize| last(name).is_some_and(|number| number % 3 != 2);
    let expected: Vec<String> =
        (0..NAMES).filter(|name| there(*name)).map(|name| format!("shop/s{name}.shop.svc.cluster.local")).collect();
    ensure!(!expected.is_empty() && expected.len() < NAMES);
    let told = || controller.resources().map(|names| names.into_iter().filter(|n| n.starts_with("shop/s")).collect());
    let equal = until("what is told to be what is there", PATIENCE, || {
        told()
            .is_ok_and(|mut names: Vec<String>| {
                let mut expected = expected.clone();
                names.sort();
                expected.sort();
                names == expected
            })
            .then_some(())
    });
    equal.map_err(|error| error.context(format!("told {:?}\nthere {expected:?}\n{}", told(), controller.log())))?;
    ensure!(controller.metric("weft_source_errors_total", &[])? > 0.0, "the crash was not even noticed");

    // Word for word: what an agent believes that was there all along, one that comes fresh, and one of a controller that has
    // read the cluster only now.
    let token =
        crate::identity::token(cluster.api(), NAMESPACE, "weft-node", Some(("Pod", "weft-node-a")), "istio-ca")?;
    let fresh = Agent::connect(&controller, &token)?;
    fresh.wait_synced()?;
    let late = Controller::start(&cluster, "late", &[])?;
    late.wait_ready()?;
    let of_late = Agent::connect(&late, &token)?;
    of_late.wait_synced()?;
    let same = || (agent.believes() == fresh.believes() && fresh.believes() == of_late.believes()).then_some(());
    until("agents to believe the same", PATIENCE, same).with_context(|| {
        let (all_along, anew) = (agent.believes(), of_late.believes());
        format!("{:?}", all_along.symmetric_difference(&anew).collect::<Vec<_>>())
    })?;
    ensure!(agent.believes().len() > expected.len() && agent.believes().iter().any(|thing| thing.contains("1999")));
    Ok(())
}

#[test]
fn what_happened_behind_a_gap_in_the_history_is_found_out() -> Result<()> {
    let mut cluster = Cluster::of_test(&binaries!())?;
    cluster.api().apply(&namespace("shop"))?;
    for (number, name) in ["web", "db", "mail", "log"].iter().enumerate() {
        run(cluster.api(), &pod(name, "shop"), &format!("10.1.0.{}", number + 5))?;
    }
    let controller = Controller::start(&cluster, "controller", &[])?;
    controller.wait_ready()?;

    // Its connections end while it cannot read: what the API server sent last is not in their buffers.
    controller.signal(Signal::SIGSTOP)?;
    cluster.kill_apiserver()?;
    cluster.start_apiserver()?;
    cluster.api().delete(&pod("web", "shop"))?;
    run(cluster.api(), &pod("new", "shop"), "10.1.0.20")?;
    cluster.kill_apiserver()?;
    cluster.forget_history()?;
    cluster.start_apiserver()?;
    controller.signal(Signal::SIGCONT)?;

    controller.wait_resource("Kubernetes//Pod/shop/new", true)?;
    controller.wait_resource(WEB, false)?;
    ensure!(controller.resources()?.contains(DB));
    ensure!(
        controller.metric("weft_source_errors_total", &["gone"])? > 0.0,
        "no watch was told 410: {}",
        controller.log()
    );
    Ok(())
}

#[test]
fn a_controller_that_may_not_read_says_what_it_lacks_and_is_not_ready() -> Result<()> {
    let cluster = Cluster::of_test(&binaries!())?;
    let user = "system:serviceaccount:weft-system:nobody";
    let nobody = cluster.kubeconfig_of(user, "system:authenticated")?;
    let kubeconfig = format!("--kubeconfig={}", nobody.display());
    let Err(error) = Controller::start(&cluster, "refused", &[&kubeconfig]) else { bail!("it started") };
    ensure!(format!("{error:#}").contains("get Secret weft-system/weft-ca: "), "{error:#}");

    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "home", "namespace": NAMESPACE},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create"]}],
    });
    cluster.api().apply(&role)?;
    cluster.api().apply(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "home", "namespace": NAMESPACE},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "home"},
        "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
    }))?;
    // A role is in force a moment after it was accepted.
    let start = || Controller::start(&cluster, "controller", &[&kubeconfig]).ok();
    let controller = until("the controller to start", 4 * PATIENCE, start)?;
    let found = || controller.findings().is_ok_and(|f| f.contains("pods is forbidden")).then_some(());
    until("a finding", 2 * PATIENCE, found).map_err(|error| error.context(controller.log()))?;
    ensure!(!controller.is_ready());
    Ok(())
}

const WEB: &str = "Kubernetes//Pod/shop/web";
const DB: &str = "Kubernetes//Pod/shop/db";
const CHANGES: usize = 1000;
const NAMES: usize = 50;

pub(crate) fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"istio.io/dataplane-mode": "weft"}},
    })
}

pub(crate) fn pod(name: &str, namespace: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"nodeName": "a", "serviceAccountName": name, "containers": [{"name": "app", "image": "localhost/app:1"}]},
    })
}

/// Makes a pod and says of it what a kubelet would.
pub(crate) fn run(api: &Api, pod: &Value, ip: &str) -> Result<()> {
    api.apply(pod)?;
    let ready = json!([{"type": "Ready", "status": "True"}]);
    api.set_status(pod, &json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": ready}))
}

fn service(name: &str, namespace: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
    })
}

fn slice(name: &str, namespace: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{name}-1"), "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true},
                       "targetRef": {"kind": "Pod", "name": name, "namespace": namespace}}],
    })
}

/// A definition that takes anything.
pub(crate) fn definition(group: &str, kind: &str, plural: &str) -> Value {
    // The API server asks for this of groups below k8s.io.
    let annotations = json!({"api-approved.kubernetes.io": "unapproved, for a test"});
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let version = if group == "gateway.envoyproxy.io" { "v1alpha1" } else { "v1" };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}"), "annotations": annotations},
        "spec": {
            "group": group, "scope": if kind == "GatewayClass" { "Cluster" } else { "Namespaced" }, "names": {"kind": kind, "plural": plural},
            "versions": [{
                "name": version, "served": true, "storage": true, "schema": schema, "subresources": {"status": {}},
            }],
        },
    })
}

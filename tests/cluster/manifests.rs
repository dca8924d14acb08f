//! What is installed: `deploy/kubernetes/weft.yaml`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use mesh_analysis::api;
use serde_json::{Value, json};
use weft_tests::binaries;
use weft_tests::cluster::Cluster;
use weft_tests::cluster::controller::{Controller, NAMESPACE};
use weft_tests::wait::{PATIENCE, until};

pub(crate) const MANIFEST: &str = include_str!("../../deploy/kubernetes/weft.yaml");

/// Its objects.
pub(crate) fn objects() -> Result<Vec<Value>> {
    serde_saphyr::from_multiple(MANIFEST).context("deploy/kubernetes/weft.yaml is YAML")
}

/// Its ValidatingWebhookConfiguration.
pub(crate) fn webhooks() -> Result<Value> {
    objects()?.into_iter().find(|o| o["kind"] == "ValidatingWebhookConfiguration").context("a webhook")
}

pub(crate) const USER: &str = "system:serviceaccount:weft-system:weft-controller";

/// Calls that have to be allowed and that no log shows: asking for a pod is for API servers older than 1.32; an apply that
/// makes an object is authorized as `create` and logged as `patch`; whether a definition is gone is asked only if it went
/// without its objects.
const UNSEEN: [(&str, &str); 8] = [
    ("get", "pods"),
    ("create", "configmaps"),
    ("create", "services"),
    ("create", "serviceaccounts"),
    ("create", "deployments.apps"),
    ("create", "poddisruptionbudgets.policy"),
    ("create", "gatewayclasses.gateway.networking.k8s.io"),
    ("get", "customresourcedefinitions.apiextensions.k8s.io"),
];

/// Kinds of which the controller says whether they are in force, each with a spec that is read.
fn spoken_of() -> Vec<Value> {
    let istio = "networking.istio.io/v1";
    let (security, routes) = ("security.istio.io/v1", "gateway.networking.k8s.io/v1");
    let parents = json!({
        "parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
        "rules": [{"backendRefs": [{"name": "web", "port": 80}]}],
    });
    let mut named = parents.clone();
    named["hostnames"] = json!(["a.example"]);
    let kinds = [
        (
            istio,
            "ServiceEntry",
            json!({"hosts": ["a.example"], "resolution": "NONE", "ports": [{"number": 80, "name": "http"}]}),
        ),
        (istio, "DestinationRule", json!({"host": "web"})),
        (istio, "VirtualService", json!({"hosts": ["web"], "http": [{"route": [{"destination": {"host": "web"}}]}]})),
        (security, "PeerAuthentication", json!({})),
        (security, "AuthorizationPolicy", json!({})),
        (security, "RequestAuthentication", json!({})),
        ("telemetry.istio.io/v1", "Telemetry", json!({})),
        (routes, "HTTPRoute", parents.clone()),
        (routes, "GRPCRoute", parents.clone()),
        (routes, "TCPRoute", parents),
        (routes, "TLSRoute", named),
    ];
    let object = |(api_version, kind, spec)| json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "one", "namespace": NAMESPACE}, "spec": spec});
    kinds.map(object).into()
}

/// A waypoint with two instances, or a Gateway of somebody else's.
fn gateway(class: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "gate", "namespace": NAMESPACE, "annotations": {"weft.io/replicas": "2"}},
        "spec": {"gatewayClassName": class, "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]},
    })
}

#[test]
fn the_controllers_roles_allow_what_it_calls_for_and_nothing_else() -> Result<()> {
    let cluster = Cluster::of_test(&binaries!())?;
    let api = cluster.api();
    for object in objects()? {
        api.apply(&object)?;
    }
    for (group, kind, plural) in [
        ("security.istio.io", "PeerAuthentication", "peerauthentications"),
        ("security.istio.io", "AuthorizationPolicy", "authorizationpolicies"),
        ("networking.istio.io", "ServiceEntry", "serviceentries"),
        ("networking.istio.io", "WorkloadEntry", "workloadentries"),
        ("networking.istio.io", "DestinationRule", "destinationrules"),
        ("networking.istio.io", "VirtualService", "virtualservices"),
        ("security.istio.io", "RequestAuthentication", "requestauthentications"),
        ("telemetry.istio.io", "Telemetry", "telemetries"),
        ("gateway.envoyproxy.io", "BackendTrafficPolicy", "backendtrafficpolicies"),
        ("gateway.networking.k8s.io", "GatewayClass", "gatewayclasses"),
        ("gateway.networking.k8s.io", "Gateway", "gateways"),
        ("gateway.networking.k8s.io", "HTTPRoute", "httproutes"),
        ("gateway.networking.k8s.io", "GRPCRoute", "grpcroutes"),
        ("gateway.networking.k8s.io", "TCPRoute", "tcproutes"),
        ("gateway.networking.k8s.io", "TLSRoute", "tlsroutes"),
        ("gateway.networking.k8s.io", "ReferenceGrant", "referencegrants"),
    ] {
        api.apply(&crate::source::definition(group, kind, plural))?;
    }
    let kubeconfig = cluster.kubeconfig_of(USER, "system:serviceaccounts")?;
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    // A role is in force a moment after it was accepted.
    let start = || Controller::start(&cluster, "controller", &[&kubeconfig]).ok();
    let controller = until("the controller to start", PATIENCE, start)?;
    controller.wait_ready()?;

    let allowed = allowed(&objects()?);
    let refused = || -> Result<Vec<_>> {
        Ok(cluster.calls_of(USER)?.into_iter().filter(|(_, _, status)| *status == 403).collect())
    };
    let before = refused()?;
    // A definition that goes is asked for by its name; a caller's token is reviewed; the leader writes.
    let entry = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
        "metadata": {"name": "host", "namespace": NAMESPACE}, "spec": {"address": "10.9.9.9"},
    });
    until("the definition to be served", PATIENCE, || api.apply(&entry).is_ok().then_some(()))?;
    controller.wait_resource("Kubernetes/networking.istio.io/WorkloadEntry/weft-system/host", true)?;
    // Asked for, the leader exchanges the root.
    api.apply(&json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "weft-ca", "namespace": NAMESPACE, "annotations": {"weft.io/rotate": "1"}},
    }))?;
    // Everything that is said, made and taken away.
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": NAMESPACE, "labels": {"istio.io/use-waypoint": "gate"}},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]},
    });
    api.apply(&service)?;
    for object in spoken_of() {
        until("the definition to be served", PATIENCE, || api.apply(&object).is_ok().then_some(()))?;
    }
    api.apply(&gateway("weft-waypoint"))?;
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "gate", "namespace": NAMESPACE},
    });
    until("the waypoint's last object", 2 * PATIENCE, || api.get(&budget).ok()?)?;
    for object in [&entry, &gateway("weft-waypoint")] {
        let said = || api.get(object).ok()??["status"]["conditions"].is_array().then_some(());
        until("something to be said of it", PATIENCE, said)?;
    }
    api.apply(&gateway("somebodys"))?;
    api.delete(&crate::source::definition("networking.istio.io", "WorkloadEntry", "workloadentries"))?;
    crate::identity::call_with(&controller, "nobody's token")?;
    let used = until("every call that is allowed to be made", 2 * PATIENCE, || {
        let used: BTreeSet<(String, String)> =
            cluster.calls_of(USER).ok()?.into_iter().map(|(verb, resource, _)| (verb, resource)).collect();
        allowed
            .iter()
            .all(|call| used.contains(call) || UNSEEN.contains(&(call.0.as_str(), call.1.as_str())))
            .then_some(used)
    });
    let used = used.with_context(|| {
        let used: BTreeSet<_> = cluster
            .calls_of(USER)
            .unwrap_or_default()
            .into_iter()
            .map(|(verb, resource, _)| (verb, resource))
            .collect();
        format!("allowed and not used: {:?}", allowed.difference(&used).collect::<Vec<_>>())
    })?;
    let beyond: Vec<_> = used.difference(&allowed).collect();
    ensure!(beyond.is_empty(), "used and not allowed: {beyond:?}");
    ensure!(refused()? == before, "refused: {:?}", refused()?);
    Ok(())
}

/// Verb and resource of every rule of the roles among them.
pub(crate) fn allowed(objects: &[Value]) -> BTreeSet<(String, String)> {
    let roles = objects.iter().filter(|o| matches!(o["kind"].as_str(), Some("Role" | "ClusterRole")));
    let mut calls = BTreeSet::new();
    for rule in roles.filter_map(|role| role["rules"].as_array()).flatten() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                let resource = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
                calls.extend(texts(&rule["verbs"]).map(|verb| (verb.to_owned(), resource.clone())));
            }
        }
    }
    calls
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

#[test]
fn the_manifest_names_what_exists() -> Result<()> {
    let objects = objects()?;
    let mut by_kind: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for object in &objects {
        let (kind, metadata) = (object["kind"].as_str().context("a kind")?, &object["metadata"]);
        by_kind.entry(kind).or_default().insert(metadata["name"].as_str().context("a name")?);
        let cluster_wide =
            matches!(kind, "Namespace" | "ClusterRole" | "ClusterRoleBinding" | "ValidatingWebhookConfiguration");
        ensure!(metadata["namespace"] == if cluster_wide { Value::Null } else { json!(NAMESPACE) }, "{metadata}");
    }
    let accounts = &by_kind["ServiceAccount"];
    for object in &objects {
        if let Some(role) = object["roleRef"]["name"].as_str() {
            ensure!(by_kind[object["roleRef"]["kind"].as_str().context("a kind")?].contains(role), "{role}");
            ensure!(accounts.contains(object["subjects"][0]["name"].as_str().context("a subject")?), "{object}");
        }
        let spec = &object["spec"]["template"]["spec"];
        if let Some(account) = spec["serviceAccountName"].as_str() {
            ensure!(accounts.contains(account), "{account}");
            let volumes: BTreeSet<_> =
                spec["volumes"].as_array().into_iter().flatten().map(|v| &v["name"]).map(Value::to_string).collect();
            let mounts = spec["containers"][0]["volumeMounts"].as_array().context("mounts")?;
            let mounted: BTreeSet<_> = mounts.iter().map(|m| m["name"].to_string()).collect();
            ensure!(volumes == mounted, "{volumes:?} {mounted:?}");
        }
    }
    Ok(())
}

#[test]
fn the_webhook_is_asked_about_every_kind_that_is_known_at_a_name_that_its_certificate_has() -> Result<()> {
    let objects = objects()?;
    let configuration = webhooks()?;
    let webhook = &configuration["webhooks"][0];
    let mut asked = BTreeSet::new();
    for rule in webhook["rules"].as_array().context("rules")? {
        for group in texts(&rule["apiGroups"]) {
            asked.extend(texts(&rule["resources"]).map(|plural| (group.to_owned(), plural.to_owned())));
            // A version of a kind that is not listed is converted; one that no kind has would be a mistake.
            let known: BTreeSet<&str> =
                api::kinds().filter(|k| k.group == group).flat_map(|k| k.versions.iter().copied()).collect();
            ensure!(texts(&rule["apiVersions"]).collect::<BTreeSet<_>>() == known, "{group}: {known:?}");
        }
    }
    let known: BTreeSet<_> = api::kinds().map(|kind| (kind.group.to_owned(), kind.plural.to_owned())).collect();
    ensure!(asked == known, "{:?}", asked.symmetric_difference(&known).collect::<Vec<_>>());

    let service = &webhook["clientConfig"]["service"];
    let called = |kind: &str| objects.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == service["name"]);
    let ports = called("Service").context("the Service")?["spec"]["ports"].as_array().context("ports")?;
    let port = ports.iter().find(|port| port["port"] == service["port"]).context("its port")?;
    let container = &called("Deployment").context("the Deployment")?["spec"]["template"]["spec"]["containers"][0];
    let target = container["ports"].as_array().context("ports")?.iter().find(|p| p["name"] == port["targetPort"]);
    ensure!(target.context("the container's port")?["containerPort"] == 15017, "not the webhook's default port");
    let names = container["env"].as_array().context("env")?.iter().find(|e| e["name"] == "WEFT_SERVER_NAME");
    let names = names.and_then(|names| names["value"].as_str()).context("names")?;
    let name = format!("{}.{NAMESPACE}.svc", service["name"].as_str().context("a name")?);
    ensure!(names.split(',').any(|n| n == name), "{name} is not in {names}");
    ensure!(service["namespace"] == NAMESPACE);
    Ok(())
}

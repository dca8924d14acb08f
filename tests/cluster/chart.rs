//! The chart, `deploy/helm/weft`: what its values do, and that it installs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_tests::cluster::Cluster;
use weft_tests::cluster::helm::{CHART, Helm};
use weft_tests::wait::{PATIENCE, until};
use weft_tests::{binaries, helm, program};

use crate::manifests;

const VALUES: &str = include_str!("../../deploy/helm/weft/values.yaml");

#[test]
fn the_manifest_is_what_the_chart_renders() -> Result<()> {
    let rendered = helm!().manifest()?;
    if rendered != manifests::MANIFEST {
        let differs = rendered.lines().zip(manifests::MANIFEST.lines()).find(|(new, old)| new != old);
        bail!("deploy/kubernetes/weft.yaml is not what the chart renders: run cargo xtask manifests; {differs:?}");
    }
    Ok(())
}

#[test]
fn helm_has_nothing_to_say_against_the_chart() -> Result<()> {
    let said = helm!().run(&["lint", "--strict", CHART], &Value::Null)?;
    ensure!(said.contains("1 chart(s) linted, 0 chart(s) failed") && !said.contains("[WARNING]"), "{said}");
    Ok(())
}

#[test]
fn the_charts_version_is_the_workspaces() -> Result<()> {
    let chart: Value = serde_saphyr::from_str(&fs::read_to_string(format!("{CHART}/Chart.yaml"))?)?;
    let version = env!("CARGO_PKG_VERSION");
    ensure!(chart["version"] == version && chart["appVersion"] == version, "{chart}");
    Ok(())
}

/// Values that say something only beside another one; a test of their own tries them.
const ELSEWHERE: [&str; 4] = [
    "dashboard.labels",
    "certificateAuthority.serverName",
    "certificateAuthority.rootsConfigMap",
    "certificateAuthority.rootsKey",
];

/// Places, and what is there then.
type Shows = Vec<(String, Value)>;

/// For each value another one, and what that shows where: kind and path, of which a part may be the name of a list's item.
fn matrix() -> Vec<(&'static str, Value, Shows)> {
    let pod = |kind: &str, path: &str| format!("{kind}/spec/template/{path}");
    let controller = |path: &str| pod("Deployment", &format!("spec/containers/controller/{path}"));
    let agent = |path: &str| pod("DaemonSet", &format!("spec/containers/agent/{path}"));
    let tells = |name: &str| controller(&format!("env/{name}/value"));
    let tells_agent = |name: &str| agent(&format!("env/{name}/value"));
    let images = |registry: &str, tag: &str| {
        let image = |program: &str| json!(format!("{registry}/{program}:{tag}"));
        vec![
            (controller("image"), image("mesh-ctrl")),
            (tells("WEFT_WAYPOINT_IMAGE"), image("mesh-waypoint")),
            (agent("image"), image("mesh-node")),
        ]
    };
    let both = |name: &str, value: &str| vec![(tells(name), json!(value)), (tells_agent(name), json!(value))];
    let one = |path: String, value: Value| vec![(path, value)];
    let names = "weft-controller.weft-system.svc,weft-controller.weft-system.svc.example.org";
    let mut matrix = vec![
        ("image.registry", json!("registry.example:5000/mesh"), images("registry.example:5000/mesh", "dev")),
        ("image.tag", json!(""), images("localhost/weft", env!("CARGO_PKG_VERSION"))),
        (
            "image.pullPolicy",
            json!("Always"),
            vec![(controller("imagePullPolicy"), json!("Always")), (agent("imagePullPolicy"), json!("Always"))],
        ),
        (
            "image.pullSecrets",
            json!([{"name": "key"}]),
            ["Deployment", "DaemonSet"]
                .map(|kind| (pod(kind, "spec/imagePullSecrets"), json!([{"name": "key"}])))
                .into(),
        ),
        ("mesh.trustDomain", json!("example.org"), both("TRUST_DOMAIN", "example.org")),
        (
            "mesh.trustDomainAliases",
            json!(["a.org", "b.org"]),
            one(tells_agent("TRUST_DOMAIN_ALIASES"), json!("a.org,b.org")),
        ),
        ("mesh.clusterId", json!("0123"), both("CLUSTER_ID", "0123")),
        (
            "mesh.clusterDomain",
            json!("example.org"),
            vec![(tells("CLUSTER_DOMAIN"), json!("example.org")), (tells("WEFT_SERVER_NAME"), json!(names))],
        ),
        ("mesh.network", json!("east"), both("NETWORK", "east")),
        ("mesh.rootNamespace", json!("mesh-root"), one(tells("ROOT_NAMESPACE"), json!("mesh-root"))),
        ("mesh.dataplaneModes", json!(["weft", "team=a"]), one(tells("WEFT_DATAPLANE_MODES"), json!("weft,team=a"))),
        (
            "certificateAuthority.address",
            json!("csr.istio-system.svc:443"),
            vec![
                (tells("CA_ADDRESS"), json!("csr.istio-system.svc:443")),
                (tells("CA_ROOT_CA"), json!("/var/run/weft/authority/roots.pem")),
                (controller("volumeMounts/authority/mountPath"), json!("/var/run/weft/authority")),
                (pod("Deployment", "spec/volumes/authority/configMap/name"), json!("istio-ca-root-cert")),
                (tells_agent("CA_ADDRESS"), json!("csr.istio-system.svc:443")),
                (tells_agent("CA_ROOT_CA"), json!("/var/run/weft/authority/roots.pem")),
                (agent("volumeMounts/authority/mountPath"), json!("/var/run/weft/authority")),
                (pod("DaemonSet", "spec/volumes/authority/configMap/items/0/key"), json!("root-cert.pem")),
                (pod("DaemonSet", "spec/dnsPolicy"), json!("ClusterFirstWithHostNet")),
            ],
        ),
        ("controller.replicas", json!(3), one("Deployment/spec/replicas".to_owned(), json!(3))),
        ("controller.leafTtl", json!("1h"), one(tells("WEFT_LEAF_TTL"), json!("1h"))),
        ("controller.maxLeafTtl", json!("7d"), one(tells("WEFT_MAX_LEAF_TTL"), json!("7d"))),
        ("controller.disruptionBudget.enabled", json!(false), one("PodDisruptionBudget".to_owned(), Value::Null)),
        (
            "controller.disruptionBudget.maxUnavailable",
            json!("50%"),
            one("PodDisruptionBudget/spec/maxUnavailable".to_owned(), json!("50%")),
        ),
        ("webhook.enabled", json!(false), one("ValidatingWebhookConfiguration".to_owned(), Value::Null)),
        (
            "webhook.timeoutSeconds",
            json!(10),
            one("ValidatingWebhookConfiguration/webhooks/0/timeoutSeconds".to_owned(), json!(10)),
        ),
        (
            "webhook.excludedNamespaces",
            json!(["kube-system", "ci"]),
            one(
                "ValidatingWebhookConfiguration/webhooks/0/namespaceSelector/matchExpressions/0/values".to_owned(),
                json!(["kube-system", "ci", "weft-system"]),
            ),
        ),
        ("node.sameNode", json!("relay"), one(tells_agent("SAME_NODE"), json!("relay"))),
        ("node.sameNodeSeconds", json!(0), one(tells_agent("SAME_NODE_SECONDS"), json!("0"))),
        ("node.unknownDestinations", json!("refuse"), one(tells_agent("UNKNOWN_DESTINATIONS"), json!("refuse"))),
        ("node.transport", json!("hbone"), one(tells_agent("TRANSPORT"), json!("hbone"))),
        ("node.busyPollMicros", json!(0), one(tells_agent("BUSY_POLL_MICROS"), json!("0"))),
        ("node.paceFromMicros", json!(0), one(tells_agent("PACE_FROM_MICROS"), json!("0"))),
        ("node.workers", json!(8), one(tells_agent("WORKER_THREADS"), json!("8"))),
        (
            "node.drainSeconds",
            json!(300),
            vec![
                (tells_agent("DRAIN_SECONDS"), json!("300")),
                (pod("DaemonSet", "spec/terminationGracePeriodSeconds"), json!(330)),
            ],
        ),
        (
            "node.handoverSeconds",
            json!(60),
            vec![
                (tells_agent("HANDOVER_SECONDS"), json!("60")),
                (pod("DaemonSet", "spec/terminationGracePeriodSeconds"), json!(90)),
            ],
        ),
        (
            "node.cni.enabled",
            json!(false),
            vec![(tells_agent("CNI"), Value::Null), (agent("volumeMounts/cni-conf"), Value::Null)],
        ),
        ("node.cni.onFailure", json!("open"), one(tells_agent("CNI_ON_FAILURE"), json!("open"))),
        ("node.cni.timeoutSeconds", json!(5), one(tells_agent("CNI_TIMEOUT_SECONDS"), json!("5"))),
        (
            "node.cni.excludedNamespaces",
            json!(["ci"]),
            one(tells_agent("CNI_EXCLUDE_NAMESPACES"), json!("ci,weft-system")),
        ),
        (
            "node.cni.confDir",
            json!("/etc/net.d"),
            vec![
                (tells_agent("CNI_CONF_DIR"), json!("/etc/net.d")),
                (agent("volumeMounts/cni-conf/mountPath"), json!("/etc/net.d")),
                (pod("DaemonSet", "spec/volumes/cni-conf/hostPath/path"), json!("/etc/net.d")),
            ],
        ),
        (
            "node.cni.binDir",
            json!("/opt/bin"),
            vec![
                (tells_agent("CNI_BIN_DIR"), json!("/opt/bin")),
                (agent("volumeMounts/cni-bin/mountPath"), json!("/opt/bin")),
                (pod("DaemonSet", "spec/volumes/cni-bin/hostPath/path"), json!("/opt/bin")),
            ],
        ),
        // A number that a template would write as 1e+07.
        ("node.releaseSeconds", json!(10_000_000), one(tells_agent("RELEASE_SECONDS"), json!("10000000"))),
        ("node.certificateSeconds", json!(3600), one(tells_agent("SECRET_TTL"), json!("3600"))),
        (
            "node.updateStrategy",
            json!({"type": "OnDelete", "rollingUpdate": null}),
            one("DaemonSet/spec/updateStrategy".to_owned(), json!({"type": "OnDelete"})),
        ),
        ("waypoint.image", json!("a/b@sha256:0"), one(tells("WEFT_WAYPOINT_IMAGE"), json!("a/b@sha256:0"))),
        ("dashboard.enabled", json!(true), one("ConfigMap/metadata/name".to_owned(), json!("weft-dashboards"))),
        (
            "crds.enabled",
            json!(true),
            one("CustomResourceDefinition/metadata/labels".to_owned(), json!({"app.kubernetes.io/part-of": "weft"})),
        ),
        ("namespace.create", json!(true), one("Namespace/metadata/name".to_owned(), json!("weft-system"))),
    ];
    for (of, kind, container) in [("controller", "Deployment", "controller"), ("node", "DaemonSet", "agent")] {
        let container = |path: &str| pod(kind, &format!("spec/containers/{container}/{path}"));
        let log = if of == "controller" { "WEFT_LOG" } else { "LOG_LEVEL" };
        let format = if of == "controller" { "WEFT_LOG_FORMAT" } else { "LOG_FORMAT" };
        let affinity = json!({"podAntiAffinity": {}});
        let toleration = json!([{"key": "a", "operator": "Equal", "value": "b"}]);
        for (name, value, shows) in [
            ("image", json!("a/b:c"), (container("image"), json!("a/b:c"))),
            ("log", json!("debug,h2=off"), (container(&format!("env/{log}/value")), json!("debug,h2=off"))),
            ("logFormat", json!("json"), (container(&format!("env/{format}/value")), json!("json"))),
            (
                "resources",
                json!({"limits": {"memory": "1Gi"}}),
                (container("resources/limits"), json!({"memory": "1Gi"})),
            ),
            ("priorityClassName", json!("high"), (pod(kind, "spec/priorityClassName"), json!("high"))),
            ("nodeSelector", json!({"mesh": "true"}), (pod(kind, "spec/nodeSelector"), json!({"mesh": "true"}))),
            ("tolerations", toleration.clone(), (pod(kind, "spec/tolerations"), toleration)),
            ("affinity", affinity.clone(), (pod(kind, "spec/affinity"), affinity)),
            ("podLabels", json!({"team": "a"}), (pod(kind, "metadata/labels/team"), json!("a"))),
            ("podAnnotations", json!({"a.b/c": "1"}), (pod(kind, "metadata/annotations"), json!({"a.b/c": "1"}))),
            ("env", json!([{"name": "EXTRA", "value": "1"}]), (container("env/EXTRA/value"), json!("1"))),
        ] {
            matrix.push((&*String::leak(format!("{of}.{name}")), value, vec![shows]));
        }
    }
    matrix
}

/// A value at a path (`a.b`) and nothing else.
fn nested(path: &str, value: &Value) -> Value {
    path.rsplit('.').fold(value.clone(), |inner, key| json!({key: inner}))
}

/// What is at a path: keys, places in lists, or names of what is in them.
fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    // Keys may have a slash in them; none of those that are looked for has.
    path.split('/').skip(1).try_fold(object, |value, part| match value {
        Value::Array(items) => match part.parse::<usize>() {
            Ok(place) => items.get(place),
            Err(_) => items.iter().find(|item| item["name"] == part),
        },
        other => other.get(part),
    })
}

/// Objects by kind and name; without the definitions, a megabyte, unless they are asked for.
fn rendered(helm: &Helm, values: &Value) -> Result<BTreeMap<(String, String), Value>> {
    let mut values = values.clone();
    if values["crds"].is_null() {
        values["crds"] = json!({"enabled": false});
    }
    let objects: Vec<Value> = serde_saphyr::from_multiple(&helm.template("weft-system", &values)?)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let objects = objects.into_iter().filter(|object| !object.is_null());
    Ok(objects.map(|object| ((text(&object["kind"]), text(&object["metadata"]["name"])), object)).collect())
}

#[test]
fn every_value_changes_what_it_says_and_nothing_else() -> Result<()> {
    let helm = helm!();
    let before = rendered(&helm, &json!({}))?;
    for (path, value, shows) in matrix() {
        let after = rendered(&helm, &nested(path, &value)).with_context(|| format!("{path}={value}"))?;
        let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let changed: BTreeSet<&str> =
            keys.into_iter().filter(|key| before.get(*key) != after.get(*key)).map(|(kind, _)| kind.as_str()).collect();
        let kinds: BTreeSet<&str> = shows.iter().filter_map(|(place, _)| place.split('/').next()).collect();
        ensure!(changed == kinds, "{path}={value} changed {changed:?}");
        for (place, expected) in shows {
            let kind = place.split('/').next().unwrap_or_default();
            let find = |objects: &BTreeMap<(String, String), Value>| {
                objects.iter().find(|((k, _), _)| k == kind).and_then(|(_, object)| at(object, &place)).cloned()
            };
            let (old, new) = (find(&before), find(&after));
            ensure!(new.clone().unwrap_or_default() == expected, "{path}={value}: {place} is {new:?}");
            ensure!(old != new, "{path}={value}: {place} was {old:?} before");
        }
    }
    // What further labels of the dashboard do, which is not there by default.
    let values = json!({"dashboard": {"enabled": true, "labels": {"a": "b"}}});
    let board = rendered(&helm, &values)?.remove(&("ConfigMap".to_owned(), "weft-dashboards".to_owned()));
    let board = board.context("the dashboard")?;
    ensure!(board["metadata"]["labels"]["a"] == "b", "{}", board["metadata"]);
    let panels: Value = serde_json::from_str(board["data"]["weft-waypoints.json"].as_str().context("a file")?)?;
    ensure!(panels["uid"] == "weft-waypoints");
    Ok(())
}

#[test]
fn another_certificate_authority_is_known_by_the_name_and_the_roots_that_values_say() -> Result<()> {
    let authority =
        json!({"address": "csr:443", "serverName": "csr.example", "rootsConfigMap": "theirs", "rootsKey": "ca.crt"});
    let objects = rendered(&helm!(), &json!({"certificateAuthority": authority}))?;
    for (kind, name, container) in
        [("Deployment", "weft-controller", "controller"), ("DaemonSet", "weft-node", "agent")]
    {
        let object = objects.get(&(kind.to_owned(), name.to_owned())).with_context(|| name.to_owned())?;
        let seen = |path: &str| at(object, &format!("{kind}/spec/template/spec/{path}")).cloned().unwrap_or_default();
        ensure!(seen(&format!("containers/{container}/env/CA_SERVER_NAME/value")) == "csr.example", "{object}");
        let expected = json!({"name": "theirs", "items": [{"key": "ca.crt", "path": "roots.pem"}]});
        ensure!(seen("volumes/authority/configMap") == expected, "{object}");
    }
    Ok(())
}

/// Paths of values that stand in a line of their own, with whether a comment is above.
fn documented() -> BTreeMap<String, bool> {
    let (mut found, mut path, mut above) = (BTreeMap::new(), Vec::<(usize, &str)>::new(), "");
    for line in VALUES.lines() {
        let bare = line.trim_start();
        let depth = line.len() - bare.len();
        let key = bare.split_once(':').filter(|(key, _)| key.chars().all(char::is_alphanumeric));
        if let Some((key, _)) = key {
            path.retain(|(at, _)| *at < depth);
            path.push((depth, key));
            let full: Vec<&str> = path.iter().map(|(_, key)| *key).collect();
            found.insert(full.join("."), above.trim_start().starts_with('#'));
        }
        above = line;
    }
    found
}

#[test]
fn every_value_is_documented_and_tried() -> Result<()> {
    let documented = documented();
    let tried: BTreeSet<&str> = matrix().iter().map(|(path, ..)| *path).chain(ELSEWHERE).collect();
    for path in &tried {
        ensure!(documented.get(*path) == Some(&true), "{path}: values.yaml says nothing of it, in a comment above");
    }
    let values: Value = serde_saphyr::from_str(VALUES)?;
    let mut left = vec![(String::new(), &values)];
    while let Some((path, value)) = left.pop() {
        if tried.contains(path.as_str()) {
            continue;
        }
        let inner = value.as_object().with_context(|| format!("{path}: no test tries another value"))?;
        let below = |key: &String| if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        left.extend(inner.iter().map(|(key, value)| (below(key), value)));
    }
    Ok(())
}

#[test]
fn values_that_cannot_be_are_refused_with_where_and_why() -> Result<()> {
    let helm = helm!();
    for (path, value, expected) in [
        ("controler.replicas", json!(3), "additional properties 'controler' not allowed"),
        ("controller.replica", json!(3), "at '/controller': additional properties 'replica' not allowed"),
        ("controller.replicas", json!(0), "at '/controller/replicas': minimum: got 0, want 1"),
        ("controller.replicas", json!("two"), "at '/controller/replicas': got string, want integer"),
        ("controller.logFormat", json!("xml"), "at '/controller/logFormat': value must be one of 'text', 'json'"),
        ("controller.leafTtl", json!("1 day"), "at '/controller/leafTtl': '1 day' does not match pattern"),
        ("controller.env", json!([{"value": "1"}]), "at '/controller/env/0': missing property 'name'"),
        ("controller.podLabels", json!({"app": "x"}), "at '/controller/podLabels/app': false schema"),
        ("controller.resources", json!({"request": {}}), "additional properties 'request' not allowed"),
        ("image.pullPolicy", json!("Sometimes"), "value must be one of 'Always', 'IfNotPresent', 'Never'"),
        ("image.tag", json!("a b"), "at '/image/tag': 'a b' does not match pattern"),
        ("image.registry", json!("a/"), "at '/image/registry': 'a/' does not match pattern"),
        ("mesh.trustDomain", json!("UPPER"), "at '/mesh/trustDomain': 'UPPER' does not match pattern"),
        (
            "certificateAuthority.address",
            json!("csr"),
            "at '/certificateAuthority/address': 'csr' does not match pattern",
        ),
        ("mesh.clusterId", json!("a/b"), "at '/mesh/clusterId': 'a/b' does not match pattern"),
        ("mesh.dataplaneModes", json!([]), "at '/mesh/dataplaneModes': minItems: got 0, want 1"),
        ("node.sameNode", json!("far"), "at '/node/sameNode': value must be one of 'direct', 'relay'"),
        ("node.transport", json!("quic"), "at '/node/transport': value must be one of 'auto', 'hbone'"),
        ("node.unknownDestinations", json!("maybe"), "value must be one of 'allow', 'refuse'"),
        ("node.cni.onFailure", json!("ask"), "at '/node/cni/onFailure': value must be one of 'closed', 'open'"),
        ("node.cni.timeoutSeconds", json!(0), "at '/node/cni/timeoutSeconds': minimum: got 0, want 1"),
        ("node.busyPollMicros", json!(10001), "at '/node/busyPollMicros': maximum: got 10,001, want 10,000"),
        ("node.paceFromMicros", json!(-1), "at '/node/paceFromMicros': minimum: got -1, want 0"),
        ("node.workers", json!(257), "at '/node/workers': maximum: got 257, want 256"),
        ("node.certificateSeconds", json!(1), "at '/node/certificateSeconds': minimum: got 1, want 10"),
        ("webhook.timeoutSeconds", json!(31), "at '/webhook/timeoutSeconds': maximum: got 31, want 30"),
        ("webhook.enabled", json!("yes"), "at '/webhook/enabled': got string, want boolean"),
    ] {
        match helm.template("weft-system", &nested(path, &value)) {
            Ok(_) => bail!("{path}={value} was taken"),
            Err(error) => ensure!(error.to_string().contains(expected), "{path}={value}: {error}"),
        }
    }
    Ok(())
}

#[test]
fn a_program_knows_every_setting_that_it_is_told() -> Result<()> {
    let objects = rendered(&helm!(), &json!({"node": {"workers": 2}}))?;
    for (kind, name, program) in
        [("Deployment", "weft-controller", "mesh-ctrl"), ("DaemonSet", "weft-node", "mesh-node")]
    {
        let help = Command::new(program::built(program)?).arg("--help").output()?;
        let help = String::from_utf8(help.stdout)?;
        let pod = &objects[&(kind.to_owned(), name.to_owned())]["spec"]["template"]["spec"];
        for variable in pod["containers"][0]["env"].as_array().context("its environment")? {
            let variable = variable["name"].as_str().context("a name")?;
            ensure!(help.contains(&format!("[env: {variable}=")), "{program} does not know {variable}");
        }
    }
    Ok(())
}

#[test]
fn in_another_namespace_nothing_names_the_usual_one() -> Result<()> {
    let rendered = helm!().template("mesh", &json!({"namespace": {"create": true}, "dashboard": {"enabled": true}}))?;
    let stray: Vec<&str> = rendered.lines().filter(|line| line.contains("weft-system")).collect();
    ensure!(stray.is_empty(), "{stray:?}");
    for needed in ["weft-controller.mesh.svc,weft-controller.mesh.svc.cluster.local", "namespace: mesh, port: 443"] {
        ensure!(rendered.contains(needed), "{needed} is missing");
    }
    Ok(())
}

#[test]
fn an_api_server_takes_every_object_whatever_the_values() -> Result<()> {
    let helm = helm!();
    let cluster = Cluster::of_test(&binaries!())?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "weft-system"}});
    cluster.api().apply(&namespace)?;
    let mut tried = 0;
    for (path, value, _) in matrix() {
        let objects = rendered(&helm, &nested(path, &value))?;
        for object in objects.into_values().filter(|object| object["kind"] != "Namespace") {
            let answer = cluster.api().try_create(&object)?;
            ensure!(answer.status == 201, "{path}={value}: {} {answer:?}", object["kind"]);
            tried += 1;
        }
    }
    println!("figure: {tried} objects were tried");
    Ok(())
}

#[test]
fn a_release_installs_upgrades_and_goes_and_leaves_definitions_of_others_alone() -> Result<()> {
    let helm = helm!();
    let cluster = Cluster::of_test(&binaries!())?;
    let api = cluster.api();
    let mut theirs = crate::source::definition("networking.istio.io", "VirtualService", "virtualservices");
    theirs["metadata"]["labels"] = json!({"owner": "somebody-else"});
    api.apply(&theirs)?;

    let kubeconfig = format!("--kubeconfig={}", cluster.kubeconfig().display());
    let release = ["weft", CHART, "--namespace=mesh", &kubeconfig];
    helm.run(&[&["install", "--create-namespace"][..], &release].concat(), &json!({}))?;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "weft-controller", "namespace": "mesh"},
    });
    ensure!(api.get(&deployment)?.context("the controller")?["spec"]["replicas"] == 2);
    let ours = crate::source::definition("networking.istio.io", "DestinationRule", "destinationrules");
    ensure!(api.get(&ours)?.context("a definition that was not there")?["spec"]["names"]["shortNames"][0] == "dr");
    let kept = api.get(&theirs)?.context("a definition that was there")?;
    ensure!(
        kept["metadata"]["labels"]["owner"] == "somebody-else" && kept["spec"]["names"]["shortNames"].is_null(),
        "{kept}"
    );

    helm.run(
        &[&["upgrade"][..], &release].concat(),
        &json!({"controller": {"replicas": 3}, "webhook": {"enabled": false}}),
    )?;
    ensure!(api.get(&deployment)?.context("the controller")?["spec"]["replicas"] == 3);
    let webhook = manifests::webhooks()?;
    ensure!(api.get(&webhook)?.is_none(), "the webhook is still there");
    ensure!(api.get(&ours)?.is_some(), "an upgrade took a definition away");
    ensure!(api.get(&theirs)?.context("a definition that was there")?["spec"] == kept["spec"], "an upgrade changed it");

    helm.run(&["uninstall", "weft", "--namespace=mesh", &kubeconfig], &Value::Null)?;
    for mut object in manifests::objects()?.into_iter().filter(|object| object["kind"] != "Namespace") {
        if object["metadata"]["namespace"].is_string() {
            object["metadata"]["namespace"] = json!("mesh");
        }
        until("it to be gone", PATIENCE, || api.get(&object).ok()?.is_none().then_some(()))
            .with_context(|| format!("{} {}", object["kind"], object["metadata"]["name"]))?;
    }
    ensure!(api.get(&ours)?.is_some(), "what was made of a definition would have gone with it");
    Ok(())
}

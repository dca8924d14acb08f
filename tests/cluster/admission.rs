//! The API server asks the controller before it keeps an object, and goes on without it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use weft_tests::binaries;
use weft_tests::cluster::Cluster;
use weft_tests::cluster::api::{Answer, Api};
use weft_tests::cluster::controller::Controller;
use weft_tests::wait::{PATIENCE, until};

use crate::manifests;

#[test]
fn broken_objects_are_refused_with_their_findings_and_good_ones_are_admitted() -> Result<()> {
    let cluster = Cluster::of_test(&binaries!())?;
    let api = cluster.api();
    install(api)?;
    let controller = Controller::start(&cluster, "controller", &[])?;
    api.apply(&configuration(&controller)?)?;
    wait_refused(api, &broken("shop"))?;

    let (mut by_webhook, mut by_definition) = (0, 0);
    for (name, text, object) in fixtures("bad")? {
        let answer = served(api, &object)?;
        ensure!(answer.status >= 400, "{name}: admitted");
        if !answer.message.contains(DENIED) {
            // Its definition says so before the webhook is asked.
            by_definition += 1;
            continue;
        }
        ensure!(answer.status == 422, "{name}: {answer:?}");
        for expected in expectations(&text) {
            let said = if expected.warns { answer.warnings.join("\n") } else { answer.message.clone() };
            ensure!(said.contains(&expected.text), "{name}: {:?} is not in {said}", expected.text);
        }
        by_webhook += 1;
    }
    ensure!(by_webhook >= 40, "{by_webhook} by the webhook, {by_definition} by definitions");

    let (mut admitted, mut kinds) = (0, BTreeSet::new());
    for (name, text, mut object) in fixtures("good")? {
        let answer = served(api, &object)?;
        ensure!(answer.status == 201, "{name}: {answer:?}");
        for expected in expectations(&text) {
            ensure!(answer.warnings.join("\n").contains(&expected.text), "{name}: {answer:?}");
        }
        admitted += 1;
        // What is wrong with any kind but this one: nothing of it can be tried.
        if object["kind"] != "AuthorizationPolicy" {
            object["metadata"]["annotations"] = json!({"istio.io/dry-run": "true"});
            let answer = served(api, &object)?;
            let said = format!("{DENIED}bad-annotation: metadata.annotations[istio.io/dry-run]: ");
            ensure!(answer.message.starts_with(&said), "{name}: {answer:?}");
        }
        kinds.insert(object["kind"].to_string());
    }
    ensure!(admitted >= 40, "{admitted}");
    let known: BTreeSet<String> = mesh_analysis::api::kinds().map(|kind| json!(kind.kind).to_string()).collect();
    ensure!(kinds == known, "{:?}", known.symmetric_difference(&kinds).collect::<Vec<_>>());
    println!("figure: {by_webhook} refused by the webhook, {by_definition} by definitions, {admitted} admitted");

    // As a manifest may have it: the name is made before anybody is asked.
    let mut nameless = broken("shop");
    nameless["metadata"] = json!({"generateName": "blocks-", "namespace": "shop"});
    ensure!(served(api, &nameless)?.message.contains(DENIED));
    nameless["spec"] = json!({});
    ensure!(served(api, &nameless)?.status == 201);
    // Who says so is not asked about.
    let mut skipped = broken("shop");
    skipped["metadata"]["labels"] = json!({"weft.io/validate": "false"});
    ensure!(served(api, &skipped)?.status == 201);
    for namespace in ["kube-system", "weft-system", "free"] {
        ensure!(served(api, &broken(namespace))?.status == 201, "{namespace}");
    }

    let refused = controller.metric("weft_admission_reviews_total", &["refused"])?;
    ensure!(refused >= f64::from(by_webhook), "{refused} of {by_webhook} are counted");
    ensure!(controller.metric("weft_admission_reviews_total", &["malformed"])? == 0.0);
    Ok(())
}

/// Two controllers; the API server asks the one that does not lead.
#[test]
fn nobody_waits_for_a_controller_that_is_away_and_what_was_let_in_can_be_changed_and_deleted() -> Result<()> {
    let cluster = Cluster::of_test(&binaries!())?;
    let api = cluster.api();
    install(api)?;
    // Somebody else's root is to be trusted too, as when the root is about to change.
    let next = others(cluster.kubeconfig())?;
    let next_root = format!("--root-cert={}", next.display());
    let leader = Controller::start(&cluster, "leader", &[&next_root])?;
    let leads = || leader.metric("weft_leader", &[]).is_ok_and(|leads| leads == 1.0).then_some(());
    until("a leader", PATIENCE, leads)?;
    let asked = Controller::start(&cluster, "asked", &[&next_root])?;
    let configuration = configuration(&asked)?;
    api.apply(&configuration)?;
    let broken = broken("shop");
    wait_refused(api, &broken)?;

    // Emptied, or made anew by whoever installs, or with somebody else's roots: the leader sees it and writes its own.
    let (mut emptied, mut foreign) = (configuration.clone(), configuration.clone());
    emptied["webhooks"][0]["clientConfig"]["caBundle"] = json!("");
    foreign["webhooks"][0]["clientConfig"]["caBundle"] = json!(BASE64_STANDARD.encode(fs::read(&next)?));
    let ours = bundle(api, &configuration)?;
    let roots = String::from_utf8(BASE64_STANDARD.decode(ours.as_str().context("roots")?)?)?;
    ensure!(roots.matches("BEGIN CERTIFICATE").count() == 2, "{roots}");
    for other in [&emptied, &foreign] {
        api.apply(other)?;
        wait_bundle(api, &ours)?;
        wait_refused(api, &broken)?;
    }
    api.delete(&configuration)?;
    api.apply(&configuration)?;
    wait_bundle(api, &ours)?;
    wait_refused(api, &broken)?;

    // Nobody leads until the Lease is over: the roots stay wrong, and whatever comes is taken.
    leader.signal(Signal::SIGKILL)?;
    api.apply(&foreign)?;
    let mut held = broken.clone();
    held["metadata"]["finalizers"] = json!(["weft.io/held"]);
    until("a broken object to be taken", PATIENCE, || api.apply(&held).is_ok().then_some(()))?;
    let by_wrong_roots = api.try_create(&named(&broken, "other"))?;
    ensure!(by_wrong_roots.status == 201 && bundle(api, &configuration)? != ours, "{by_wrong_roots:?}");
    let begun = Instant::now();
    wait_bundle(api, &ours)?;
    wait_refused(api, &named(&broken, "other"))?;
    println!("figure: the next leader has mended the roots after {:.1} s", begun.elapsed().as_secs_f64());

    // What is in is not held against a label, and neither is what it says when it goes.
    held["metadata"]["labels"] = json!({"team": "a"});
    api.apply(&held)?;
    let mut worse = held.clone();
    worse["spec"]["rules"][0]["from"][0]["source"]["namespaces"] = json!(["edge"]);
    let refused = api.apply(&worse).err().context("another broken spec is taken")?;
    ensure!(format!("{refused:#}").contains("bad-address: spec.rules[0].from[0].source.ipBlocks[0]: "), "{refused:#}");
    api.delete(&held)?;
    held["metadata"]["finalizers"] = json!([]);
    api.apply(&held)?;
    until("the object to be gone", PATIENCE, || api.get(&held).is_ok_and(|found| found.is_none()).then_some(()))?;

    // One that hangs costs its three seconds, one that has ended nothing.
    for (signal, most) in [(Signal::SIGSTOP, Duration::from_secs(5)), (Signal::SIGKILL, Duration::from_secs(2))] {
        asked.signal(signal)?;
        let begun = Instant::now();
        let answer = api.try_create(&broken)?;
        let took = begun.elapsed();
        println!("figure: {signal}: answered after {:.2} s", took.as_secs_f64());
        ensure!(answer.status == 201 && took < most, "{signal} {took:?} {answer:?}");
        let others = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "shop"}});
        let begun = Instant::now();
        ensure!(api.try_create(&others)?.status == 201 && begun.elapsed() < Duration::from_secs(1));
    }
    Ok(())
}

/// A controller whose roles lack the one call.
#[test]
fn a_controller_that_may_not_write_the_roots_says_so_and_serves() -> Result<()> {
    let cluster = Cluster::of_test(&binaries!())?;
    let api = cluster.api();
    for mut object in manifests::objects()? {
        if object["kind"] == "ClusterRole" {
            let rules = object["rules"].as_array_mut().context("rules")?;
            rules.retain(|rule| rule["apiGroups"][0] != "admissionregistration.k8s.io");
        }
        api.apply(&object)?;
    }
    let kubeconfig = cluster.kubeconfig_of(manifests::USER, "system:serviceaccounts")?;
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let start = || Controller::start(&cluster, "controller", &[&kubeconfig]).ok();
    let controller = until("the controller to start", PATIENCE, start)?;
    controller.wait_ready()?;
    let said = || controller.log().contains("the ValidatingWebhookConfiguration cannot be watched").then_some(());
    until("the lack to be said", PATIENCE, said)
}

const DENIED: &str = "admission webhook \"validation.weft.io\" denied the request: ";

/// Definitions and namespaces of the fixtures.
fn install(api: &Api) -> Result<()> {
    for file in [include_str!("../../deploy/crds/istio.yaml"), include_str!("../../deploy/crds/gateway-api.yaml")] {
        for definition in serde_saphyr::from_multiple::<Value>(file)? {
            api.apply(&definition)?;
        }
    }
    for name in ["shop", "edge", "backends", "istio-system", "team-a", "free"] {
        let labels = if name == "free" { json!({"weft.io/validate": "false"}) } else { json!({}) };
        api.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}))?;
    }
    Ok(())
}

/// That of the manifest, with the controller where it is in tests: no Service leads to loopback.
fn configuration(controller: &Controller) -> Result<Value> {
    let url = format!("https://{}/validate", controller.webhook()?);
    let mut configuration = manifests::webhooks()?;
    configuration["webhooks"][0]["clientConfig"] = json!({"url": url});
    Ok(configuration)
}

/// A policy that no definition finds anything wrong with: the block has a bit too many.
pub(crate) fn broken(namespace: &str) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "blocks", "namespace": namespace},
        "spec": {"rules": [{"from": [{"source": {"ipBlocks": ["10.0.0.0/33"]}}]}]},
    })
}

fn named(object: &Value, name: &str) -> Value {
    let mut object = object.clone();
    object["metadata"]["name"] = json!(name);
    object
}

/// Waits until the webhook refuses what it should.
pub(crate) fn wait_refused(api: &Api, object: &Value) -> Result<()> {
    let refused = || api.try_create(object).is_ok_and(|answer| answer.message.contains(DENIED)).then_some(());
    until("the webhook to refuse", 3 * PATIENCE, refused).with_context(|| format!("{:?}", api.try_create(object)))
}

/// What becomes of it once its definition is served, which is a moment after it was accepted.
fn served(api: &Api, object: &Value) -> Result<Answer> {
    let answer = || api.try_create(object).ok().filter(|answer| answer.status != 404);
    until("the definition to be served", PATIENCE, answer)
}

fn bundle(api: &Api, configuration: &Value) -> Result<Value> {
    let found = api.get(configuration)?.context("the configuration")?;
    Ok(found["webhooks"][0]["clientConfig"]["caBundle"].clone())
}

fn wait_bundle(api: &Api, wanted: &Value) -> Result<()> {
    let configuration = manifests::webhooks()?;
    let there = || bundle(api, &configuration).is_ok_and(|bundle| bundle == *wanted).then_some(());
    until("the roots to be written", 3 * PATIENCE, there)
}

/// A root that is none of ours: the API server's own.
fn others(kubeconfig: &Path) -> Result<PathBuf> {
    let file: Value = serde_saphyr::from_str(&fs::read_to_string(kubeconfig)?)?;
    Ok(file["clusters"][0]["cluster"]["certificate-authority"].as_str().context("a root")?.into())
}

/// Name, text and object of each of the files that `mesh-analysis` is tested with.
fn fixtures(folder: &str) -> Result<Vec<(String, String, Value)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mesh-analysis/tests/objects").join(folder);
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let text = fs::read_to_string(entry.path())?;
        let object = serde_saphyr::from_str(&text)?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), (text, object));
    }
    Ok(files.into_iter().map(|(name, (text, object))| (name, text, object)).collect())
}

/// What a fixture's first lines announce, as admission words it.
struct Expected {
    text: String,
    warns: bool,
}

fn expectations(text: &str) -> Vec<Expected> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# expect: ")).filter(|line| *line != "nothing");
    let expected = lines.filter_map(|line| line.split_once(' ')).map(|(code, path)| {
        let severity = mesh_analysis::Code::ALL.iter().find(|known| known.as_str() == code).map(|code| code.severity());
        Expected { text: format!("{code}: {path}: "), warns: severity != Some(mesh_analysis::Severity::Error) }
    });
    expected.collect()
}

//! The nodes' part: agents end, and a pod made as theirs are removes what they left.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::Client;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::objects::{Objects, kinds, name};
use super::waiting::until;

/// Ends the agents and cleans their nodes. The DaemonSet is the last to go: it says which nodes there are, and how to get at
/// them.
pub(super) async fn clean(client: &Client, namespace: &str, skipped: &[String], patience: Duration) -> Result<()> {
    let sets = Objects::new(client, kinds::DAEMON_SET, Some(namespace));
    let pods = Objects::new(client, kinds::POD, Some(namespace));
    let Some(set) = sets.get(AGENT).await? else { return Ok(()) };
    let selector = selector(&set["spec"]["selector"]["matchLabels"]);
    // An earlier run has written down which nodes there were.
    let nodes: BTreeSet<String> = match set["metadata"]["annotations"][NODES].as_str() {
        Some(nodes) => nodes.split(',').filter(|node| !node.is_empty()).map(str::to_owned).collect(),
        None => pods
            .list(&selector)
            .await?
            .iter()
            .filter_map(|p| Some(p["spec"]["nodeName"].as_str()?.to_owned()))
            .collect(),
    };
    let all: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let nowhere = json!({
        "metadata": {"annotations": {NODES: all.join(",")}},
        "spec": {"template": {"spec": {"nodeSelector": {"weft.io/uninstalled": "true"}}}},
    });
    sets.merge(AGENT, &nowhere).await?;
    info!(nodes = nodes.len(), "agents end");
    end(&pods, &selector, skipped, patience).await?;

    let left: Vec<&String> = nodes.iter().filter(|node| !skipped.contains(node)).collect();
    for node in &left {
        let pod = cleaner(&set["spec"]["template"]["spec"], namespace, node);
        pods.create(name(&pod), pod.clone()).await?;
    }
    let states = Cell::new(BTreeMap::new());
    let cleaned = until("the nodes to be clean", patience, async || {
        let now: BTreeMap<String, String> = pods.list("app=weft-uninstall").await?.iter().map(state).collect();
        let done = left.iter().all(|node| now.get(*node).is_some_and(|state| state == DONE));
        states.set(now);
        Ok(done)
    });
    if let Err(error) = cleaned.await {
        let states = states.into_inner();
        let stuck: Vec<String> = left
            .iter()
            .map(|node| (node, states.get(*node).map_or("no pod", String::as_str)))
            .filter(|(_, state)| *state != DONE)
            .map(|(node, state)| format!("{node} ({state})"))
            .collect();
        bail!(
            "{error:#}: {}. Run this again once they are up; --skip-node for those that are gone for good",
            stuck.join(", ")
        );
    }
    info!(nodes = left.len(), "nodes are clean");
    for node in &left {
        pods.delete(&pod_name(node)).await?;
    }
    sets.delete(AGENT).await
}

/// Waits for the agents to end. One that has a successor takes its time for its connections; it is not given that here.
async fn end(pods: &Objects, selector: &str, skipped: &[String], patience: Duration) -> Result<()> {
    let (begun, cut) = (Instant::now(), Cell::new(false));
    until("the agents to end", patience, async || {
        let mut left = pods.list(selector).await?;
        left.retain(|pod| !skipped.iter().any(|node| pod["spec"]["nodeName"] == **node));
        if begun.elapsed() > DRAIN && !cut.replace(true) {
            for pod in &left {
                warn!(pod = name(pod), "an agent still has connections; they are cut");
                pods.cut(name(pod)).await?;
            }
        }
        Ok(left.is_empty())
    })
    .await
    .context("agents are there yet: is their node up? --skip-node for those that are gone for good")
}

/// A pod that removes what an agent left on a node, made of the agents' own template.
fn cleaner(template: &Value, namespace: &str, node: &str) -> Value {
    let mut spec = template.clone();
    let mut container = spec["containers"][0].clone();
    if let Some(fields) = container.as_object_mut() {
        for field in ["startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "ports", "command"] {
            fields.remove(field);
        }
    }
    container["args"] = json!(["uninstall"]);
    container["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    spec["containers"] = json!([container]);
    if let Some(fields) = spec.as_object_mut() {
        for field in ["nodeSelector", "affinity", "topologySpreadConstraints"] {
            fields.remove(field);
        }
    }
    spec["nodeName"] = json!(node);
    spec["restartPolicy"] = json!("OnFailure");
    spec["terminationGracePeriodSeconds"] = json!(1);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": pod_name(node), "namespace": namespace,
            "labels": {"app": "weft-uninstall", "istio.io/dataplane-mode": "none"},
        },
        "spec": spec,
    })
}

fn pod_name(node: &str) -> String {
    format!("weft-uninstall-{node}")
}

/// A cleaner's node, and how far it is.
fn state(pod: &Value) -> (String, String) {
    let status = &pod["status"];
    let container = &status["containerStatuses"][0];
    let text = |value: &Value| value.as_str().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let said = text(&container["lastState"]["terminated"]["message"])
        .or_else(|| text(&container["state"]["terminated"]["message"]))
        .or_else(|| text(&container["state"]["waiting"]["message"]))
        .or_else(|| text(&container["state"]["waiting"]["reason"]));
    let phase = status["phase"].as_str().unwrap_or("Unknown");
    let state = match said {
        Some(said) if phase != DONE => said,
        _ => phase.to_owned(),
    };
    (pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned(), state)
}

fn selector(labels: &Value) -> String {
    let labels = labels.as_object().into_iter().flatten();
    let pairs: Vec<String> = labels.filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect();
    pairs.join(",")
}

/// Name of the agents' DaemonSet.
const AGENT: &str = "weft-node";
/// Annotation of it: nodes that agents were on when they were told to go.
const NODES: &str = "weft.io/uninstall-nodes";
/// How long agents may let connections run on.
const DRAIN: Duration = Duration::from_secs(30);
/// The phase of a pod that has done what it was to do.
const DONE: &str = "Succeeded";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cleaner_is_an_agents_pod_that_runs_once_on_its_node() {
        let template = json!({
            "hostNetwork": true, "nodeSelector": {"weft.io/uninstalled": "true"}, "terminationGracePeriodSeconds": 270,
            "containers": [{
                "name": "agent", "image": "localhost/weft/mesh-node:dev", "args": ["--log-format=json"],
                "env": [{"name": "PIN_DIR", "value": "/sys/fs/bpf/weft"}], "readinessProbe": {"httpGet": {"port": 15000}},
                "volumeMounts": [{"name": "bpf", "mountPath": "/sys/fs/bpf"}],
            }],
            "volumes": [{"name": "bpf", "hostPath": {"path": "/sys/fs/bpf"}}],
        });
        let pod = cleaner(&template, "weft-system", "node-1.example");
        let (spec, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
        assert_eq!(pod["metadata"]["name"], "weft-uninstall-node-1.example");
        assert_eq!((&spec["nodeName"], &spec["hostNetwork"]), (&json!("node-1.example"), &json!(true)));
        assert_eq!((&spec["nodeSelector"], &container["readinessProbe"]), (&Value::Null, &Value::Null));
        assert_eq!(container["args"], json!(["uninstall"]));
        assert_eq!(container["volumeMounts"], template["containers"][0]["volumeMounts"]);
        assert_eq!(spec["restartPolicy"], "OnFailure");
    }

    #[test]
    fn what_a_cleaner_said_last_is_how_far_it_is() {
        let pod = |status: Value| json!({"spec": {"nodeName": "a"}, "status": status});
        let failed = pod(json!({
            "phase": "Running",
            "containerStatuses": [{"lastState": {"terminated": {"message": "pins are of another release\n"}}}],
        }));
        assert_eq!(state(&failed).1, "pins are of another release");
        assert_eq!(state(&pod(json!({"phase": "Pending"}))).1, "Pending");
        let done = json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"message": "all"}}}]});
        assert_eq!(state(&pod(done)), ("a".to_owned(), DONE.to_owned()));
    }

    #[test]
    fn labels_are_a_selector() {
        assert_eq!(selector(&json!({"a": "b", "c": "d"})), "a=b,c=d");
    }
}

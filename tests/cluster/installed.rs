//! Weft on two nodes, and pods that talk meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::cluster::Cluster;
use weft_tests::cluster::api::Api;
use weft_tests::cluster::binaries::Binaries;
use weft_tests::wait::until;

use crate::manifests;
use crate::nodes::{START, address, get};

/// The image of `traffic`.
pub(crate) const TRAFFIC: &str = "localhost/weft-tests/traffic:1";

/// A cluster of two nodes with Weft's images, and its manifest applied.
pub(crate) fn begin(binaries: &Binaries) -> Result<Cluster> {
    begin_on(Cluster::of_test_with_nodes(binaries, 2)?)
}

fn begin_on(mut cluster: Cluster) -> Result<Cluster> {
    cluster.import_weft(&["mesh-ctrl", "mesh-node"])?;
    for object in manifests::objects()? {
        cluster.api().apply(&object)?;
    }
    Ok(cluster)
}

/// As [`begin`], with [`TRAFFIC`], once controllers and agents are ready.
pub(crate) fn with_traffic(binaries: &Binaries) -> Result<Cluster> {
    with_traffic_on(Cluster::of_test_with_nodes(binaries, 2)?)
}

/// As [`with_traffic`], on a cluster that is there.
pub(crate) fn with_traffic_on(cluster: Cluster) -> Result<Cluster> {
    let mut cluster = begin_on(cluster)?;
    cluster.import(TRAFFIC, "traffic")?;
    ready(cluster.api())?;
    Ok(cluster)
}

/// An object of weft-system that is in no list of ours: its kind and name.
pub(crate) fn object(kind: &str, name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "weft-system"}})
}

/// Waits until controllers and agents are.
pub(crate) fn ready(api: &Api) -> Result<()> {
    let count = |kind, name, field: &str| {
        api.get(&object(kind, name)).ok().flatten().and_then(|found| found["status"][field].as_u64())
    };
    let all = until("controllers and agents to be ready", START, || {
        let counts =
            [count("Deployment", "weft-controller", "readyReplicas"), count("DaemonSet", "weft-node", "numberReady")];
        (counts == [Some(2), Some(2)]).then_some(())
    });
    all.with_context(|| {
        format!("{:?}", api.get(&object("DaemonSet", "weft-node")).ok().flatten().map(|d: Value| d["status"].clone()))
    })
}

/// Labels the namespace `default`, or takes the label away.
pub(crate) fn label(api: &Api, mode: Option<&str>) -> Result<()> {
    let labels = mode.map_or_else(|| json!({}), |mode| json!({"istio.io/dataplane-mode": mode}));
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", "labels": labels}});
    api.apply(&namespace).map(drop)
}

/// A Service with address `ip`, for the ports of [`server`].
pub(crate) fn service(name: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "clusterIP": ip, "selector": {"app": name},
            "ports": [
                {"name": "http", "port": 80, "targetPort": 8080}, {"name": "tcp-echo", "port": 7000, "targetPort": 7000},
            ],
        },
    })
}

/// A Deployment of `traffic serve` on one node, with what a sane user gives it: readiness, and time to go.
pub(crate) fn server(name: &str, node: &str, replicas: u8) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "nodeSelector": {"kubernetes.io/hostname": node}, "terminationGracePeriodSeconds": 30,
                    "containers": [{
                        "name": "app", "image": TRAFFIC, "imagePullPolicy": "Never",
                        "args": ["serve", "--port", "8080", "--echo", "7000", "--name", name],
                        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
                        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
                    }],
                },
            },
        },
    })
}

/// A pod of `traffic load`.
pub(crate) fn client(name: &str, node: &str, arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = ["load"].into_iter().chain(arguments.iter().copied()).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {
            "nodeName": node, "serviceAccountName": "default", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "app", "image": TRAFFIC, "imagePullPolicy": "Never", "args": arguments}],
        },
    })
}

/// What a client's connections of one manner have come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fared {
    pub(crate) good: u64,
    pub(crate) failed: u64,
    pub(crate) bytes: u64,
    pub(crate) failures: Vec<String>,
}

/// How the client at `address` fared with `manner` so far.
pub(crate) fn fared(address: &str, manner: &str) -> Result<Fared> {
    let page = get(address, 8081)?;
    let all: Value = serde_json::from_str(page.lines().last().unwrap_or_default()).with_context(|| page.clone())?;
    let one = &all[manner];
    let count = |field: &str| one[field].as_u64().with_context(|| format!("{field} of {manner} in {all}"));
    let failures = one["failures"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    Ok(Fared { good: count("good")?, failed: count("failed")?, bytes: count("bytes")?, failures: failures.collect() })
}

/// A client, and how it fared until now.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) name: &'static str,
    pub(crate) address: String,
    manners: &'static [&'static str],
    before: Vec<Fared>,
}

impl Watched {
    /// The client of that name, once it has had some answers in each manner.
    pub(crate) fn begin(api: &Api, name: &'static str, manners: &'static [&'static str]) -> Result<Watched> {
        let mut watched = Watched { name, address: address(api, name)?, manners, before: Vec::new() };
        until("a client's report", START, || get(&watched.address, 8081).ok().filter(|page| !page.is_empty()))?;
        watched.goes_on(5)?;
        watched.forget()?;
        Ok(watched)
    }

    /// Counts from now on.
    pub(crate) fn forget(&mut self) -> Result<()> {
        self.before = self.manners.iter().map(|manner| fared(&self.address, manner)).collect::<Result<_>>()?;
        Ok(())
    }

    /// Waits until there were `more` answers in each manner.
    pub(crate) fn goes_on(&self, more: u64) -> Result<()> {
        let count = |manner: &str| fared(&self.address, manner).map_or(0, |fared| fared.good);
        let goals: Vec<u64> = self.manners.iter().map(|manner| count(manner) + more).collect();
        let met = || self.manners.iter().zip(&goals).all(|(manner, goal)| count(manner) >= *goal).then_some(());
        until("answers", START, met).with_context(|| format!("{}: {:?}", self.name, get(&self.address, 8081)))
    }

    /// How many requests failed since, in one manner; says all figures.
    pub(crate) fn failed(&self, manner: &str, what: &str) -> Result<u64> {
        let place = self.manners.iter().position(|one| *one == manner).context("a manner")?;
        let (before, now) = (&self.before[place], fared(&self.address, manner)?);
        let (good, failed) = (now.good - before.good, now.failed - before.failed);
        let said = now.failures.get(before.failures.len()..).unwrap_or_default();
        println!("figure: {what}: {}, {manner}: {good} good, {failed} failed {said:?}", self.name);
        Ok(failed)
    }

    /// That none did, in any manner.
    pub(crate) fn none_failed(&self, what: &str) -> Result<()> {
        for manner in self.manners {
            let failed = self.failed(manner, what)?;
            ensure!(failed == 0, "{what}: {}, {manner}: {:?}", self.name, fared(&self.address, manner));
        }
        Ok(())
    }
}

/// Rolls a workload that has two pods as `kubectl rollout restart` does, and waits until it is
/// done.
pub(crate) fn roll(api: &Api, mut workload: Value, mark: &str) -> Result<Duration> {
    let begun = std::time::Instant::now();
    workload["spec"]["template"]["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/restartedAt": mark});
    let generation = api.apply(&workload)?["metadata"]["generation"].clone();
    let app = workload["spec"]["selector"]["matchLabels"]["app"].as_str().context("a label")?.to_owned();
    let done = until("the rollout to be done", 3 * START, || {
        let status = api.get(&workload).ok().flatten()?["status"].clone();
        // Agents that finish their connections are counted in the status of a DaemonSet, so it does not tell.
        let pods = pods_of(api, &app).ok()?;
        let new = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let all = new.clone().all(|pod| {
            let conditions = pod["status"]["conditions"].as_array();
            let ready = conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
            ready && pod["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] == mark
        });
        (status["observedGeneration"] == generation && all && new.count() == 2).then_some(())
    });
    done.with_context(|| format!("{:?}", pods_of(api, &app)))?;
    Ok(begun.elapsed())
}

/// An object of the manifest.
pub(crate) fn of_manifest(kind: &str, name: &str) -> Result<Value> {
    let found = manifests::objects()?.into_iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    found.with_context(|| format!("{kind} {name} in the manifest"))
}

/// Pods with a label `app`, in any namespace.
pub(crate) fn pods_of(api: &Api, app: &str) -> Result<Vec<Value>> {
    api.list(&format!("/api/v1/pods?labelSelector=app%3D{app}"))
}

//! What is in the cluster: nodes, an agent's pod on each, and services of ten pods.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::cluster::controller::NAMESPACE;

/// What was made.
#[derive(Debug)]
pub(super) struct World {
    pub(super) pods: usize,
    /// Uid of the agent's pod on each node.
    agents: Vec<String>,
    kubeconfig: PathBuf,
}

/// Fills an empty cluster; says how long it took.
pub(super) fn fill(cluster: &Cluster, pods: usize, agents: usize) -> Result<World> {
    let begun = Instant::now();
    let api = cluster.api();
    let services = pods.div_ceil(PODS_OF_SERVICE);
    for name in (0..SPACES).map(|number| space(number * PODS_OF_SERVICE)).chain([NAMESPACE.to_owned()]) {
        let labels = json!({"istio.io/dataplane-mode": "weft"});
        api.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}))?;
    }
    let metadata = json!({"name": ACCOUNT, "namespace": NAMESPACE});
    api.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}))?;

    let kubeconfig = cluster.kubeconfig().to_owned();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let made: Vec<String> = runtime.block_on(async {
        let nodes = each(&kubeconfig, agents, move |client, number| async move { node(&client, number).await }).await?;
        each(&kubeconfig, services, move |client, number| async move { service(&client, number, pods, agents).await })
            .await?;
        anyhow::Ok(nodes)
    })?;
    println!("{pods} pods, {services} services and {agents} nodes made in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(World { pods, agents: made, kubeconfig })
}

impl World {
    /// A fresh token for the agent of each node, as the kubelet projects it.
    pub(super) async fn tokens(&self) -> Result<Vec<String>> {
        let uids = Arc::new(self.agents.clone());
        let tokens = each(&self.kubeconfig, self.agents.len(), move |client, number| {
            let uids = uids.clone();
            async move {
                let pod = json!({"apiVersion": "v1", "kind": "Pod", "name": agent(number), "uid": uids[number]});
                let spec = json!({"audiences": ["istio-ca"], "expirationSeconds": 3600, "boundObjectRef": pod});
                let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{ACCOUNT}/token");
                let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
                let answer = post(&client, &path, &asked).await?;
                Ok(answer["status"]["token"].as_str().context("a token")?.to_owned())
            }
        });
        tokens.await
    }

    /// A client of the runtime that runs this.
    pub(super) fn client(&self) -> impl Future<Output = Result<Client>> + Send + use<> {
        let kubeconfig = self.kubeconfig.clone();
        async move { connect(&kubeconfig).await }
    }
}

/// Makes a pod ready or not, as its kubelet does.
pub(super) async fn set_ready(client: &Client, number: usize, ready: bool) -> Result<()> {
    let path = format!("/api/v1/namespaces/{}/pods/{}/status", space(number), pod(number));
    patch(client, &path, &status(number, ready)).await
}

/// The pod that a resource is about, if it is one of ours: the inverse of its name on the control stream.
pub(super) fn number_of(resource: &str) -> Option<usize> {
    resource.rsplit_once("/pod-")?.1.parse().ok()
}

/// Runs `make` for all numbers below `count`, some at once, in order of the numbers.
async fn each<T, F>(
    kubeconfig: &Path,
    count: usize,
    make: impl Fn(Client, usize) -> F + Send + Sync + 'static,
) -> Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send,
{
    let (next, make) = (Arc::new(AtomicUsize::new(0)), Arc::new(make));
    let mut tasks = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (client, next, make) = (connect(kubeconfig).await?, next.clone(), make.clone());
        tasks.spawn(async move {
            let mut made = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(made);
                }
                made.push((number, make(client.clone(), number).await?));
            }
        });
    }
    let mut all = Vec::new();
    while let Some(made) = tasks.join_next().await {
        all.extend(made??);
    }
    all.sort_by_key(|(number, _)| *number);
    Ok(all.into_iter().map(|(_, made)| made).collect())
}

async fn connect(kubeconfig: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    Ok(Client::try_from(Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?)?)
}

/// A node with its agent's pod, whose uid it yields.
async fn node(client: &Client, number: usize) -> Result<String> {
    let labels =
        json!({"topology.kubernetes.io/region": "r1", "topology.kubernetes.io/zone": format!("z{}", number % 3)});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node_name(number), "labels": labels}});
    post(client, "/api/v1/nodes", &node).await?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": agent(number), "namespace": NAMESPACE},
        "spec": {
            "nodeName": node_name(number), "serviceAccountName": ACCOUNT, "hostNetwork": true,
            "containers": [{"name": "agent", "image": "localhost/agent:1"}],
        },
    });
    let made = post(client, &format!("/api/v1/namespaces/{NAMESPACE}/pods"), &pod).await?;
    Ok(made["metadata"]["uid"].as_str().context("a uid")?.to_owned())
}

/// A service, its pods as a Deployment would make them, and its EndpointSlice.
async fn service(client: &Client, number: usize, pods: usize, nodes: usize) -> Result<()> {
    let (space, name) = (space(number * PODS_OF_SERVICE), format!("service-{number}"));
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": space},
        "spec": {"selector": {"app": name}, "ports": [
            {"name": "http", "port": 80, "targetPort": 8080}, {"name": "metrics", "port": 9090, "targetPort": 9090},
        ]},
    });
    post(client, &format!("/api/v1/namespaces/{space}/services"), &service).await?;
    let mut endpoints = Vec::new();
    for number in (number * PODS_OF_SERVICE..pods).take(PODS_OF_SERVICE) {
        let (pod, node) = (pod(number), node_name(number % nodes));
        let owner = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-7d4b9c6f58"), "controller": true,
            "uid": "6ff5b0ce-8f09-4b4e-8f0c-000000000000",
        });
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": pod, "namespace": space, "ownerReferences": [owner],
                "labels": {"app": name, "version": "v1", "pod-template-hash": "7d4b9c6f58"},
            },
            "spec": {
                "nodeName": node, "serviceAccountName": name,
                "containers": [{
                    "name": "app", "image": "localhost/app:1", "ports": [{"name": "http", "containerPort": 8080}],
                    "env": [{"name": "PLACE", "value": "production"}],
                    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                }],
            },
        });
        post(client, &format!("/api/v1/namespaces/{space}/pods"), &object).await?;
        patch(client, &format!("/api/v1/namespaces/{space}/pods/{pod}/status"), &status(number, true)).await?;
        endpoints.push(json!({
            "addresses": [address(number)], "nodeName": node, "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": pod, "namespace": space},
        }));
    }
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
        "metadata": {"name": format!("{name}-x"), "namespace": space, "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": 8080}, {"name": "metrics", "port": 9090}],
    });
    post(client, &format!("/apis/discovery.k8s.io/v1/namespaces/{space}/endpointslices"), &slice).await.map(drop)
}

fn status(number: usize, ready: bool) -> Value {
    let ready = if ready { "True" } else { "False" };
    json!({"status": {
        "phase": "Running", "podIP": address(number), "podIPs": [{"ip": address(number)}],
        "conditions": [{"type": "Ready", "status": ready}],
    }})
}

async fn post(client: &Client, path: &str, object: &Value) -> Result<Value> {
    let request = Request::post(path).header("content-type", "application/json").body(serde_json::to_vec(object)?)?;
    client.request(request).await.with_context(|| format!("post to {path}"))
}

async fn patch(client: &Client, path: &str, change: &Value) -> Result<()> {
    let merge = "application/merge-patch+json";
    let request = Request::patch(path).header("content-type", merge).body(serde_json::to_vec(change)?)?;
    let answer = client.request_text(request).await.with_context(|| format!("patch {path}"))?;
    ensure!(!answer.is_empty(), "patch {path}: no answer");
    Ok(())
}

/// Namespace of a pod.
fn space(number: usize) -> String {
    format!("space-{}", number / PODS_OF_SERVICE % SPACES)
}

fn pod(number: usize) -> String {
    format!("pod-{number}")
}

fn agent(number: usize) -> String {
    format!("weft-node-{number}")
}

fn node_name(number: usize) -> String {
    format!("node-{number}")
}

fn address(number: usize) -> String {
    format!("10.{}.{}.{}", 128 + number / 62_500, number / 250 % 250, number % 250 + 1)
}

const ACCOUNT: &str = "weft-node";
const SPACES: usize = 20;
const PODS_OF_SERVICE: usize = 10;
/// Calls at once: more than the API server can do on two cores.
const AT_ONCE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_of_a_pod_tells_its_number() {
        assert_eq!(number_of("Kubernetes//Pod/space-3/pod-4711"), Some(4711));
        for other in ["Kubernetes//Pod/weft-system/weft-node-7", "space-3/service-7.space-3.svc.cluster.local", ""] {
            assert_eq!(number_of(other), None, "{other}");
        }
    }
}

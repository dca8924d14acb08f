//! The cluster's name server: CoreDNS as users have it, a Deployment behind Service kube-system/kube-dns.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use xtask::image::Entry;

use super::api::Api;
use super::image::make;
use super::node::{DNS, Node};
use crate::wait::until;

const IMAGE: &str = "localhost/weft-tests/coredns:1";
/// Image, pod and the first sync, on a machine that builds something else.
const READY: Duration = Duration::from_secs(60);

/// Gives the nodes the image of `program`, and the cluster its name server; waits until it answers for services.
pub(super) fn start(api: &Api, nodes: &mut [Node], program: &Path) -> Result<()> {
    let program = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let image = make(IMAGE, BTreeMap::from([("coredns".to_owned(), Entry::program(program))]), &["/coredns"])?;
    for node in nodes {
        node.import(&image)?;
    }
    for object in objects() {
        api.apply(&object)?;
    }
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata("coredns")});
    until("the name server to be ready", READY, || {
        let found = api.get(&deployment).ok().flatten()?;
        (found["status"]["readyReplicas"].as_u64()? > 0).then_some(())
    })
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}})
}

fn objects() -> Vec<Value> {
    let role = "system:coredns";
    // What a query for a service is answered with may be cached for a second at most: tests make services as they go.
    let corefile = ".:53 {\n  errors\n  ready\n  kubernetes cluster.local in-addr.arpa ip6.arpa {\n    pods insecure\n    \
                    ttl 1\n  }\n  cache 1\n}\n";
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata("coredns")}),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": role},
            "rules": [
                {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}],
        }),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("coredns"), "data": {"Corefile": corefile},
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata("coredns"),
            "spec": {
                "replicas": 1, "selector": {"matchLabels": {"k8s-app": "kube-dns"}},
                "template": {"metadata": {"labels": {"k8s-app": "kube-dns"}}, "spec": {
                    "serviceAccountName": "coredns", "dnsPolicy": "Default", "tolerations": [{"operator": "Exists"}],
                    "containers": [{
                        "name": "coredns", "image": IMAGE, "imagePullPolicy": "Never",
                        "args": ["-conf", "/etc/coredns/Corefile"],
                        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
                        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": true}],
                    }],
                    "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
                }},
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata("kube-dns"),
            "spec": {"clusterIP": DNS, "selector": {"k8s-app": "kube-dns"}, "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ]},
        }),
    ]
}

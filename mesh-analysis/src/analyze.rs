//! What can be said of a whole configuration: whether objects find what they name, and whether they get in each other's way.
//!
//! Pure look-ups in a [`catalog::Catalog`]. What nobody told about is not held against an object: without any Service no host
//! is unknown, without any pod no selector selects nothing.

mod routes;
mod destinations;
mod policies;
mod gateway_api;
mod waypoints;
mod catalog;

use serde_json::Value;

use crate::finding::Finding;
use crate::node::Node;
use crate::report::Report;
use crate::validate::{group_and_version, reference, validate};
use catalog::Catalog;

/// What an analysis has to know of the mesh itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// Policies in it hold for all namespaces.
    pub root_namespace: String,
    /// What Services' names end in, after `svc`.
    pub cluster_domain: String,
    /// The mesh's own, and its aliases.
    pub trust_domains: Vec<String>,
}

impl Default for Mesh {
    /// Istio's defaults.
    fn default() -> Self {
        Self {
            root_namespace: "istio-system".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            trust_domains: vec!["cluster.local".to_owned()],
        }
    }
}

/// Everything that [`validate`] says of each object, and what shows only when they are seen together.
///
/// `objects` are manifests as JSON: Istio's and the Gateway API's, and of Kubernetes' own Namespaces, Services, Pods,
/// ServiceAccounts, and what has a pod template. Findings are in the order of the objects.
pub fn analyze(objects: &[Value], mesh: &Mesh) -> Vec<Finding> {
    let catalog = Catalog::new(objects, mesh);
    let mut findings = Vec::new();
    for object in objects {
        let root = Node::root(object);
        findings.extend(validate(object));
        let mut report = Report::new(reference(&root));
        let Some(spec) = root.get("spec").or_else(|| is_core(&root).then(|| root.clone())) else { continue };
        let namespace = catalog::namespace_of(&root);
        check(&root, namespace, &spec, &catalog, &mut report);
        findings.extend(report.finish());
    }
    findings
}

fn is_core(root: &Node) -> bool {
    group_and_version(root.text("apiVersion")).0.is_empty()
}

fn check(root: &Node, namespace: &str, spec: &Node, catalog: &Catalog, report: &mut Report) {
    let (group, _) = group_and_version(root.text("apiVersion"));
    match (group, root.text("kind")) {
        ("networking.istio.io", "VirtualService") => routes::check(root, namespace, spec, catalog, report),
        ("networking.istio.io", "DestinationRule") => destinations::check_rule(root, namespace, spec, catalog, report),
        ("networking.istio.io", "ServiceEntry") => destinations::check_entry(root, namespace, spec, catalog, report),
        ("networking.istio.io", "Gateway") => policies::check_gateway(namespace, spec, catalog, report),
        ("security.istio.io" | "telemetry.istio.io", kind) => {
            policies::check(kind, root, namespace, spec, catalog, report)
        }
        ("gateway.networking.k8s.io", kind) => gateway_api::check(kind, namespace, spec, catalog, report),
        ("", "Service" | "Namespace") => waypoints::check_label(root, catalog, report),
        _ => {}
    }
}

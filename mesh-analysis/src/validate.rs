//! What can be said of one object without knowing any other: its structure, by the tables, and its meaning, by rules.
//!
//! Each rule is a small function from a part of an object to findings. What is an error here is what Istio's own admission
//! refuses, or what the Gateway API's CRDs do; a rule of ours that nobody else has is a warning.

mod virtual_service;
mod unreachable;
mod destination_rule;
mod gateway;
mod service_entry;
mod workload;
mod sidecar;
mod peer_authentication;
mod request_authentication;
mod authorization_policy;
mod telemetry;
mod extension;
mod gateway_api;
mod traffic_policy;
mod server_tls;
mod header;
mod selector;
mod port;
mod export;
mod metadata;
mod structure;

use serde_json::Value;

use crate::api;
use crate::finding::{Code, Finding, ObjectRef};
use crate::node::Node;
use crate::report::Report;
use crate::schema::{Kind, Scope};

/// Everything that is wrong with `object`, and what its author may not know; gravest first.
///
/// `object` is what stands in a manifest: `apiVersion`, `kind`, `metadata`, `spec`. Of kinds that are none of Istio's or the
/// Gateway API's nothing is said.
pub fn validate(object: &Value) -> Vec<Finding> {
    let root = Node::root(object);
    let (group, version) = group_and_version(root.text("apiVersion"));
    let mut report = Report::new(reference(&root));
    let Some(kind) = api::kind(group, root.text("kind")) else {
        if api::kinds().any(|known| known.group == group) {
            report.add_at(Code::UnknownKind, "kind", unknown_kind(group, root.text("kind")));
        }
        return report.finish();
    };
    if !kind.versions.contains(&version) {
        let served = kind.versions.join(", ");
        report.add_at(Code::UnservedVersion, "apiVersion", format!("{version:?} is none of {served}"));
    }
    check_parts(&root, &mut report);
    metadata::check(kind, &root, &mut report);
    if let Some(why) = kind.not_carried_out {
        report.add_at(Code::WithoutEffect, "kind", format!("Weft does not carry out a {}: {why}", kind.kind));
    }
    match root.get("spec") {
        Some(spec) => {
            structure::check(kind.spec, &spec, &mut report);
            meaning(kind, &root, &spec, &mut report);
        }
        None if kind.spec_required => report.add_at(Code::MissingField, "spec", "spec is missing"),
        // As an empty one: some rules are about what is missing.
        None => meaning(kind, &root, &Node { value: &EMPTY, path: "spec".to_owned() }, &mut report),
    }
    report.finish()
}

/// A misspelt `spec` would leave an object that says nothing.
fn check_parts(root: &Node, report: &mut Report) {
    const PARTS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
    for part in root.object().into_iter().flat_map(serde_json::Map::keys) {
        if !PARTS.contains(&part.as_str()) {
            let meant = structure::nearest(part, PARTS.into_iter());
            let end = meant.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
            report.add_at(Code::UnknownField, part.clone(), format!("an object has no {part:?}{end}"));
        }
    }
}

/// Whether admission refuses the object.
pub fn is_refused(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == crate::finding::Severity::Error)
}

fn meaning(kind: &Kind, root: &Node, spec: &Node, report: &mut Report) {
    let namespace = root.get("metadata").map(|metadata| metadata.text("namespace")).unwrap_or_default();
    match (kind.group, kind.kind) {
        ("networking.istio.io", "VirtualService") => {
            virtual_service::check(namespace, spec, report);
            unreachable::check(spec, report);
        }
        ("networking.istio.io", "DestinationRule") => destination_rule::check(namespace, spec, report),
        ("networking.istio.io", "Gateway") => gateway::check(spec, report),
        ("networking.istio.io", "ServiceEntry") => service_entry::check(namespace, spec, report),
        ("networking.istio.io", "WorkloadEntry") => workload::check_entry(spec, report),
        ("networking.istio.io", "WorkloadGroup") => workload::check_group(spec, report),
        ("networking.istio.io", "Sidecar") => sidecar::check(spec, report),
        ("networking.istio.io", "EnvoyFilter") => extension::check_filter(spec, report),
        ("networking.istio.io", "ProxyConfig") => selector::check(spec, report),
        ("extensions.istio.io", "WasmPlugin") => extension::check_plugin(spec, report),
        ("security.istio.io", "PeerAuthentication") => peer_authentication::check(spec, report),
        ("security.istio.io", "RequestAuthentication") => request_authentication::check(spec, report),
        ("security.istio.io", "AuthorizationPolicy") => authorization_policy::check(spec, report),
        ("telemetry.istio.io", "Telemetry") => telemetry::check(spec, report),
        ("gateway.networking.k8s.io", kind) => gateway_api::check(kind, spec, report),
        _ => {}
    }
}

/// `("", "v1")` for Kubernetes' core.
pub(crate) fn group_and_version(api_version: &str) -> (&str, &str) {
    api_version.rsplit_once('/').unwrap_or(("", api_version))
}

/// As findings name the object.
pub(crate) fn reference(root: &Node) -> ObjectRef {
    let (group, _) = group_and_version(root.text("apiVersion"));
    let metadata = root.get("metadata");
    let text = |field| metadata.as_ref().map(|metadata| metadata.text(field)).unwrap_or_default();
    let namespaced = api::kind(group, root.text("kind")).is_none_or(|kind| kind.scope == Scope::Namespaced);
    ObjectRef {
        kind: root.text("kind").to_owned(),
        namespace: if namespaced { text("namespace").to_owned() } else { String::new() },
        name: text("name").to_owned(),
    }
}

fn unknown_kind(group: &str, kind: &str) -> String {
    let known: Vec<&str> = api::kinds().filter(|known| known.group == group).map(|known| known.kind).collect();
    match structure::nearest(kind, known.iter().copied()) {
        Some(near) => format!("{group} has no kind {kind:?}; did you mean {near}?"),
        None => format!("{group} has no kind {kind:?}"),
    }
}

static EMPTY: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| Value::Object(serde_json::Map::new()));

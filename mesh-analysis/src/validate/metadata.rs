//! Name, namespace, and the annotations that a mesh reads.

use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;
use crate::schema::{Kind, Scope};
use crate::syntax::label::{is_dns_label, is_dns_name};

pub(super) fn check(kind: &Kind, root: &Node, report: &mut Report) {
    let Some(metadata) = root.get("metadata") else {
        return report.add_at(Code::BadMetadata, "metadata", "metadata is missing");
    };
    match (metadata.text("name"), metadata.text("generateName")) {
        ("", "") => report.add_at(Code::BadMetadata, "metadata.name", "the object has no name"),
        // The API server makes the name later.
        ("", _) => {}
        (name, _) if !is_dns_name(name) => {
            report.add_at(Code::BadMetadata, "metadata.name", format!("{name:?} is no name of an object"));
        }
        // VirtualServices could not name it.
        (name, _) if kind.group == "networking.istio.io" && kind.kind == "Gateway" && !is_dns_label(name) => {
            report.add_at(Code::BadMetadata, "metadata.name", format!("{name:?} is no name of a Gateway: one label"));
        }
        _ => {}
    }
    let namespace = metadata.text("namespace");
    if kind.scope == Scope::Namespaced && !namespace.is_empty() && !is_dns_label(namespace) {
        report.add_at(Code::BadMetadata, "metadata.namespace", format!("{namespace:?} is no namespace"));
    }
    if let Some(dry_run) = metadata.get("annotations").and_then(|annotations| annotations.get("istio.io/dry-run")) {
        check_dry_run(kind, root, &dry_run, report);
    }
}

/// Only an ALLOW or a DENY can be tried.
fn check_dry_run(kind: &Kind, root: &Node, dry_run: &Node, report: &mut Report) {
    let path = "metadata.annotations[istio.io/dry-run]";
    if kind.kind != "AuthorizationPolicy" {
        return report.add_at(Code::BadAnnotation, path, format!("a {} cannot be tried", kind.kind));
    }
    let action = root.get("spec").map(|spec| spec.text("action")).unwrap_or_default();
    if !["", "ALLOW", "DENY"].contains(&action) {
        return report.add_at(Code::BadAnnotation, path, format!("a policy with {action} cannot be tried"));
    }
    // What Go's ParseBool takes.
    const BOOLEANS: [&str; 12] = ["1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"];
    if !dry_run.str().is_some_and(|value| BOOLEANS.contains(&value)) {
        report.add_at(Code::BadAnnotation, path, format!("{} is neither \"true\" nor \"false\"", dry_run.value));
    }
}

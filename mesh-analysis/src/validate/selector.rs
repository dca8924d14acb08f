//! Which workloads or services a policy is for.

use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;

/// `selector`, `targetRef` and `targetRefs` of a policy's spec.
pub(super) fn check(spec: &Node, report: &mut Report) {
    let ways = spec.present(&["selector", "targetRef", "targetRefs"]);
    if ways.len() > 1 {
        report.add(Code::ExcludingFields, spec, format!("{} exclude each other", ways.join(" and ")));
    }
    if let Some(selector) = spec.get("selector") {
        check_labels(&selector, "matchLabels", report);
    }
    for target in spec.get("targetRef").into_iter().chain(spec.list("targetRefs")) {
        check_target(&target, report);
    }
}

/// Labels that workloads have to have. The form of their values is the table's business.
pub(super) fn check_labels(selector: &Node, field: &str, report: &mut Report) {
    let labels = selector.map(field);
    if labels.is_empty() {
        report.add(Code::EmptySelector, selector, "no labels: every workload of the namespace is selected");
    }
    for (name, node) in labels {
        if name.is_empty() || name.contains('*') {
            report.add(Code::BadLabel, &node, format!("{name:?} is no name of a label"));
        }
    }
}

fn check_target(target: &Node, report: &mut Report) {
    let (group, kind) = (target.text("group"), target.text("kind"));
    let known = matches!(
        (group, kind),
        ("" | "core", "Service")
            | ("networking.istio.io", "ServiceEntry")
            | ("gateway.networking.k8s.io", "Gateway" | "GatewayClass")
    );
    if !known && !kind.is_empty() {
        let found = if group.is_empty() { kind.to_owned() } else { format!("{group}/{kind}") };
        let allowed = "Service, networking.istio.io/ServiceEntry, gateway.networking.k8s.io/Gateway";
        report.add(Code::BadReference, target, format!("{found} is none of {allowed}"));
    }
}

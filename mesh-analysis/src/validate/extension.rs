//! EnvoyFilter and WasmPlugin: what can be said of them without carrying them out.

use super::selector;
use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;
use crate::syntax::pattern;

pub(super) fn check_filter(spec: &Node, report: &mut Report) {
    if spec.has("workloadSelector") && spec.has("targetRefs") {
        report.add(Code::ExcludingFields, spec, "workloadSelector and targetRefs exclude each other");
    }
    if let Some(workloads) = spec.get("workloadSelector") {
        selector::check_labels(&workloads, "labels", report);
    }
}

pub(super) fn check_plugin(spec: &Node, report: &mut Report) {
    selector::check(spec, report);
    if let Some(url) = spec.get("url")
        && let Some(text) = url.str()
        && text.contains("://")
        && !pattern::matches("^(http|https|file|oci)://", text)
    {
        report.add(Code::BadFormat, &url, format!("{text:?} is fetched by none of oci, file, http and https"));
    }
    for variable in spec.get("vmConfig").map(|vm| vm.list("env")).unwrap_or_default() {
        if variable.text("valueFrom") == "HOST" && !variable.text("value").is_empty() {
            report.add(Code::ConflictingSettings, &variable, "a value does not go with valueFrom: HOST");
        }
    }
}

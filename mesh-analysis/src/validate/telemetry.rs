//! Telemetry: tags and what is not carried out twice.

use super::selector;
use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;

pub(super) fn check(spec: &Node, report: &mut Report) {
    selector::check(spec, report);
    let tracing = spec.list("tracing");
    if tracing.len() > 1 {
        report.add_at(Code::IgnoredSetting, spec.child("tracing"), "the first entry is looked at, the others are not");
    }
    for entry in &tracing {
        if entry.list("providers").len() > 1 {
            report.add_at(Code::IgnoredSetting, entry.child("providers"), "traces go to the first provider only");
        }
        for (name, tag) in entry.map("customTags") {
            if name.is_empty() {
                report.add(Code::EmptyValue, &tag, "the tag has no name");
            }
        }
    }
    for metrics in spec.list("metrics") {
        for change in metrics.list("overrides") {
            for (name, tag) in change.map("tagOverrides") {
                check_tag(name, &tag, report);
            }
        }
    }
}

fn check_tag(name: &str, tag: &Node, report: &mut Report) {
    if name.is_empty() {
        report.add(Code::EmptyValue, tag, "the tag has no name");
    }
    match (tag.text("operation"), tag.text("value")) {
        ("" | "UPSERT", "") => report.add(Code::MissingSetting, tag, "UPSERT needs a value"),
        ("REMOVE", value) if !value.is_empty() => {
            report.add(Code::ConflictingSettings, tag, "REMOVE takes no value");
        }
        _ => {}
    }
}

//! Routes of the Gateway API: for each parent whether it takes the route, and whether what the route names is there.

use serde_json::{Map, Value, json};

use super::{Sight, field, words};
use crate::condition::{Condition, merged};
use crate::object::reference::{CONTROLLER_NAME, ParentRef};
use crate::object::{ObjectKey, Standing};
use crate::source::{Code, Finding, Severity};

const KINDS: [&str; 3] = ["Accepted", "ResolvedRefs", "PartiallyInvalid"];

impl Sight<'_> {
    /// `status.parents`: other controllers' entries as they are, then one for each parent that is ours to answer for.
    pub(super) fn route(&self, key: &ObjectKey, standing: &Standing) -> Map<String, Value> {
        let before = standing.list("parents");
        let mut parents: Vec<Value> =
            before.iter().filter(|parent| parent["controllerName"] != CONTROLLER_NAME).cloned().collect();
        for parent in self.index.parents(key) {
            let reference = written(parent.reference);
            let said =
                before.iter().find(|said| said["controllerName"] == CONTROLLER_NAME && said["parentRef"] == reference);
            let said = said.and_then(|said| said["conditions"].as_array()).map(Vec::as_slice).unwrap_or_default();
            let ours = conditions(self.findings(key), parent.at);
            let conditions = merged(said, &ours, &KINDS, standing.generation, self.now);
            parents.push(json!({"parentRef": reference, "controllerName": CONTROLLER_NAME, "conditions": conditions}));
        }
        field("parents", parents)
    }
}

fn conditions(findings: &[Finding], parent: usize) -> Vec<Condition> {
    let about =
        |finding: &&Finding, start: &str| finding.field.as_deref().is_some_and(|field| field.starts_with(start));
    let refused = findings.iter().filter(|finding| finding.severity == Severity::Error);
    let refused: Vec<&Finding> = refused.collect();
    let of_parent = format!("spec.parentRefs[{parent}]");
    let of_parent = findings.iter().find(|finding| about(finding, &of_parent));
    let accepted = match (&refused[..], of_parent) {
        ([], None) => Condition::new("Accepted", true, "Accepted", "in force".to_owned()),
        ([], Some(finding)) => {
            // What is not there, or has no waypoint yet.
            let reason = if finding.code == Code::Unresolved { "NoMatchingParent" } else { "Pending" };
            Condition::new("Accepted", false, reason, finding.message.clone())
        }
        (refused, _) => Condition::new("Accepted", false, "UnsupportedValue", words(refused.iter().copied())),
    };
    let about_rules =
        findings.iter().filter(|finding| about(finding, "spec.rules") && finding.severity != Severity::Info);
    let (backends, others): (Vec<&Finding>, Vec<&Finding>) = about_rules.partition(|finding| {
        let is_reference =
            finding.field.as_deref().is_some_and(|field| field.contains("backendRef") && !field.contains("filters"));
        is_reference && finding.severity != Severity::Error
    });
    let resolved = match backends.first() {
        None => Condition::new("ResolvedRefs", true, "ResolvedRefs", "all backends are there".to_owned()),
        Some(first) => {
            let reason = match first.code {
                Code::NotGranted => "RefNotPermitted",
                Code::Skipped => "InvalidKind",
                _ => "BackendNotFound",
            };
            Condition::new("ResolvedRefs", false, reason, words(backends))
        }
    };
    let partly = others.iter().filter(|finding| finding.severity != Severity::Error).copied().collect::<Vec<_>>();
    let partly =
        (!partly.is_empty()).then(|| Condition::new("PartiallyInvalid", true, "UnsupportedValue", words(partly)));
    [accepted, resolved].into_iter().chain(partly).collect()
}

/// As the route has it, with the defaults that the API server fills in.
fn written(parent: &ParentRef) -> Value {
    let mut value = json!({"group": parent.group, "kind": parent.kind, "name": parent.name});
    let more = [
        ("namespace", parent.namespace.as_ref().map(|namespace| json!(namespace))),
        ("sectionName", parent.section_name.as_ref().map(|section| json!(section))),
        ("port", parent.port.map(|port| json!(port))),
    ];
    for (field, said) in more {
        if let Some(said) = said {
            value[field] = said;
        }
    }
    value
}

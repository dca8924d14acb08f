//! Istio's kinds: whether an object is in force, by the findings about it.
//!
//! | condition | says |
//! |---|---|
//! | `Accepted` | whether the object as it is now is in force; if not, the last version that was good still is |
//! | `WaypointAccepted` | of a policy with `targetRefs`: whether a waypoint carries it out |
//! | `ZtunnelAccepted` | of an AuthorizationPolicy without: whether agents carry it out as it is written |
//! | `PartiallyInvalid` | only if so: parts have no effect, or are enforced more strictly |
//! | `ResolvedRefs` | only if not so: it names what is not there |
//! | `Conflicted` | only if so: another object has the last word |
//! | `weft.io/Distributed` | of what is in force: whether all agents and waypoints have it ([`super::distributed`]) |

use serde_json::{Map, Value};

use super::distributed::{DISTRIBUTED, Distributed};
use super::services::BOUND;
use super::{Sight, field, words};
use crate::condition::{Condition, merged};
use crate::object::{Kind, ObjectKey, Standing};
use crate::source::{Code, Finding, Severity};

const KINDS: [&str; 7] =
    ["Accepted", "WaypointAccepted", "ZtunnelAccepted", "PartiallyInvalid", "ResolvedRefs", "Conflicted", BOUND];

impl Sight<'_> {
    pub(super) fn policy(&self, key: &ObjectKey, standing: &Standing) -> Map<String, Value> {
        let mut ours = conditions(self.findings(key));
        if self.index.is_targeted(key) {
            ours.push(at_waypoint(self.findings(key)));
        } else if key.kind == Kind::AuthorizationPolicy {
            ours.push(at_agents(self.findings(key)));
        }
        ours.extend(self.bound(key));
        // What stays as it was is for the moment nobody's.
        let mut kinds = KINDS.to_vec();
        match self.distributed(key, standing) {
            Distributed::AsBefore => {}
            Distributed::Now(condition) => {
                kinds.push(DISTRIBUTED);
                ours.extend(condition);
            }
        }
        field("conditions", merged(standing.list("conditions"), &ours, &kinds, standing.generation, self.now))
    }
}

/// Without what is for information only.
fn of(findings: &[Finding], codes: &[Code]) -> Vec<Finding> {
    let said = findings.iter().filter(|finding| finding.severity != Severity::Info && codes.contains(&finding.code));
    said.cloned().collect()
}

fn conditions(findings: &[Finding]) -> Vec<Condition> {
    let refused: Vec<&Finding> = findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
    let accepted = match refused.is_empty() {
        true => Condition::new("Accepted", true, "Accepted", "in force".to_owned()),
        false => Condition::new("Accepted", false, "Invalid", words(refused)),
    };
    let others = [
        ("PartiallyInvalid", true, "UnsupportedValue", &[Code::NoEffect, Code::FailsClosed, Code::Skipped][..]),
        ("ResolvedRefs", false, "RefNotFound", &[Code::Unresolved]),
        ("Conflicted", true, "Conflict", &[Code::Conflict]),
    ];
    let others = others.into_iter().filter_map(|(kind, is_true, reason, codes)| {
        let found = of(findings, codes);
        let found: Vec<&Finding> = found.iter().filter(|finding| finding.severity != Severity::Error).collect();
        (!found.is_empty()).then(|| Condition::new(kind, is_true, reason, words(found)))
    });
    std::iter::once(accepted).chain(others).collect()
}

/// Findings about targets alone say whether one is bound.
fn at_waypoint(findings: &[Finding]) -> Condition {
    const KIND: &str = "WaypointAccepted";
    let about_targets = |code: Code| -> Vec<Finding> {
        let found = of(findings, &[code]).into_iter();
        found
            .filter(|finding| finding.field.as_deref().is_some_and(|field| field.starts_with("spec.targetRef")))
            .collect()
    };
    let (missing, unbound) = (about_targets(Code::Unresolved), about_targets(Code::NoEffect));
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        Condition::new(KIND, false, "Invalid", words(findings))
    } else if !missing.is_empty() {
        Condition::new(KIND, false, "TargetNotFound", words(&missing))
    } else if !unbound.is_empty() {
        Condition::new(KIND, false, "AncestorNotBound", words(&unbound))
    } else {
        Condition::new(KIND, true, "Accepted", "bound to waypoints of its targets".to_owned())
    }
}

fn at_agents(findings: &[Finding]) -> Condition {
    const KIND: &str = "ZtunnelAccepted";
    let wrong: Vec<&Finding> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error || finding.code == Code::FailsClosed)
        .collect();
    match wrong.is_empty() {
        true => Condition::new(KIND, true, "Accepted", "attached to agents".to_owned()),
        false => Condition::new(KIND, false, "UnsupportedValue", words(wrong)),
    }
}

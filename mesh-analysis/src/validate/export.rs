//! exportTo: which namespaces an object is for.

use std::collections::HashSet;

use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;
use crate::syntax::label::is_dns_label;

/// Whether an object may be for nobody: `~`, for a service that only its own endpoints know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Nobody {
    Allowed,
    Refused,
}

pub(super) fn check(namespace: &str, nobody: Nobody, spec: &Node, report: &mut Report) {
    let Some(list) = spec.get("exportTo") else { return };
    let mut seen = HashSet::new();
    for item in list.items() {
        let Some(value) = item.str() else { continue };
        let known = match value {
            "*" | "." => true,
            "~" => nobody == Nobody::Allowed,
            name => is_dns_label(name),
        };
        if !known {
            report.add(Code::BadExport, &item, format!("{value:?} is neither a namespace nor '.' nor '*'"));
        }
        // "." and the object's own namespace are the same.
        if !seen.insert(if value == "." { namespace } else { value }) {
            report.add(Code::BadExport, &item, format!("{value:?} is in the list already"));
        }
    }
    for alone in ["*", "~"] {
        if seen.contains(alone) && seen.len() > 1 {
            report.add(Code::BadExport, &list, format!("'{alone}' stands alone"));
        }
    }
}

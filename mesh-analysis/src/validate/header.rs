//! Headers: their names, and changes to them.

use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;
use crate::syntax::pattern;

const NAME: &str = "^[-_A-Za-z0-9]+$";

pub(super) fn check_name(name: &str, node: &Node, report: &mut Report) {
    if !pattern::matches(NAME, name) {
        report.add(Code::BadHeader, node, format!("{name:?} is no name of a header"));
    }
}

/// `headers` of a route or destination: changes to request and response.
pub(super) fn check_operations(headers: &Node, report: &mut Report) {
    for side in ["request", "response"] {
        let Some(operations) = headers.get(side) else { continue };
        for (name, value) in operations.map("set").into_iter().chain(operations.map("add")) {
            check_changed(name, &value, side == "request", report);
            check_value(&value, report);
        }
        for item in operations.list("remove") {
            check_changed(item.str().unwrap_or_default(), &item, false, report);
        }
    }
}

/// Of the names that HTTP keeps for itself, only the request's authority can be changed.
fn check_changed(name: &str, node: &Node, may_be_authority: bool, report: &mut Report) {
    if name.is_empty() {
        return report.add(Code::BadHeader, node, "a header's name is empty");
    }
    if (name.starts_with(':') || name.eq_ignore_ascii_case("host")) && !(may_be_authority && is_authority(name)) {
        report.add(Code::BadHeader, node, format!("{name:?} cannot be changed here"));
    }
}

pub(super) fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

/// `%NAME%` stands for something, `%%` for a percent sign.
fn check_value(node: &Node, report: &mut Report) {
    let Some(value) = node.str() else { return };
    if value.chars().any(|c| c.is_control() && c != '\t') {
        report.add(Code::BadHeader, node, format!("the value {value:?} has control characters"));
    }
    if value.matches('%').count() % 2 == 1 {
        report.add(Code::BadHeader, node, format!("the value {value:?} has a single %; %% is a percent sign"));
    }
}

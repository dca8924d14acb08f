//! PeerAuthentication: modes of single ports.

use super::selector;
use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;
use crate::syntax::address::is_port;

pub(super) fn check(spec: &Node, report: &mut Report) {
    selector::check(spec, report);
    let Some(ports) = spec.get("portLevelMtls") else { return };
    let selects = spec.get("selector").is_some_and(|selector| !selector.map("matchLabels").is_empty());
    if !selects {
        report.add(Code::MissingSetting, &ports, "portLevelMtls needs a selector with labels");
    }
    for (number, node) in ports.entries() {
        if !number.parse().is_ok_and(is_port) {
            report.add(Code::BadPort, &node, format!("{number:?} is no port"));
        }
    }
}

//! DestinationRule: its host, its subsets, and whom it is for.

use super::export::{self, Nobody};
use super::{port, selector, traffic_policy};
use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;
use crate::syntax::label::is_label;

pub(super) fn check(namespace: &str, spec: &Node, report: &mut Report) {
    if let Some(host) = spec.get("host") {
        port::check_host_or_address(&host, report);
    }
    if let Some(policy) = spec.get("trafficPolicy") {
        traffic_policy::check(&policy, report);
    }
    let subsets = spec.list("subsets");
    port::check_distinct("the subset", subsets.iter().filter_map(|subset| subset.get("name")), report);
    for subset in &subsets {
        if let Some(name) = subset.get("name")
            && !is_label(name.str().unwrap_or_default())
        {
            report.add(Code::BadLabel, &name, format!("{} is no name of a subset", name.value));
        }
        port::check_labels(subset, "labels", report);
        if let Some(policy) = subset.get("trafficPolicy") {
            traffic_policy::check(&policy, report);
        }
    }
    export::check(namespace, Nobody::Refused, spec, report);
    if let Some(clients) = spec.get("workloadSelector") {
        selector::check_labels(&clients, "matchLabels", report);
        let beyond = spec.list("exportTo").into_iter().find(|item| ![Some("."), Some(namespace)].contains(&item.str()));
        if let Some(item) = beyond {
            report.add(Code::BadExport, &item, "a rule with a workloadSelector is for its own namespace only");
        }
    }
}

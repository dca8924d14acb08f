//! DestinationRules and ServiceEntries: whether there is what they are about, and whether another is about it as well.

use super::catalog::{Catalog, Host, Labels, Rule, labels_of, selects};
use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;
use crate::syntax::host::is_ip;

pub(super) fn check_rule(root: &Node, namespace: &str, spec: &Node, catalog: &Catalog, report: &mut Report) {
    let short = spec.text("host");
    if short.is_empty() || is_ip(short) {
        return;
    }
    let host = catalog.full_name(short, namespace);
    let known = catalog.host(&host);
    let exists = known.is_some() || (host.contains('*') && catalog.any_host(&host));
    if catalog.knows_hosts() && !exists {
        report.add_at(Code::UnknownHost, spec.child("host"), format!("there is no {host}"));
    }
    check_conflicts(root, namespace, &host, spec, catalog, report);
    if let Some(Host::Service(service)) = known {
        let pods: Vec<&Labels> = catalog
            .workloads_in(Some(service.namespace))
            .map(|workload| &workload.labels)
            .filter(|labels| selects(&service.selector, labels))
            .collect();
        for subset in spec.list("subsets") {
            let labels = labels_of(&subset, "labels");
            if !pods.is_empty() && !labels.is_empty() && !pods.iter().any(|pod| selects(&labels, pod)) {
                let message = format!("no workload of {host} has the labels of the subset {:?}", subset.text("name"));
                report.add(Code::SelectsNothing, &subset, message);
            }
        }
        check_mtls(&host, service.namespace, &service.selector, spec, catalog, report);
    }
}

/// Istio merges rules for one host as long as they do not say the same thing twice.
fn check_conflicts(root: &Node, namespace: &str, host: &str, spec: &Node, catalog: &Catalog, report: &mut Report) {
    let name = root.get("metadata").map(|metadata| metadata.text("name")).unwrap_or_default();
    let own: Vec<&str> = spec.list("subsets").iter().map(|subset| subset.text("name")).collect();
    let same_place = |rule: &&Rule| {
        rule.namespace == namespace
            && rule.name != name
            && rule.host == host
            && !rule.has_selector
            && !spec.has("workloadSelector")
    };
    for rule in catalog.rules.iter().filter(same_place) {
        let twice = rule.subsets.iter().find(|subset| own.contains(subset));
        let what = match twice {
            Some(subset) => format!("the subset {subset:?}"),
            None if rule.has_policy && spec.has("trafficPolicy") => "a traffic policy".to_owned(),
            None => continue,
        };
        let message = format!("DestinationRule {}/{} has {what} for {host} as well", rule.namespace, rule.name);
        report.add_at(Code::ConflictingHosts, spec.child("host"), message);
    }
}

/// What clients are told to speak, against what the workloads take.
fn check_mtls(host: &str, namespace: &str, selector: &Labels, spec: &Node, catalog: &Catalog, report: &mut Report) {
    let Some(tls) = spec.at(&["trafficPolicy", "tls"]) else { return };
    let taken = peer_mode(namespace, selector, catalog);
    let mismatch = match (tls.text("mode"), taken) {
        ("DISABLE" | "SIMPLE" | "MUTUAL", "STRICT") => "the workloads take the mesh's mutual TLS only",
        ("ISTIO_MUTUAL", "DISABLE") => "the workloads take plaintext only",
        _ => return,
    };
    report.add(Code::MtlsMismatch, &tls, format!("clients of {host} speak {}, and {mismatch}", tls.text("mode")));
}

/// The narrowest PeerAuthentication that says something: by labels, by namespace, of the mesh.
fn peer_mode<'a>(namespace: &str, labels: &Labels, catalog: &Catalog<'a>) -> &'a str {
    let says = |wanted: &str, by_labels: bool| {
        catalog.policies.iter().find_map(|policy| {
            let selected = match by_labels {
                true => !policy.selector.is_empty() && selects(&policy.selector, labels),
                false => policy.selector.is_empty(),
            };
            (policy.namespace == wanted && selected && !["", "UNSET"].contains(&policy.mode)).then_some(policy.mode)
        })
    };
    says(namespace, true)
        .or_else(|| says(namespace, false))
        .or_else(|| says(&catalog.mesh.root_namespace, false))
        .unwrap_or("PERMISSIVE")
}

pub(super) fn check_entry(root: &Node, namespace: &str, spec: &Node, catalog: &Catalog, report: &mut Report) {
    let name = root.get("metadata").map(|metadata| metadata.text("name")).unwrap_or_default();
    for host in spec.list("hosts") {
        let text = host.str().unwrap_or_default();
        let other = catalog
            .entries
            .iter()
            .filter(|entry| entry.namespace == namespace && entry.name != name)
            .find(|entry| entry.hosts.iter().any(|known| known.eq_ignore_ascii_case(text)));
        if let Some(other) = other {
            let message = format!("ServiceEntry {}/{} is about {text} as well", other.namespace, other.name);
            report.add(Code::ConflictingHosts, &host, message);
        }
        if let Some(Host::Service(service)) = catalog.host(text) {
            let message = format!("{text} is a Service of namespace {}", service.namespace);
            report.add(Code::ConflictingHosts, &host, message);
        }
    }
    if let Some(selector) = spec.get("workloadSelector") {
        let labels = labels_of(&selector, "labels");
        let mut workloads = catalog.workloads_in(Some(namespace)).peekable();
        if !labels.is_empty()
            && workloads.peek().is_some()
            && !workloads.any(|workload| selects(&labels, &workload.labels))
        {
            report.add(
                Code::SelectsNothing,
                &selector,
                format!("no workload of namespace {namespace} has these labels"),
            );
        }
    }
}

//! Policies: whom they select, what they are attached to, and whether the principals they name can be anyone's.

use super::catalog::{Catalog, Policy, labels_of, selects};
use super::waypoints;
use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;

pub(super) fn check(kind: &str, root: &Node, namespace: &str, spec: &Node, catalog: &Catalog, report: &mut Report) {
    check_selector(kind, namespace, spec, catalog, report);
    for target in spec.get("targetRef").into_iter().chain(spec.list("targetRefs")) {
        check_target(&target, namespace, catalog, report);
    }
    match kind {
        "PeerAuthentication" => check_conflicts(root, namespace, spec, catalog, report),
        "AuthorizationPolicy" => check_sources(spec, catalog, report),
        _ => {}
    }
}

fn check_selector(kind: &str, namespace: &str, spec: &Node, catalog: &Catalog, report: &mut Report) {
    let Some(selector) = spec.get("selector") else { return };
    let labels = labels_of(&selector, "matchLabels");
    if labels.is_empty() {
        return;
    }
    let root = catalog.is_root(namespace);
    if root && kind == "PeerAuthentication" {
        let message = format!("in {namespace} a PeerAuthentication is for the whole mesh and selects no workloads");
        return report.add(Code::SelectsNothing, &selector, message);
    }
    let within = (!root).then_some(namespace);
    let mut workloads = catalog.workloads_in(within).peekable();
    if workloads.peek().is_some() && !workloads.any(|workload| selects(&labels, &workload.labels)) {
        let place = if root { "of the mesh".to_owned() } else { format!("of namespace {namespace}") };
        report.add(Code::SelectsNothing, &selector, format!("no workload {place} has these labels"));
    }
}

/// Istio's Gateway selects the pods of a gateway, in its namespace or any.
pub(super) fn check_gateway(namespace: &str, spec: &Node, catalog: &Catalog, report: &mut Report) {
    let labels = labels_of(spec, "selector");
    let mut workloads = catalog.workloads_in(None).peekable();
    if !labels.is_empty() && workloads.peek().is_some() && !workloads.any(|workload| selects(&labels, &workload.labels))
    {
        let message = format!("no gateway has these labels, in {namespace} or elsewhere");
        report.add_at(Code::SelectsNothing, spec.child("selector"), message);
    }
}

fn check_target(target: &Node, namespace: &str, catalog: &Catalog, report: &mut Report) {
    let name = target.text("name");
    match (target.text("group"), target.text("kind")) {
        ("" | "core", "Service") if catalog.knows_hosts() => match catalog.host(&catalog.full_name(name, namespace)) {
            None => report.add(Code::UnknownTarget, target, format!("there is no Service {namespace}/{name}")),
            Some(host) if !waypoints::serves(host, catalog) => {
                report.add(Code::NeedsWaypoint, target, format!("no waypoint serves Service {namespace}/{name}"));
            }
            Some(_) => {}
        },
        ("networking.istio.io", "ServiceEntry")
            if !catalog.entries.iter().any(|entry| entry.namespace == namespace && entry.name == name) =>
        {
            report.add(Code::UnknownTarget, target, format!("there is no ServiceEntry {namespace}/{name}"));
        }
        ("gateway.networking.k8s.io", "Gateway") if !catalog.gateways.contains_key(&(namespace, name)) => {
            report.add(Code::UnknownTarget, target, format!("there is no Gateway {namespace}/{name}"));
        }
        _ => {}
    }
}

fn check_conflicts(root: &Node, namespace: &str, spec: &Node, catalog: &Catalog, report: &mut Report) {
    let name = root.get("metadata").map(|metadata| metadata.text("name")).unwrap_or_default();
    let selector = spec.get("selector").map(|selector| labels_of(&selector, "matchLabels")).unwrap_or_default();
    let same = |policy: &&Policy| policy.namespace == namespace && policy.name != name && policy.selector == selector;
    if let Some(other) = catalog.policies.iter().find(same) {
        let message = format!("PeerAuthentication {}/{} is for the same workloads", other.namespace, other.name);
        report.add(Code::ConflictingPolicies, spec, message);
    }
}

fn check_sources(spec: &Node, catalog: &Catalog, report: &mut Report) {
    for rule in spec.list("rules") {
        for source in rule.list("from").iter().filter_map(|from| from.get("source")) {
            for principal in source.list("principals").into_iter().chain(source.list("notPrincipals")) {
                check_principal(&principal, catalog, report);
            }
            for namespace in source.list("namespaces").into_iter().chain(source.list("notNamespaces")) {
                let name = namespace.str().unwrap_or_default();
                if !name.is_empty() && !name.contains('*') && !catalog.namespaces.contains(name) {
                    report.add(Code::UnknownPrincipal, &namespace, format!("no namespace {name:?} is known"));
                }
            }
        }
        for condition in rule.list("when").iter().filter(|condition| condition.text("key") == "source.principal") {
            for principal in condition.list("values").into_iter().chain(condition.list("notValues")) {
                check_principal(&principal, catalog, report);
            }
        }
    }
}

fn check_principal(principal: &Node, catalog: &Catalog, report: &mut Report) {
    let text = principal.str().unwrap_or_default();
    let parts: Vec<&str> = text.split('/').collect();
    let [domain, "ns", namespace, "sa", account] = parts[..] else { return };
    // In policies cluster.local stands for the mesh's own trust domain, whatever that is called.
    let domains = || catalog.mesh.trust_domains.iter().map(String::as_str).chain(["cluster.local"]);
    if !domain.contains('*') && !domains().any(|known| known == domain) {
        let message = format!("the mesh's trust domain is {}, not {domain}", catalog.mesh.trust_domains.join(" or "));
        return report.add(Code::WrongTrustDomain, principal, message);
    }
    if namespace.contains('*') || account.contains('*') {
        return;
    }
    if !catalog.namespaces.contains(namespace) {
        report.add(Code::UnknownPrincipal, principal, format!("no namespace {namespace:?} is known"));
    } else if !catalog.accounts.is_empty() && !catalog.accounts.contains(&(namespace, account)) {
        report.add(Code::UnknownPrincipal, principal, format!("no service account {namespace}/{account} is known"));
    }
}

//! VirtualServices: whether hosts, subsets, ports and gateways are there.

use super::catalog::{Catalog, Route, is_private};
use super::waypoints;
use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;
use crate::syntax::host::is_ip;

pub(super) fn check(root: &Node, namespace: &str, spec: &Node, catalog: &Catalog, report: &mut Report) {
    let gateways = spec.texts("gateways");
    let for_mesh = gateways.is_empty() || gateways.contains(&"mesh");
    for protocol in ["http", "tls", "tcp"] {
        for rule in spec.list(protocol) {
            let mirrors: Vec<Node> =
                rule.list("mirrors").iter().filter_map(|mirror| mirror.get("destination")).collect();
            let routed = rule.list("route");
            let destinations = routed.iter().filter_map(|entry| entry.get("destination"));
            for destination in destinations.chain(rule.get("mirror")).chain(mirrors) {
                check_destination(&destination, namespace, catalog, report);
            }
        }
    }
    check_gateways(spec, namespace, catalog, report);
    if for_mesh {
        check_waypoint(spec, namespace, catalog, report);
        check_default(spec, report);
        check_conflicts(root, namespace, spec, catalog, report);
    }
}

fn check_destination(destination: &Node, namespace: &str, catalog: &Catalog, report: &mut Report) {
    let short = destination.text("host");
    if short.is_empty() || is_ip(short) || short.contains('*') || !catalog.knows_hosts() {
        return;
    }
    let host = catalog.full_name(short, namespace);
    let Some(known) = catalog.host(&host) else {
        return report.add_at(Code::UnknownHost, destination.child("host"), format!("there is no {host}"));
    };
    if let Some(number) = destination.get("port").and_then(|port| port.int("number"))
        && !known.ports().is_empty()
        && !known.ports().contains(&number)
    {
        report.add_at(Code::UnknownPort, destination.child("port"), format!("{host} has no port {number}"));
    }
    let subset = destination.text("subset");
    if !subset.is_empty() && !catalog.rules.iter().any(|rule| rule.host == host && rule.subsets.contains(&subset)) {
        let message = format!("no DestinationRule of {host} names the subset {subset:?}");
        report.add_at(Code::UnknownSubset, destination.child("subset"), message);
    }
}

fn check_gateways(spec: &Node, namespace: &str, catalog: &Catalog, report: &mut Report) {
    if catalog.istio_gateways.is_empty() && catalog.gateways.is_empty() {
        return;
    }
    for item in spec.list("gateways") {
        let name = item.str().unwrap_or_default();
        if name == "mesh" || name.contains('.') {
            continue;
        }
        let key = name.split_once('/').unwrap_or((namespace, name));
        if !catalog.istio_gateways.contains(&key) {
            report.add(Code::UnknownGateway, &item, format!("there is no Gateway {}/{}", key.0, key.1));
        }
    }
}

fn check_waypoint(spec: &Node, namespace: &str, catalog: &Catalog, report: &mut Report) {
    for host in spec.list("hosts") {
        let name = catalog.full_name(host.str().unwrap_or_default(), namespace);
        if let Some(known) = catalog.host(&name)
            && !waypoints::serves(known, catalog)
        {
            report.add(Code::NeedsWaypoint, &host, format!("no waypoint serves {name}"));
        }
    }
}

/// Whoever meets no condition gets a 404.
fn check_default(spec: &Node, report: &mut Report) {
    let rules = spec.list("http");
    let is_default = |rule: &Node| {
        let conditions = rule.list("match");
        let takes_all = |condition: &Node| {
            let fields = condition.object().map(serde_json::Map::len).unwrap_or_default();
            fields == 0 || (fields == 1 && condition.get("uri").is_some_and(|uri| uri.text("prefix") == "/"))
        };
        conditions.is_empty() || conditions.iter().any(takes_all)
    };
    if !rules.is_empty() && !spec.list("hosts").is_empty() && !rules.iter().any(is_default) {
        report.add_at(Code::NoDefaultRoute, spec.child("http"), "every rule has conditions");
    }
}

fn check_conflicts(root: &Node, namespace: &str, spec: &Node, catalog: &Catalog, report: &mut Report) {
    let name = root.get("metadata").map(|metadata| metadata.text("name")).unwrap_or_default();
    let others = |route: &&Route| {
        let apart = route.namespace != namespace && (route.is_private || is_private(namespace, spec));
        route.for_mesh && (route.namespace, route.name) != (namespace, name) && !apart
    };
    for host in spec.list("hosts") {
        let full = catalog.full_name(host.str().unwrap_or_default(), namespace);
        if let Some(other) = catalog.routes.iter().filter(others).find(|route| route.hosts.contains(&full)) {
            let message = format!("VirtualService {}/{} is about {full} as well", other.namespace, other.name);
            report.add(Code::ConflictingHosts, &host, message);
        }
    }
}

//! The Gateway API's routes: whether parents and backends are there, and whether they may be named from here.

use super::catalog::Catalog;
use super::waypoints;
use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;

const GROUP: &str = "gateway.networking.k8s.io";

pub(super) fn check(kind: &str, namespace: &str, spec: &Node, catalog: &Catalog, report: &mut Report) {
    match kind {
        "HTTPRoute" | "GRPCRoute" | "TCPRoute" | "TLSRoute" | "UDPRoute" => {
            for parent in spec.list("parentRefs") {
                check_parent(&parent, namespace, catalog, report);
            }
            for rule in spec.list("rules") {
                let mirrors = rule.list("filters");
                let mirrors = mirrors.iter().filter_map(|filter| filter.at(&["requestMirror", "backendRef"]));
                for backend in rule.list("backendRefs").into_iter().chain(mirrors) {
                    check_backend(kind, &backend, namespace, catalog, report);
                }
            }
        }
        "ListenerSet" => {
            if let Some(parent) = spec.get("parentRef") {
                check_parent(&parent, namespace, catalog, report);
            }
        }
        "Gateway" => {
            for listener in spec.list("listeners") {
                for secret in listener.get("tls").map(|tls| tls.list("certificateRefs")).unwrap_or_default() {
                    let other = secret.text("namespace");
                    if !other.is_empty()
                        && other != namespace
                        && !granted((GROUP, "Gateway", namespace), ("", "Secret", other), &secret, catalog)
                    {
                        let message =
                            format!("nothing in namespace {other} grants Gateways of {namespace} its Secrets");
                        report.add(Code::NotGranted, &secret, message);
                    }
                }
            }
        }
        _ => {}
    }
}

fn or<'a>(node: &Node<'a>, field: &str, default: &'a str) -> &'a str {
    if node.has(field) { node.text(field) } else { default }
}

fn check_parent(parent: &Node, namespace: &str, catalog: &Catalog, report: &mut Report) {
    let namespace = or(parent, "namespace", namespace);
    let name = parent.text("name");
    match (or(parent, "group", GROUP), or(parent, "kind", "Gateway")) {
        (GROUP, "Gateway") => match catalog.gateways.get(&(namespace, name)) {
            None => report.add(Code::UnknownGateway, parent, format!("there is no Gateway {namespace}/{name}")),
            Some(gateway) => {
                let section = parent.text("sectionName");
                if !section.is_empty() && !gateway.listeners.contains(&section) {
                    let message = format!("Gateway {namespace}/{name} has no listener {section:?}");
                    report.add(Code::UnknownGateway, parent, message);
                }
            }
        },
        ("" | "core", "Service") if catalog.knows_hosts() => match catalog.host(&catalog.full_name(name, namespace)) {
            None => report.add(Code::UnknownTarget, parent, format!("there is no Service {namespace}/{name}")),
            Some(host) if !waypoints::serves(host, catalog) => {
                report.add(Code::NeedsWaypoint, parent, format!("no waypoint serves Service {namespace}/{name}"));
            }
            Some(_) => {}
        },
        _ => {}
    }
}

fn check_backend(kind: &str, backend: &Node, namespace: &str, catalog: &Catalog, report: &mut Report) {
    let (group, backend_kind) = (or(backend, "group", ""), or(backend, "kind", "Service"));
    if (group, backend_kind) != ("", "Service") {
        return;
    }
    let other = or(backend, "namespace", namespace);
    let name = backend.text("name");
    if other != namespace && !granted((GROUP, kind, namespace), ("", "Service", other), backend, catalog) {
        let message = format!("nothing in namespace {other} grants {kind}s of {namespace} the Service {name}");
        report.add(Code::NotGranted, backend, message);
    }
    if !catalog.knows_hosts() {
        return;
    }
    match catalog.host(&catalog.full_name(name, other)) {
        None => report.add(Code::UnknownHost, backend, format!("there is no Service {other}/{name}")),
        Some(host) => {
            if let Some(number) = backend.int("port").filter(|number| !host.ports().contains(number)) {
                report.add(Code::UnknownPort, backend, format!("Service {other}/{name} has no port {number}"));
            }
        }
    }
}

/// Whether a ReferenceGrant in the other namespace lets `from` name `to`: each group, kind and namespace.
fn granted(from: (&str, &str, &str), to: (&str, &str, &str), reference: &Node, catalog: &Catalog) -> bool {
    catalog.grants.iter().filter(|(namespace, _)| *namespace == to.2).any(|(_, grant)| {
        let lets = |entry: &Node| (entry.text("group"), entry.text("kind"), entry.text("namespace")) == from;
        let what = |entry: &Node| {
            (entry.text("group"), entry.text("kind")) == (to.0, to.1)
                && (!entry.has("name") || entry.text("name") == reference.text("name"))
        };
        grant.list("from").iter().any(lets) && grant.list("to").iter().any(what)
    })
}

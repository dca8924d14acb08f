//! Which waypoint, if any, serves a Service; what is for waypoints only is not in force without one.

use super::catalog::{Catalog, Host, namespace_of};
use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;

const USE: &str = "istio.io/use-waypoint";
const NAMESPACE: &str = "istio.io/use-waypoint-namespace";

/// Classes whose gateways are waypoints.
const CLASSES: &[&str] = &["weft-waypoint", "istio-waypoint"];

/// Whether some waypoint serves what a full host name stands for. A Service's label wins over its namespace's, and `none` is
/// none.
pub(super) fn serves(host: Host, catalog: &Catalog) -> bool {
    let (namespace, own) = match host {
        Host::Service(service) => (service.namespace, service.labels.get(USE).copied()),
        Host::Entry(entry) => (entry.namespace, None),
    };
    own.or_else(|| catalog.namespace_label(namespace, USE)).is_some_and(|waypoint| !["", "none"].contains(&waypoint))
}

pub(super) fn is_waypoint(namespace: &str, name: &str, catalog: &Catalog) -> bool {
    catalog.gateways.get(&(namespace, name)).is_some_and(|gateway| CLASSES.contains(&gateway.class))
}

/// The label of a Service or Namespace has to name a Gateway.
pub(super) fn check_label(root: &Node, catalog: &Catalog, report: &mut Report) {
    let Some(labels) = root.at(&["metadata", "labels"]) else { return };
    let waypoint = labels.text(USE);
    if ["", "none"].contains(&waypoint) {
        return;
    }
    let own = match root.text("kind") {
        "Namespace" => root.get("metadata").map(|metadata| metadata.text("name")).unwrap_or_default(),
        _ => namespace_of(root),
    };
    let namespace = match labels.text(NAMESPACE) {
        "" => own,
        other => other,
    };
    if !is_waypoint(namespace, waypoint, catalog) {
        let message = format!("there is no waypoint {namespace}/{waypoint}");
        report.add_at(Code::UnknownGateway, format!("metadata.labels[{USE}]"), message);
    }
}

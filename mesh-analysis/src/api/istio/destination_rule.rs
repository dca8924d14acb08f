//! DestinationRule: what holds for traffic to a service after it was routed there.

use super::selector::WORKLOAD_SELECTOR;
use super::status::STATUS;
use super::traffic_policy::TRAFFIC_POLICY;
use super::{NETWORKING, NETWORKING_CATEGORIES, NETWORKING_VERSIONS};
use crate::schema::{AGE, Kind, Scope, Shape, TEXT, TEXTS, column, field, map, object, objects};

pub(crate) static DESTINATION_RULE: Kind = Kind {
    group: NETWORKING,
    kind: "DestinationRule",
    plural: "destinationrules",
    singular: "destinationrule",
    short_names: &["dr"],
    categories: NETWORKING_CATEGORIES,
    scope: Scope::Namespaced,
    versions: NETWORKING_VERSIONS,
    spec: &SPEC,
    spec_required: false,
    status: Some(&STATUS),
    columns: &[column("Host", ".spec.host"), AGE],
    doc: "What holds for traffic to a service after it was routed there.",
    not_carried_out: None,
};

static SPEC: Shape = Shape::new(&[
    field("host", TEXT, "The service, as routes name it.").required(),
    field("trafficPolicy", object(&TRAFFIC_POLICY), "What holds for the whole service."),
    field("subsets", objects(&SUBSET), "Named parts of the service, such as versions."),
    field("exportTo", TEXTS, "Namespaces that this is for: . for its own, * for all."),
    field("workloadSelector", object(&WORKLOAD_SELECTOR), "Clients that this is for; all if left out."),
]);

static SUBSET: Shape = Shape::new(&[
    field("name", TEXT, "How routes name it.").required(),
    field("labels", map(&TEXT), "Labels that its endpoints have."),
    field("trafficPolicy", object(&TRAFFIC_POLICY), "What holds for it in place of what holds for the service."),
]);

//! GatewayClass: which controller sets up the gateways of a class.

use super::condition::{CONDITION_LIST, WAITING_ACCEPTED};
use super::reference::{CONTROLLER_PATTERN, GROUP_NAME, KIND_NAME, NAMESPACE_NAME, OBJECT_NAME};
use super::{CATEGORIES, GROUP};
use crate::schema::{AGE, Column, ColumnFormat, Kind, Scope, Shape, TEXT, column, field, object, rule};

pub(crate) static GATEWAY_CLASS: Kind = Kind {
    group: GROUP,
    kind: "GatewayClass",
    plural: "gatewayclasses",
    singular: "gatewayclass",
    short_names: &["gc"],
    categories: CATEGORIES,
    scope: Scope::Cluster,
    versions: &["v1", "v1beta1"],
    spec: &SPEC,
    spec_required: true,
    status: Some(&STATUS),
    columns: &[
        column("Controller", ".spec.controllerName"),
        column("Accepted", ".status.conditions[?(@.type==\"Accepted\")].status"),
        AGE,
        Column { name: "Description", path: ".spec.description", format: ColumnFormat::Text, wide: true },
    ],
    doc: "A class of gateways, and the controller that sets them up.",
    not_carried_out: None,
};

static SPEC: Shape = Shape::new(&[
    field("controllerName", TEXT.least(1).most(253).like(CONTROLLER_PATTERN), "The controller: domain/path.")
        .required()
        .rules(&[rule("self == oldSelf", "the controller of a class cannot be changed")]),
    field("parametersRef", object(&PARAMETERS), "Where settings of the class are."),
    field("description", TEXT.most(64), "What the class is for."),
]);

static PARAMETERS: Shape = Shape::new(&[
    field("group", GROUP_NAME, "API group.").required(),
    field("kind", KIND_NAME, "Kind.").required(),
    field("name", OBJECT_NAME, "Name.").required(),
    field("namespace", NAMESPACE_NAME, "Namespace; none for an object of the cluster."),
]);

static STATUS: Shape = Shape::new(&[
    field("conditions", CONDITION_LIST, "What the controller thinks of the class.").default(WAITING_ACCEPTED)
]);

//! ListenerSet: further listeners of a Gateway, by somebody else.

use super::condition::{CONDITION_LIST, WAITING_ACCEPTED_AND_PROGRAMMED};
use super::listener::{LISTENER_STATUSES, LISTENERS};
use super::reference::{GROUP_NAME, KIND_NAME, NAMESPACE_NAME, OBJECT_NAME};
use super::{CATEGORIES, GROUP};
use crate::schema::{AGE, Kind, Scope, Shape, column, field, object};

pub(crate) static LISTENER_SET: Kind = Kind {
    group: GROUP,
    kind: "ListenerSet",
    plural: "listenersets",
    singular: "listenerset",
    short_names: &["lset"],
    categories: CATEGORIES,
    scope: Scope::Namespaced,
    versions: &["v1"],
    spec: &SPEC,
    spec_required: true,
    status: Some(&STATUS),
    columns: &[
        column("Accepted", ".status.conditions[?(@.type==\"Accepted\")].status"),
        column("Programmed", ".status.conditions[?(@.type==\"Programmed\")].status"),
        AGE,
    ],
    doc: "Further listeners of a Gateway that allows them.",
    not_carried_out: None,
};

static SPEC: Shape = Shape::new(&[field("parentRef", object(&PARENT), "The Gateway.").required(), LISTENERS]);

static PARENT: Shape = Shape::new(&[
    field("group", GROUP_NAME, "API group.").default("\"gateway.networking.k8s.io\""),
    field("kind", KIND_NAME, "Kind.").default("\"Gateway\""),
    field("name", OBJECT_NAME, "Name.").required(),
    field("namespace", NAMESPACE_NAME, "Namespace; the object's own if left out."),
]);

static STATUS: Shape = Shape::new(&[
    field("conditions", CONDITION_LIST, "What the controller found.").default(WAITING_ACCEPTED_AND_PROGRAMMED),
    LISTENER_STATUSES,
]);

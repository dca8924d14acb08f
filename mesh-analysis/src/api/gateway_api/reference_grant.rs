//! ReferenceGrant: what of a namespace may be named from another.

use super::reference::{GROUP_NAME, KIND_NAME, NAMESPACE_NAME, OBJECT_NAME};
use super::{CATEGORIES, GROUP};
use crate::schema::{AGE, Kind, ListKind, Scope, Shape, field, objects};

pub(crate) static REFERENCE_GRANT: Kind = Kind {
    group: GROUP,
    kind: "ReferenceGrant",
    plural: "referencegrants",
    singular: "referencegrant",
    short_names: &["refgrant"],
    categories: CATEGORIES,
    scope: Scope::Namespaced,
    versions: &["v1beta1", "v1"],
    spec: &SPEC,
    spec_required: true,
    status: None,
    columns: &[AGE],
    doc: "What of this namespace may be named from others.",
    not_carried_out: None,
};

static SPEC: Shape = Shape::new(&[
    field("from", objects(&FROM).least(1).most(16).keyed(ListKind::Atomic), "Who may name it, any of these.")
        .required(),
    field("to", objects(&TO).least(1).most(16).keyed(ListKind::Atomic), "What may be named, any of these.").required(),
]);

static FROM: Shape = Shape::new(&[
    field("group", GROUP_NAME, "API group; empty for Kubernetes' core.").required(),
    field("kind", KIND_NAME, "Kind.").required(),
    field("namespace", NAMESPACE_NAME, "Namespace.").required(),
]);

static TO: Shape = Shape::new(&[
    field("group", GROUP_NAME, "API group; empty for Kubernetes' core.").required(),
    field("kind", KIND_NAME, "Kind.").required(),
    field("name", OBJECT_NAME, "Name; all of the kind if left out."),
]);

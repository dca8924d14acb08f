//! Which workloads or services a policy is for: shared by most kinds.

use crate::schema::{Field, INT32, Rule, Shape, TEXT, Type, field, map, object, objects, rule};

/// `matchLabels`, as policies and extensions have it.
pub(super) static WORKLOAD_SELECTOR: Shape = Shape::new(&[field(
    "matchLabels",
    map(&LABEL_VALUE).most(4096),
    "Labels that a workload has to have, all of them; none selects every workload of the namespace.",
)
.rules(&[
    rule("self.all(key, !key.contains('*'))", "a label's name cannot have a wildcard"),
    rule("self.all(key, key.size() > 0)", "a label's name cannot be empty"),
])]);

/// `labels`, as the older networking kinds have it.
pub(super) static LABELS_SELECTOR: Shape = Shape::new(&[field(
    "labels",
    map(&LABEL_VALUE).most(256),
    "Labels that a workload has to have, all of them; none selects every workload of the namespace.",
)]);

/// What a policy is attached to when it is for a waypoint or a gateway.
pub(super) static TARGET_REF: Shape = Shape::new(&[
    field("group", TEXT.most(253).like(GROUP), "API group of the target; empty for a Service."),
    field("kind", TEXT.least(1).most(63).like(KIND), "Kind of the target.").required(),
    field("name", TEXT.least(1).most(253), "Name of the target, in the policy's own namespace.").required(),
    field("namespace", TEXT.most(0), "Has to be empty: a policy is attached within its namespace."),
]);

pub(super) const SELECTOR: Field =
    field("selector", object(&WORKLOAD_SELECTOR), "Workloads that this is for; those of the namespace if left out.");
pub(super) const TARGET_REF_FIELD: Field =
    field("targetRef", object(&TARGET_REF), "The one target that this is attached to.").deprecated("targetRefs");
pub(super) const TARGET_REFS: Field = field(
    "targetRefs",
    objects(&TARGET_REF).most(16),
    "Gateways, Services or ServiceEntries of this namespace that this is attached to.",
);

/// For kinds that have both ways of saying whom they are for.
pub(super) const ONE_WAY_TO_SELECT: Rule = rule(
    "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1",
    "selector, targetRef and targetRefs exclude each other",
);

/// Order of extensions of one phase.
pub(super) const PRIORITY: Field =
    field("priority", INT32, "Order among those of the same phase, highest first.").nullable();

static LABEL_VALUE: Type = TEXT.most(63).like("^[^*]*$");

const GROUP: &str = r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const KIND: &str = "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$";

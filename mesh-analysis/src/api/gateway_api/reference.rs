//! How the Gateway API names things: hosts, objects, sections.

use crate::schema::{Field, ListKind, PORT, Rule, Shape, TEXT, Type, field, integer, list, map, object, objects, rule};

/// A name, or a name with `*` as its first label.
pub(super) const HOSTNAME: Type = TEXT.least(1).most(253).like(HOSTNAME_PATTERN);
pub(super) const PRECISE_HOSTNAME: Type = TEXT.least(1).most(253).like(SUBDOMAIN);
pub(super) const SECTION_NAME: Type = TEXT.least(1).most(253).like(SUBDOMAIN);
pub(super) const OBJECT_NAME: Type = TEXT.least(1).most(253);
pub(super) const NAMESPACE_NAME: Type = TEXT.least(1).most(63).like(LABEL);
pub(super) const KIND_NAME: Type = TEXT.least(1).most(63).like("^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$");
pub(super) const GROUP_NAME: Type =
    TEXT.most(253).like(r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$");
/// GEP-2257.
pub(super) const GATEWAY_DURATION: Type = TEXT.like("^([0-9]{1,5}(h|m|s|ms)){1,4}$");

pub(super) const HOSTNAME_PATTERN: &str = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
pub(super) const CONTROLLER_PATTERN: &str =
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$";
const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

const GROUP: Field = field("group", GROUP_NAME, "API group; empty for Kubernetes' core.");
const KIND: Field = field("kind", KIND_NAME, "Kind.");
pub(super) const NAME: Field = field("name", OBJECT_NAME, "Name.").required();
pub(super) const NAMESPACE: Field = field("namespace", NAMESPACE_NAME, "Namespace; the object's own if left out.");

/// An object of the same namespace.
pub(super) static LOCAL_OBJECT: Shape = Shape::new(&[GROUP.required(), KIND.required(), NAME]);

/// An object of any namespace.
pub(super) static ANY_OBJECT: Shape = Shape::new(&[GROUP.required(), KIND.required(), NAME, NAMESPACE]);

/// A Secret, if nothing else is said.
pub(super) static SECRET: Shape = Shape::new(&[GROUP.default("\"\""), KIND.default("\"Secret\""), NAME, NAMESPACE]);

/// A backend without a weight, as mirrors name it.
pub(super) static BACKEND_OBJECT: Shape =
    Shape::new(&[BACKEND_GROUP, BACKEND_KIND, NAME, NAMESPACE, BACKEND_PORT]).rules(&[SERVICE_HAS_PORT]);

/// A backend and its share.
pub(super) static BACKEND: Shape =
    Shape::new(&[BACKEND_GROUP, BACKEND_KIND, NAME, NAMESPACE, BACKEND_PORT, WEIGHT]).rules(&[SERVICE_HAS_PORT]);

pub(super) const BACKEND_GROUP: Field = GROUP.default("\"\"");
pub(super) const BACKEND_KIND: Field = KIND.default("\"Service\"");
pub(super) const BACKEND_PORT: Field = field("port", PORT, "Port of the service.");

pub(super) const WEIGHT: Field =
    field("weight", integer(0, 1_000_000), "Its share, relative to the others; 1 if left out.").default("1");

pub(super) const SERVICE_HAS_PORT: Rule =
    rule("self.group != '' || self.kind != 'Service' || has(self.port)", "a reference to a Service needs a port");

/// Where a route is attached.
pub(super) static PARENT: Shape = Shape::new(&[
    GROUP.default("\"gateway.networking.k8s.io\""),
    KIND.default("\"Gateway\""),
    NAME,
    NAMESPACE,
    field("sectionName", SECTION_NAME, "Listener of the gateway, or port of the Service, by its name."),
    field("port", PORT, "Listener of the gateway, or port of the Service, by its number."),
]);

pub(super) const PARENT_REFS: Field = field(
    "parentRefs",
    objects(&PARENT).most(32).keyed(ListKind::Atomic),
    "Gateways, or for routes within the mesh Services, that the route is attached to.",
)
.rules(&[
    rule(
        concat!(
            "self.all(a, self.all(b, a.group != b.group || a.kind != b.kind || a.name != b.name || ",
            "(has(a.__namespace__) ? a.__namespace__ : '') != (has(b.__namespace__) ? b.__namespace__ : '') || ",
            "has(a.sectionName) == has(b.sectionName)))"
        ),
        "a parent that is named twice needs a sectionName each time",
    ),
    rule(
        concat!(
            "self.all(a, self.exists_one(b, a.group == b.group && a.kind == b.kind && a.name == b.name && ",
            "(has(a.__namespace__) ? a.__namespace__ : '') == (has(b.__namespace__) ? b.__namespace__ : '') && ",
            "(has(a.sectionName) ? a.sectionName : '') == (has(b.sectionName) ? b.sectionName : '')))"
        ),
        "a parent is named twice with the same sectionName",
    ),
]);

/// A name within a route.
pub(super) const RULE_NAME: Field = field("name", SECTION_NAME, "Name of the rule; no other rule of the route has it.");

/// Key and value as annotations have them, for settings that an implementation may know.
pub(super) const OPTIONS: Field =
    field("options", map(&OPTION).most(16), "Further settings, by names that begin with a domain.");
static OPTION: Type = TEXT.most(4096);

/// Kubernetes' LabelSelector.
pub(super) static LABEL_SELECTOR: Shape = Shape::new(&[
    field("matchLabels", map(&TEXT), "Labels that are needed, all of them."),
    field("matchExpressions", objects(&EXPRESSION).keyed(ListKind::Atomic), "Conditions on labels, all of them."),
]);

static EXPRESSION: Shape = Shape::new(&[
    field("key", TEXT, "The label.").required(),
    field("operator", TEXT, "In, NotIn, Exists or DoesNotExist.").required(),
    field("values", list(&TEXT).keyed(ListKind::Atomic), "Values for In and NotIn."),
]);

/// Which kinds of routes.
pub(super) static ROUTE_KIND: Shape = Shape::new(&[GROUP.default("\"gateway.networking.k8s.io\""), KIND.required()]);

/// What settings of a class or gateway come from.
pub(super) const PARAMETERS: Type = object(&LOCAL_OBJECT);

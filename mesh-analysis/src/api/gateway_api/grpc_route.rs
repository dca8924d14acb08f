//! GRPCRoute: where calls of gRPC go.

use super::condition::ROUTE_STATUS;
use super::experimental::SESSION_PERSISTENCE;
use super::http_filter::{GRPC_FILTERS, HEADER_NAME};
use super::reference::{
    BACKEND_GROUP, BACKEND_KIND, BACKEND_PORT, HOSTNAME, NAME, NAMESPACE, PARENT_REFS, RULE_NAME, SERVICE_HAS_PORT,
    WEIGHT,
};
use super::{CATEGORIES, GROUP};
use crate::schema::{AGE, Kind, ListKind, Scope, Shape, TEXT, Type, column, field, list, object, objects, rule};

pub(crate) static GRPC_ROUTE: Kind = Kind {
    group: GROUP,
    kind: "GRPCRoute",
    plural: "grpcroutes",
    singular: "grpcroute",
    short_names: &[],
    categories: CATEGORIES,
    scope: Scope::Namespaced,
    versions: &["v1"],
    spec: &SPEC,
    spec_required: true,
    status: Some(&ROUTE_STATUS),
    columns: &[column("Hostnames", ".spec.hostnames"), AGE],
    doc: "Where calls of gRPC go, by service and method.",
    not_carried_out: None,
};

static SPEC: Shape = Shape::new(&[
    PARENT_REFS,
    field(
        "hostnames",
        list(&HOSTNAME_ITEM).most(16).keyed(ListKind::Atomic),
        "Names that are asked for; all if left out.",
    ),
    field("rules", objects(&RULE).most(16).keyed(ListKind::Atomic), "Rules; the best match holds.").rules(&[rule(
        "self.all(a, !has(a.name) || self.exists_one(b, has(b.name) && a.name == b.name))",
        "two rules have the same name",
    )]),
]);

static HOSTNAME_ITEM: Type = HOSTNAME;

static RULE: Shape = Shape::new(&[
    RULE_NAME,
    field(
        "matches",
        objects(&MATCH).most(64).keyed(ListKind::Atomic),
        "Calls that the rule is for, any of these; all if left out.",
    ),
    GRPC_FILTERS,
    field("backendRefs", objects(&BACKEND).most(16).keyed(ListKind::Atomic), "Where the call goes, by weight."),
    SESSION_PERSISTENCE,
]);

static MATCH: Shape = Shape::new(&[
    field("method", object(&METHOD), "Service and method."),
    field("headers", objects(&HEADER).most(16).keyed(ListKind::Map(&["name"])), "Headers, all of them."),
]);

static METHOD: Shape = Shape::new(&[
    field("type", COMPARISON, "How they are compared.").default("\"Exact\""),
    field("service", TEXT.most(1024), "The service, with its package; any if left out."),
    field("method", TEXT.most(1024), "The method; any if left out."),
])
.rules(&[
    rule("has(self.service) || has(self.method)", "service or method is needed"),
    rule(
        r"self.type != 'Exact' || !has(self.service) || self.service.matches(r'^(?i)\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*$')",
        "the service is no name of one",
    ),
    rule(
        "self.type != 'Exact' || !has(self.method) || self.method.matches('^[A-Za-z_][A-Za-z_0-9]*$')",
        "the method is no name of one",
    ),
]);

static HEADER: Shape = Shape::new(&[
    field("type", COMPARISON, "How it is compared.").default("\"Exact\""),
    field("name", HEADER_NAME, "Name of the header.").required(),
    field("value", TEXT.least(1).most(4096), "Its value.").required(),
]);

const COMPARISON: Type = Type::Choice(&["Exact", "RegularExpression"]);

static BACKEND: Shape = Shape::new(&[BACKEND_GROUP, BACKEND_KIND, NAME, NAMESPACE, BACKEND_PORT, WEIGHT, GRPC_FILTERS])
    .rules(&[SERVICE_HAS_PORT]);

//! TCPRoute, TLSRoute and UDPRoute: where connections and datagrams go.

use super::condition::ROUTE_STATUS;
use super::reference::{BACKEND, HOSTNAME, PARENT_REFS, RULE_NAME};
use super::{CATEGORIES, GROUP};
use crate::schema::{AGE, Field, Kind, ListKind, Scope, Shape, Type, field, list, objects, rule};

pub(crate) static TCP_ROUTE: Kind =
    Kind { kind: "TCPRoute", plural: "tcproutes", singular: "tcproute", doc: "Where TCP connections go.", ..TEMPLATE };

pub(crate) static UDP_ROUTE: Kind = Kind {
    kind: "UDPRoute",
    plural: "udproutes",
    singular: "udproute",
    doc: "Where UDP datagrams go.",
    not_carried_out: Some("UDP is left alone"),
    ..TEMPLATE
};

pub(crate) static TLS_ROUTE: Kind = Kind {
    kind: "TLSRoute",
    plural: "tlsroutes",
    singular: "tlsroute",
    spec: &TLS_SPEC,
    doc: "Where TLS connections go, by the name in the handshake.",
    ..TEMPLATE
};

const TEMPLATE: Kind = Kind {
    group: GROUP,
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: CATEGORIES,
    scope: Scope::Namespaced,
    versions: &["v1"],
    spec: &SPEC,
    spec_required: true,
    status: Some(&ROUTE_STATUS),
    columns: &[AGE],
    doc: "",
    not_carried_out: None,
};

static SPEC: Shape = Shape::new(&[PARENT_REFS, RULES]);

static TLS_SPEC: Shape = Shape::new(&[
    PARENT_REFS,
    field(
        "hostnames",
        list(&HOSTNAME_ITEM).least(1).most(1024).keyed(ListKind::Atomic),
        "Names in the handshake, any of these.",
    )
    .required()
    .rules(&[rule("self.all(h, !isIP(h))", "an address is no name in a handshake")]),
    RULES,
]);

static HOSTNAME_ITEM: Type = HOSTNAME;

const RULES: Field =
    field("rules", objects(&RULE).least(1).most(1).keyed(ListKind::Atomic), "The one rule.").required();

static RULE: Shape = Shape::new(&[
    RULE_NAME,
    field(
        "backendRefs",
        objects(&BACKEND).least(1).most(16).keyed(ListKind::Atomic),
        "Where the connection goes, by weight.",
    )
    .required(),
]);

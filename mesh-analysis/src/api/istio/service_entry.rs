//! ServiceEntry: a service that Kubernetes does not know.

use super::selector::LABELS_SELECTOR;
use super::status::STATUS;
use super::workload::ENTRY;
use super::{NETWORKING, NETWORKING_CATEGORIES, NETWORKING_VERSIONS};
use crate::schema::{
    AGE, Kind, ListKind, PORT, Scope, Shape, TEXT, TEXTS, Type, column, field, list, object, objects, rule,
};

pub(crate) static SERVICE_ENTRY: Kind = Kind {
    group: NETWORKING,
    kind: "ServiceEntry",
    plural: "serviceentries",
    singular: "serviceentry",
    short_names: &["se"],
    categories: NETWORKING_CATEGORIES,
    scope: Scope::Namespaced,
    versions: NETWORKING_VERSIONS,
    spec: &SPEC,
    spec_required: true,
    status: Some(&STATUS),
    columns: &[
        column("Hosts", ".spec.hosts"),
        column("Location", ".spec.location"),
        column("Resolution", ".spec.resolution"),
        AGE,
    ],
    doc: "A service that Kubernetes does not know: outside of the cluster, or on hosts of the mesh.",
    not_carried_out: None,
};

static SPEC: Shape = Shape::new(&[
    field("hosts", list(&HOST).least(1).most(256), "Names of the service.").required(),
    field("addresses", list(&ADDRESS).most(256), "Addresses that clients ask for: IP addresses or CIDR blocks."),
    field("ports", objects(&SERVICE_PORT).most(256).keyed(ListKind::Map(&["name"])), "Ports of the service.")
        .rules(&[rule("self.all(a, self.exists_one(b, a.number == b.number))", "two ports have the same number")]),
    field(
        "location",
        Type::Choice(&["MESH_EXTERNAL", "MESH_INTERNAL"]),
        "Whether its endpoints are outside of the mesh, or speak mutual TLS.",
    ),
    field(
        "resolution",
        Type::Choice(&["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"]),
        "Where its endpoints come from: what was asked for, this list, or a name.",
    ),
    field("endpoints", objects(&ENTRY).most(4096), "Its endpoints."),
    field("workloadSelector", object(&LABELS_SELECTOR), "Pods and WorkloadEntries of this namespace that are endpoints."),
    field("exportTo", TEXTS, "Namespaces that this is for: . for its own, * for all, ~ for none."),
    field("subjectAltNames", TEXTS, "Names of which a server's certificate has to have one."),
])
.rules(&[
    rule("!has(self.workloadSelector) || !has(self.endpoints)", "workloadSelector and endpoints exclude each other"),
    rule(
        "!has(self.addresses) || !self.addresses.exists(a, a.contains('/')) || !has(self.resolution) || self.resolution in ['NONE', 'STATIC']",
        "CIDR blocks go with resolution NONE or STATIC only",
    ),
    rule(
        "!has(self.endpoints) || (has(self.resolution) && self.resolution != 'NONE')",
        "endpoints go with a resolution other than NONE",
    ),
    rule(
        "!has(self.resolution) || self.resolution != 'DNS_ROUND_ROBIN' || !has(self.endpoints) || self.endpoints.size() <= 1",
        "DNS_ROUND_ROBIN has one endpoint at most",
    ),
]);

static HOST: Type = TEXT.like(r"^(\*.|[^*]|$)");
static ADDRESS: Type = TEXT.most(64);

static SERVICE_PORT: Shape = Shape::new(&[
    field("number", PORT, "Number that clients ask for.").required(),
    field("protocol", TEXT.most(256), "What is spoken: HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP or TLS."),
    field("name", TEXT.most(256), "Name of the port.").required(),
    field("targetPort", PORT, "Port of the endpoints; the same if left out."),
]);

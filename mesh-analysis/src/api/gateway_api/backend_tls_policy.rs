//! BackendTLSPolicy: how a gateway knows a backend by TLS.

use super::condition::POLICY_STATUS;
use super::reference::{
    GROUP_NAME, HOSTNAME, KIND_NAME, LOCAL_OBJECT, OBJECT_NAME, OPTIONS, PRECISE_HOSTNAME, SECTION_NAME,
};
use super::{CATEGORIES, GROUP};
use crate::schema::{AGE, Kind, ListKind, Scope, Shape, TEXT, Type, field, object, objects, rule};

pub(crate) static BACKEND_TLS_POLICY: Kind = Kind {
    group: GROUP,
    kind: "BackendTLSPolicy",
    plural: "backendtlspolicies",
    singular: "backendtlspolicy",
    short_names: &["btlspolicy"],
    categories: CATEGORIES,
    scope: Scope::Namespaced,
    versions: &["v1"],
    spec: &SPEC,
    spec_required: true,
    status: Some(&POLICY_STATUS),
    columns: &[AGE],
    doc: "How a gateway speaks TLS to a backend, and whom the backend has to prove to be.",
    not_carried_out: None,
};

static SPEC: Shape = Shape::new(&[
    field("targetRefs", objects(&TARGET).least(1).most(16).keyed(ListKind::Atomic), "The backends.")
        .required()
        .rules(&[
            rule(
                "self.all(a, self.all(b, a.group != b.group || a.kind != b.kind || a.name != b.name || has(a.sectionName) == has(b.sectionName)))",
                "a target that is named twice needs a sectionName each time",
            ),
            rule(
                concat!(
                    "self.all(a, self.exists_one(b, a.group == b.group && a.kind == b.kind && a.name == b.name && ",
                    "(has(a.sectionName) ? a.sectionName : '') == (has(b.sectionName) ? b.sectionName : '')))"
                ),
                "a target is named twice with the same sectionName",
            ),
        ]),
    field("validation", object(&VALIDATION), "Whom the backend has to prove to be.").required(),
    OPTIONS,
]);

static TARGET: Shape = Shape::new(&[
    field("group", GROUP_NAME, "API group; empty for a Service.").required(),
    field("kind", KIND_NAME, "Kind.").required(),
    field("name", OBJECT_NAME, "Name.").required(),
    field("sectionName", SECTION_NAME, "Port of the Service, by its name; all if left out."),
]);

static VALIDATION: Shape = Shape::new(&[
    field(
        "caCertificateRefs",
        objects(&LOCAL_OBJECT).most(16).keyed(ListKind::Atomic),
        "ConfigMaps with authorities, in the key ca.crt.",
    ),
    field("wellKnownCACertificates", Type::Choice(&["System"]), "The authorities that the system trusts."),
    field("hostname", PRECISE_HOSTNAME, "Name that is sent in the handshake, and looked for in the certificate.")
        .required(),
    field(
        "subjectAltNames",
        objects(&NAME).most(5).keyed(ListKind::Atomic),
        "Names that are looked for in the certificate in its place, any of these.",
    ),
])
.rules(&[rule(
    "(has(self.caCertificateRefs) && self.caCertificateRefs.size() > 0) != has(self.wellKnownCACertificates)",
    "either caCertificateRefs or wellKnownCACertificates is needed",
)]);

static NAME: Shape = Shape::new(&[
    field("type", Type::Choice(&["Hostname", "URI"]), "What it is.").required(),
    field("hostname", HOSTNAME, "A host name."),
    field("uri", TEXT.least(1).most(253).like(r"^(([^:/?#]+):)(//([^/?#]*))([^?#]*)(\?([^#]*))?(#(.*))?"), "A URI."),
])
.rules(&[
    rule("(self.type == 'Hostname') == has(self.hostname)", "hostname goes with type Hostname"),
    rule("(self.type == 'URI') == has(self.uri)", "uri goes with type URI"),
]);

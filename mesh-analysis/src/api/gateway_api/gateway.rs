//! Gateway: what a gateway listens for, and a waypoint. Istio's kind of the same name is another.

use super::condition::{CONDITION_LIST, WAITING_ACCEPTED_AND_PROGRAMMED};
use super::listener::{LISTENER_STATUSES, LISTENERS};
use super::reference::{ANY_OBJECT, LABEL_SELECTOR, OBJECT_NAME, PARAMETERS, SECRET};
use super::{CATEGORIES, GROUP};
use crate::schema::{
    AGE, Field, INT32, Kind, ListKind, PORT, Rule, Scope, Shape, TEXT, Type, column, field, map, object, objects, rule,
};

pub(crate) static GATEWAY: Kind = Kind {
    group: GROUP,
    kind: "Gateway",
    plural: "gateways",
    singular: "gateway",
    short_names: &["gtw"],
    categories: CATEGORIES,
    scope: Scope::Namespaced,
    versions: &["v1", "v1beta1"],
    spec: &SPEC,
    spec_required: true,
    status: Some(&STATUS),
    columns: &[
        column("Class", ".spec.gatewayClassName"),
        column("Address", ".status.addresses[*].value"),
        column("Programmed", ".status.conditions[?(@.type==\"Programmed\")].status"),
        AGE,
    ],
    doc: "What a gateway or a waypoint listens for.",
    not_carried_out: None,
};

static SPEC: Shape = Shape::new(&[
    field("gatewayClassName", OBJECT_NAME, "Class of the gateway.").required(),
    LISTENERS,
    field("addresses", objects(&ADDRESS).most(16).keyed(ListKind::Atomic), "Addresses that are asked for.").rules(&[
        rule(
            "self.all(a, !has(a.value) || self.exists_one(b, has(b.value) && a.type == b.type && a.value == b.value))",
            "an address is asked for twice",
        ),
    ]),
    field("infrastructure", object(&INFRASTRUCTURE), "What is passed on to the objects that make up the gateway."),
    field("allowedListeners", object(&ALLOWED_LISTENERS), "ListenerSets that may add listeners."),
    field("tls", object(&TLS), "TLS towards clients and backends."),
]);

static ADDRESS: Shape = Shape::new(&[
    field("type", ADDRESS_TYPE, "IPAddress, Hostname, or domain/name.").default("\"IPAddress\""),
    field("value", TEXT.most(253), "The address; any of the type if left out."),
])
.rules(&[IS_HOSTNAME, IS_IP]);

const ADDRESS_TYPE: Type = TEXT.least(1).most(253).like(concat!(
    r"^Hostname|IPAddress|NamedAddress|",
    r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$"
));

const IS_HOSTNAME: Rule = rule(
    r"self.type != 'Hostname' || !has(self.value) || self.value.matches(r'^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",
    "the value is no host name",
);
const IS_IP: Rule =
    rule("self.type != 'IPAddress' || !has(self.value) || isIP(self.value)", "the value is no IP address");

static INFRASTRUCTURE: Shape = Shape::new(&[
    field("labels", map(&LABEL_VALUE).most(8), "Labels.").rules(&[QUALIFIED]),
    field("annotations", map(&ANNOTATION_VALUE).most(16), "Annotations.").rules(&[QUALIFIED]),
    field("parametersRef", PARAMETERS, "Where further settings are."),
]);

static LABEL_VALUE: Type = TEXT.most(63).like("^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$");
static ANNOTATION_VALUE: Type = TEXT.most(4096);

const QUALIFIED: Rule = rule(
    r"self.all(key, key.size() <= 317 && key.matches(r'^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$'))",
    "a key is a name, or a domain, a slash and a name",
);

static ALLOWED_LISTENERS: Shape =
    Shape::new(&[field("namespaces", object(&LISTENER_NAMESPACES), "Namespaces of the ListenerSets.")
        .default(r#"{"from":"None"}"#)]);

static LISTENER_NAMESPACES: Shape = Shape::new(&[
    field(
        "from",
        Type::Choice(&["All", "Selector", "Same", "None"]),
        "All, none, the gateway's own, or those selected.",
    )
    .default("\"None\""),
    field("selector", object(&LABEL_SELECTOR), "Labels of the namespaces, with Selector."),
]);

static TLS: Shape = Shape::new(&[
    field("backend", object(&BACKEND_TLS), "TLS towards backends."),
    field("frontend", object(&FRONTEND_TLS), "TLS towards clients."),
]);

static BACKEND_TLS: Shape =
    Shape::new(&[field("clientCertificateRef", object(&SECRET), "Secret with the gateway's own certificate and key.")]);

static FRONTEND_TLS: Shape = Shape::new(&[
    field("default", object(&TLS_CONFIG), "What holds for every port with HTTPS.").required(),
    field("perPort", objects(&TLS_PORT).most(64).keyed(ListKind::Map(&["port"])), "What holds for single ports."),
]);

const VALIDATION: Field = field("validation", object(&CLIENT_VALIDATION), "Whom clients have to prove to be.");
static TLS_CONFIG: Shape = Shape::new(&[VALIDATION]);
static TLS_PORT: Shape = Shape::new(&[
    field("port", PORT, "The port.").required(),
    field("tls", object(&TLS_CONFIG), "What holds for it.").required(),
]);

static CLIENT_VALIDATION: Shape = Shape::new(&[
    field(
        "caCertificateRefs",
        objects(&ANY_OBJECT).least(1).most(16).keyed(ListKind::Atomic),
        "ConfigMaps with authorities.",
    )
    .required(),
    field(
        "mode",
        Type::Choice(&["AllowValidOnly", "AllowInsecureFallback"]),
        "Whether a client without a good certificate is let in.",
    )
    .default("\"AllowValidOnly\""),
]);

static STATUS: Shape = Shape::new(&[
    field("addresses", objects(&STATUS_ADDRESS).most(16).keyed(ListKind::Atomic), "Addresses that it has."),
    field("conditions", CONDITION_LIST, "What the controller found.").default(WAITING_ACCEPTED_AND_PROGRAMMED),
    LISTENER_STATUSES,
    field("attachedListenerSets", INT32, "ListenerSets that are attached."),
]);

static STATUS_ADDRESS: Shape = Shape::new(&[
    field("type", ADDRESS_TYPE, "IPAddress, Hostname, or domain/name.").default("\"IPAddress\""),
    field("value", TEXT.least(1).most(253), "The address.").required(),
])
.rules(&[IS_HOSTNAME, IS_IP]);

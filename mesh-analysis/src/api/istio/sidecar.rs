//! Sidecar: what a proxy beside a workload gets to know. Weft has no such proxies.

use super::port::DESTINATION;
use super::selector::LABELS_SELECTOR;
use super::server_tls::SERVER_TLS;
use super::status::STATUS;
use super::traffic_policy::CONNECTION_POOL;
use super::{NETWORKING, NETWORKING_CATEGORIES, NETWORKING_VERSIONS};
use crate::schema::{Field, Kind, Scope, Shape, TEXT, TEXTS, Type, UINT32, field, object, objects};

pub(crate) static SIDECAR: Kind = Kind {
    group: NETWORKING,
    kind: "Sidecar",
    plural: "sidecars",
    singular: "sidecar",
    short_names: &[],
    categories: NETWORKING_CATEGORIES,
    scope: Scope::Namespaced,
    versions: NETWORKING_VERSIONS,
    spec: &SPEC,
    spec_required: false,
    status: Some(&STATUS),
    columns: &[],
    doc: "What a proxy beside a workload gets to know and listens for.",
    not_carried_out: Some("no workload of Weft's has a proxy beside it"),
};

static SPEC: Shape = Shape::new(&[
    field(
        "workloadSelector",
        object(&LABELS_SELECTOR),
        "Workloads that this is for; those of the namespace if left out.",
    ),
    field("ingress", objects(&INGRESS), "What is listened for on behalf of the workload."),
    field("egress", objects(&EGRESS), "What the workload may reach."),
    field("inboundConnectionPool", object(&CONNECTION_POOL), "Limits for connections to the workload."),
    field("outboundTrafficPolicy", object(&OUTBOUND), "What becomes of traffic to unknown names."),
]);

static INGRESS: Shape = Shape::new(&[
    field("port", object(&PORT), "Port that is listened on.").required(),
    field("bind", TEXT, "Address that is listened on."),
    CAPTURE_MODE,
    field("defaultEndpoint", TEXT, "Where the workload listens: 127.0.0.1:port, [::1]:port, or a socket (unix://)."),
    field("tls", object(&SERVER_TLS), "TLS from outside of the mesh."),
    field("connectionPool", object(&CONNECTION_POOL), "Limits for connections to this port."),
]);

static EGRESS: Shape = Shape::new(&[
    field("port", object(&PORT), "Port that is listened on."),
    field("bind", TEXT, "Address or socket (unix://) that is listened on."),
    CAPTURE_MODE,
    field("hosts", TEXTS, "Names that may be reached, as namespace/name.").required(),
]);

const CAPTURE_MODE: Field =
    field("captureMode", Type::Choice(&["DEFAULT", "IPTABLES", "NONE"]), "How traffic gets to the listener.");

static PORT: Shape = Shape::new(&[
    field("number", UINT32, "Number of the port."),
    field("protocol", TEXT, "What is spoken."),
    field("name", TEXT, "Name of the port."),
    field("targetPort", UINT32, "Has no effect.").deprecated("nothing"),
]);

static OUTBOUND: Shape = Shape::new(&[
    field("mode", Type::Choice(&["REGISTRY_ONLY", "ALLOW_ANY"]), "Whether unknown names may be reached."),
    field("egressProxy", object(&DESTINATION), "Where traffic to unknown names goes."),
]);

//! Gateway: what a gateway listens for. The Gateway API's kind of the same name is another.

use super::server_tls::SERVER_TLS;
use super::status::STATUS;
use super::{NETWORKING, NETWORKING_CATEGORIES, NETWORKING_VERSIONS};
use crate::schema::{Kind, Scope, Shape, TEXT, TEXTS, UINT32, field, map, object, objects};

pub(crate) static GATEWAY: Kind = Kind {
    group: NETWORKING,
    kind: "Gateway",
    plural: "gateways",
    singular: "gateway",
    short_names: &["gw"],
    categories: NETWORKING_CATEGORIES,
    scope: Scope::Namespaced,
    versions: NETWORKING_VERSIONS,
    spec: &SPEC,
    spec_required: false,
    status: Some(&STATUS),
    columns: &[],
    doc: "What a gateway at the edge of the mesh listens for.",
    not_carried_out: None,
};

static SPEC: Shape = Shape::new(&[
    field("servers", objects(&SERVER), "What it listens for."),
    field("selector", map(&TEXT), "Labels of the pods that this is for."),
]);

static SERVER: Shape = Shape::new(&[
    field("name", TEXT, "Name of the server; if set, no other has it."),
    field("port", object(&PORT), "Port that it listens on.").required(),
    field("bind", TEXT, "Address or socket (unix://) that it listens on."),
    field("hosts", TEXTS, "Names that it serves, as namespace/name or name; * for all.").required(),
    field("tls", object(&SERVER_TLS), "TLS."),
    field("defaultEndpoint", TEXT, "Where traffic goes without a route.").not_carried_out("Istio does not document it"),
]);

static PORT: Shape = Shape::new(&[
    field("number", UINT32, "Number of the port.").required(),
    field("protocol", TEXT, "HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP or TLS.").required(),
    field("name", TEXT, "Name of the port, different from the others'.").required(),
    field("targetPort", UINT32, "Has no effect.").deprecated("nothing"),
]);

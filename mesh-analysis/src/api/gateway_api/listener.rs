//! Listeners: shared by Gateway and ListenerSet.

use super::condition::CONDITION_LIST;
use super::reference::{HOSTNAME, LABEL_SELECTOR, OPTIONS, ROUTE_KIND, SECRET, SECTION_NAME};
use crate::schema::{Field, INT32, ListKind, PORT, Rule, Shape, TEXT, Type, field, object, objects, rule};

pub(super) const LISTENERS: Field =
    field("listeners", objects(&LISTENER).least(1).most(64).keyed(ListKind::Map(&["name"])), "What is listened for.")
        .required()
        .rules(&[
            rule(
                "self.all(l, !(l.protocol.lowerAscii() in ['http', 'tcp', 'udp']) || !has(l.tls))",
                "tls goes with the protocols HTTPS and TLS only",
            ),
            rule(
                "self.all(l, l.protocol.lowerAscii() != 'https' || !has(l.tls) || l.tls.mode == 'Terminate')",
                "HTTPS is terminated: tls.mode has to be Terminate",
            ),
            rule("self.all(l, l.protocol.lowerAscii() != 'tls' || has(l.tls))", "the protocol TLS needs tls"),
            rule(
                "self.all(l, !(l.protocol.lowerAscii() in ['tcp', 'udp']) || !has(l.hostname))",
                "a hostname does not go with the protocols TCP and UDP",
            ),
            DISTINCT,
        ]);

const DISTINCT: Rule = rule(
    concat!(
        "self.all(a, self.exists_one(b, a.port == b.port && a.protocol == b.protocol && ",
        "(has(a.hostname) ? a.hostname : '') == (has(b.hostname) ? b.hostname : '')))"
    ),
    "two listeners have the same port, protocol and hostname",
);

static LISTENER: Shape = Shape::new(&[
    field("name", SECTION_NAME, "Name of the listener.").required(),
    field("hostname", HOSTNAME, "Name that it is for; all if left out."),
    field("port", PORT, "Port that it listens on.").required(),
    field("protocol", TEXT.least(1).most(255).like(PROTOCOL), "HTTP, HTTPS, TLS, TCP, UDP or domain/name.").required(),
    field("tls", object(&TLS), "TLS."),
    field("allowedRoutes", object(&ALLOWED_ROUTES), "Routes that may be attached.")
        .default(r#"{"namespaces":{"from":"Same"}}"#),
]);

const PROTOCOL: &str = r"^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9]+$";

static TLS: Shape = Shape::new(&[
    field("mode", Type::Choice(&["Terminate", "Passthrough"]), "Whether TLS ends here.").default("\"Terminate\""),
    field(
        "certificateRefs",
        objects(&SECRET).most(64).keyed(ListKind::Atomic),
        "Secrets with certificate and key.",
    ),
    OPTIONS,
])
.rules(&[rule(
    "self.mode != 'Terminate' || (has(self.certificateRefs) && self.certificateRefs.size() > 0) || (has(self.options) && self.options.size() > 0)",
    "Terminate needs certificateRefs or options",
)]);

static ALLOWED_ROUTES: Shape = Shape::new(&[
    field("namespaces", object(&NAMESPACES), "Namespaces of the routes.").default(r#"{"from":"Same"}"#),
    field("kinds", objects(&ROUTE_KIND).most(8).keyed(ListKind::Atomic), "Kinds of routes; by protocol if left out."),
]);

static NAMESPACES: Shape = Shape::new(&[
    field("from", Type::Choice(&["All", "Selector", "Same"]), "All, the gateway's own, or those that are selected.")
        .default("\"Same\""),
    field("selector", object(&LABEL_SELECTOR), "Labels of the namespaces, with Selector."),
]);

/// Status of each listener.
pub(super) const LISTENER_STATUSES: Field = field(
    "listeners",
    objects(&LISTENER_STATUS).most(64).keyed(ListKind::Map(&["name"])),
    "What became of each listener.",
);

static LISTENER_STATUS: Shape = Shape::new(&[
    field("name", SECTION_NAME, "The listener.").required(),
    field("supportedKinds", objects(&ROUTE_KIND).most(8).keyed(ListKind::Atomic), "Kinds of routes that it takes."),
    field("attachedRoutes", INT32, "Routes that are attached.").required(),
    field("conditions", CONDITION_LIST, "What the controller found.").required(),
]);

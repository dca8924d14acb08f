//! PeerAuthentication: whether a workload takes plaintext.

use super::selector::SELECTOR;
use super::status::STATUS;
use super::{SECURITY, SECURITY_CATEGORIES, SECURITY_VERSIONS};
use crate::schema::{AGE, Kind, Scope, Shape, Type, column, field, object, object_map, rule};

pub(crate) static PEER_AUTHENTICATION: Kind = Kind {
    group: SECURITY,
    kind: "PeerAuthentication",
    plural: "peerauthentications",
    singular: "peerauthentication",
    short_names: &["pa"],
    categories: SECURITY_CATEGORIES,
    scope: Scope::Namespaced,
    versions: SECURITY_VERSIONS,
    spec: &SPEC,
    spec_required: false,
    status: Some(&STATUS),
    columns: &[column("Mode", ".spec.mtls.mode"), AGE],
    doc: "Whether workloads take plaintext, mutual TLS, or both.",
    not_carried_out: None,
};

static SPEC: Shape = Shape::new(&[
    SELECTOR,
    field("mtls", object(&MTLS), "What holds for every port."),
    field("portLevelMtls", object_map(&MTLS).least(1), "What holds for single ports, by their numbers.")
        .rules(&[rule("self.all(key, 0 < int(key) && int(key) <= 65535)", "a port is 1 to 65535")]),
])
.rules(&[rule(
    "!has(self.portLevelMtls) || (has(self.selector) && has(self.selector.matchLabels) && self.selector.matchLabels.size() > 0)",
    "portLevelMtls needs a selector",
)]);

static MTLS: Shape = Shape::new(&[field(
    "mode",
    Type::Choice(&["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]),
    "What is taken: plaintext, both, or mutual TLS only; UNSET as the next wider policy says.",
)]);

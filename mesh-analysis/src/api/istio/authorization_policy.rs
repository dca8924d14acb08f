//! AuthorizationPolicy: who may do what.

use super::selector::{ONE_WAY_TO_SELECT, SELECTOR, TARGET_REF_FIELD, TARGET_REFS};
use super::status::STATUS;
use super::{SECURITY, SECURITY_CATEGORIES, SECURITY_VERSIONS};
use crate::schema::{AGE, Kind, Scope, Shape, TEXT, TEXTS, Type, column, field, list, object, objects, rule};

pub(crate) static AUTHORIZATION_POLICY: Kind = Kind {
    group: SECURITY,
    kind: "AuthorizationPolicy",
    plural: "authorizationpolicies",
    singular: "authorizationpolicy",
    short_names: &["ap"],
    categories: SECURITY_CATEGORIES,
    scope: Scope::Namespaced,
    versions: SECURITY_VERSIONS,
    spec: &SPEC,
    spec_required: false,
    status: Some(&STATUS),
    columns: &[column("Action", ".spec.action"), AGE],
    doc: "Who may do what with some workloads.",
    not_carried_out: None,
};

static SPEC: Shape = Shape::new(&[
    SELECTOR,
    TARGET_REF_FIELD,
    TARGET_REFS,
    field(
        "action",
        Type::Choice(&["ALLOW", "DENY", "AUDIT", "CUSTOM"]),
        "What becomes of traffic that a rule matches.",
    ),
    field("provider", object(&PROVIDER), "Who is asked, with CUSTOM."),
    field("rules", objects(&RULE).most(512), "Traffic that this is about, any of these; none if left out."),
])
.rules(&[ONE_WAY_TO_SELECT]);

static PROVIDER: Shape = Shape::new(&[field("name", TEXT, "Name of a provider in the mesh's settings.")]);

static RULE: Shape = Shape::new(&[
    field("from", objects(&FROM).most(512), "Sources, any of these; all if left out."),
    field("to", objects(&TO), "Operations, any of these; all if left out."),
    field("when", objects(&CONDITION), "Conditions, all of these."),
]);

static FROM: Shape = Shape::new(&[field("source", object(&SOURCE), "A source; each field that is set has to match.")]);

static SOURCE: Shape = Shape::new(&[
    field("principals", TEXTS, "Identities of peers: trust-domain/ns/namespace/sa/service-account."),
    field("notPrincipals", TEXTS, "Identities that must not match."),
    field("requestPrincipals", TEXTS, "Issuer and subject of the token: iss/sub."),
    field("notRequestPrincipals", TEXTS, "Issuers and subjects that must not match."),
    field("namespaces", TEXTS, "Namespaces of peers."),
    field("notNamespaces", TEXTS, "Namespaces that must not match."),
    field("serviceAccounts", list(&SERVICE_ACCOUNT).most(16), "Service accounts: name, or namespace/name."),
    field("notServiceAccounts", list(&SERVICE_ACCOUNT).most(16), "Service accounts that must not match."),
    field("ipBlocks", TEXTS, "Addresses of peers."),
    field("notIpBlocks", TEXTS, "Addresses that must not match."),
    field("remoteIpBlocks", TEXTS, "Addresses of clients, from X-Forwarded-For or the PROXY protocol."),
    field("notRemoteIpBlocks", TEXTS, "Addresses of clients that must not match."),
])
.rules(&[rule(
    "(!has(self.serviceAccounts) && !has(self.notServiceAccounts)) || (!has(self.principals) && !has(self.notPrincipals) && !has(self.namespaces) && !has(self.notNamespaces))",
    "service accounts exclude principals and namespaces",
)]);

static SERVICE_ACCOUNT: Type = TEXT.most(320);

static TO: Shape =
    Shape::new(&[field("operation", object(&OPERATION), "An operation; each field that is set has to match.")]);

static OPERATION: Shape = Shape::new(&[
    field("hosts", TEXTS, "Names that are asked for."),
    field("notHosts", TEXTS, "Names that must not match."),
    field("ports", TEXTS, "Ports, as text."),
    field("notPorts", TEXTS, "Ports that must not match."),
    field("methods", TEXTS, "Methods; POST for gRPC."),
    field("notMethods", TEXTS, "Methods that must not match."),
    field("paths", TEXTS, "Paths: whole, with * at one end, or with {*} and {**}."),
    field("notPaths", TEXTS, "Paths that must not match."),
]);

static CONDITION: Shape = Shape::new(&[
    field("key", TEXT, "The attribute, such as source.ip or request.headers[name].").required(),
    field("values", TEXTS, "Values, any of these."),
    field("notValues", TEXTS, "Values that must not match."),
]);

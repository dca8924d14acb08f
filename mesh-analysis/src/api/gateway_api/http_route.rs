//! HTTPRoute: where HTTP requests go.

use super::condition::ROUTE_STATUS;
use super::experimental::{RETRY, SESSION_PERSISTENCE};
use super::http_filter::{HEADER_NAME, HTTP_FILTERS};
use super::reference::{
    BACKEND_GROUP, BACKEND_KIND, BACKEND_PORT, GATEWAY_DURATION, HOSTNAME, NAME, NAMESPACE, PARENT_REFS, RULE_NAME,
    SERVICE_HAS_PORT, WEIGHT,
};
use super::{CATEGORIES, GROUP};
use crate::schema::{AGE, Kind, ListKind, Rule, Scope, Shape, TEXT, Type, column, field, list, object, objects, rule};

pub(crate) static HTTP_ROUTE: Kind = Kind {
    group: GROUP,
    kind: "HTTPRoute",
    plural: "httproutes",
    singular: "httproute",
    short_names: &[],
    categories: CATEGORIES,
    scope: Scope::Namespaced,
    versions: &["v1", "v1beta1"],
    spec: &SPEC,
    spec_required: true,
    status: Some(&ROUTE_STATUS),
    columns: &[column("Hostnames", ".spec.hostnames"), AGE],
    doc: "Where HTTP requests go, by what they ask for.",
    not_carried_out: None,
};

static SPEC: Shape = Shape::new(&[
    PARENT_REFS,
    field(
        "hostnames",
        list(&HOSTNAME_ITEM).most(16).keyed(ListKind::Atomic),
        "Names that are asked for; all if left out.",
    ),
    field("rules", objects(&RULE).least(1).most(16).keyed(ListKind::Atomic), "Rules; the best match holds.")
        .default(r#"[{"matches":[{"path":{"type":"PathPrefix","value":"/"}}]}]"#)
        .rules(&[
            rule(
                "self.all(a, !has(a.name) || self.exists_one(b, has(b.name) && a.name == b.name))",
                "two rules have the same name",
            ),
            FEW_MATCHES,
        ]),
]);

static HOSTNAME_ITEM: Type = HOSTNAME;

/// CEL has no sum over a list.
const FEW_MATCHES: Rule = rule(
    concat!(
        "(self.size() > 0 ? self[0].matches.size() : 0) + (self.size() > 1 ? self[1].matches.size() : 0) + ",
        "(self.size() > 2 ? self[2].matches.size() : 0) + (self.size() > 3 ? self[3].matches.size() : 0) + ",
        "(self.size() > 4 ? self[4].matches.size() : 0) + (self.size() > 5 ? self[5].matches.size() : 0) + ",
        "(self.size() > 6 ? self[6].matches.size() : 0) + (self.size() > 7 ? self[7].matches.size() : 0) + ",
        "(self.size() > 8 ? self[8].matches.size() : 0) + (self.size() > 9 ? self[9].matches.size() : 0) + ",
        "(self.size() > 10 ? self[10].matches.size() : 0) + (self.size() > 11 ? self[11].matches.size() : 0) + ",
        "(self.size() > 12 ? self[12].matches.size() : 0) + (self.size() > 13 ? self[13].matches.size() : 0) + ",
        "(self.size() > 14 ? self[14].matches.size() : 0) + (self.size() > 15 ? self[15].matches.size() : 0) <= 128"
    ),
    "a route has 128 matches at most, all rules together",
);

static RULE: Shape = Shape::new(&[
    RULE_NAME,
    field(
        "matches",
        objects(&MATCH).most(64).keyed(ListKind::Atomic),
        "Requests that the rule is for, any of these.",
    )
    .default(r#"[{"path":{"type":"PathPrefix","value":"/"}}]"#),
    HTTP_FILTERS,
    field(
        "backendRefs",
        objects(&BACKEND).most(16).keyed(ListKind::Atomic),
        "Where the request goes, by weight.",
    ),
    field("timeouts", object(&TIMEOUTS), "How long things may take."),
    RETRY,
    SESSION_PERSISTENCE,
])
.rules(&[
    rule(
        "!has(self.backendRefs) || self.backendRefs.size() == 0 || !has(self.filters) || self.filters.all(f, !has(f.requestRedirect))",
        "a rule with RequestRedirect has no backendRefs",
    ),
    rule(
        concat!(
            "!has(self.filters) || !self.filters.exists(f, (has(f.requestRedirect) && has(f.requestRedirect.path) && ",
            "f.requestRedirect.path.type == 'ReplacePrefixMatch') || (has(f.urlRewrite) && has(f.urlRewrite.path) && ",
            "f.urlRewrite.path.type == 'ReplacePrefixMatch')) || (self.matches.size() == 1 && has(self.matches[0].path) && ",
            "self.matches[0].path.type == 'PathPrefix')"
        ),
        "replacePrefixMatch goes with exactly one match, by PathPrefix",
    ),
    rule(
        concat!(
            "!has(self.backendRefs) || !self.backendRefs.exists(b, has(b.filters) && b.filters.exists(f, ",
            "(has(f.requestRedirect) && has(f.requestRedirect.path) && f.requestRedirect.path.type == 'ReplacePrefixMatch') || ",
            "(has(f.urlRewrite) && has(f.urlRewrite.path) && f.urlRewrite.path.type == 'ReplacePrefixMatch'))) || ",
            "(self.matches.size() == 1 && has(self.matches[0].path) && self.matches[0].path.type == 'PathPrefix')"
        ),
        "replacePrefixMatch of a backend goes with exactly one match, by PathPrefix",
    ),
]);

static MATCH: Shape = Shape::new(&[
    field("path", object(&PATH), "The path.").default(r#"{"type":"PathPrefix","value":"/"}"#),
    field("headers", objects(&HEADER).most(16).keyed(ListKind::Map(&["name"])), "Headers, all of them."),
    field(
        "queryParams",
        objects(&PARAMETER).most(16).keyed(ListKind::Map(&["name"])),
        "Query parameters, all of them.",
    ),
    field(
        "method",
        Type::Choice(&["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]),
        "The method.",
    ),
]);

static PATH: Shape = Shape::new(&[
    field("type", Type::Choice(&["Exact", "PathPrefix", "RegularExpression"]), "How it is compared.")
        .default("\"PathPrefix\""),
    field("value", TEXT.most(1024), "The path, its first elements, or an expression in RE2's syntax.").default("\"/\""),
])
.rules(&[
    rule(
        "self.type == 'RegularExpression' || self.value.startsWith('/')",
        "a path begins with a slash",
    ),
    rule(
        "self.type == 'RegularExpression' || !self.value.matches('//|/[.]{1,2}/|/[.]{1,2}$|%2[fF]|#')",
        "a path has no empty elements, none of dots only, no fragment and no slash in disguise",
    ),
    rule(
        r"self.type == 'RegularExpression' || self.value.matches(r'''^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$''')",
        "a path has characters of RFC 3986 only",
    ),
]);

static HEADER: Shape = Shape::new(&[
    field("type", COMPARISON, "How it is compared.").default("\"Exact\""),
    field("name", HEADER_NAME, "Name of the header.").required(),
    field("value", TEXT.least(1).most(4096), "Its value.").required(),
]);

static PARAMETER: Shape = Shape::new(&[
    field("type", COMPARISON, "How it is compared.").default("\"Exact\""),
    field("name", HEADER_NAME, "Name of the parameter.").required(),
    field("value", TEXT.least(1).most(1024), "Its value.").required(),
]);

const COMPARISON: Type = Type::Choice(&["Exact", "RegularExpression"]);

static BACKEND: Shape = Shape::new(&[BACKEND_GROUP, BACKEND_KIND, NAME, NAMESPACE, BACKEND_PORT, WEIGHT, HTTP_FILTERS])
    .rules(&[SERVICE_HAS_PORT]);

static TIMEOUTS: Shape = Shape::new(&[
    field("request", GATEWAY_DURATION, "How long an answer may take, retries included; 0s for ever."),
    field("backendRequest", GATEWAY_DURATION, "How long each attempt may take; 0s for ever."),
])
.rules(&[rule(
    "!has(self.request) || !has(self.backendRequest) || duration(self.request) == duration('0s') || duration(self.backendRequest) <= duration(self.request)",
    "an attempt cannot take longer than the request",
)]);

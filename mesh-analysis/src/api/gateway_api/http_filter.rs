//! What is done to requests and responses on the way: shared by HTTPRoute and GRPCRoute.

use super::reference::{BACKEND_OBJECT, LOCAL_OBJECT, PRECISE_HOSTNAME};
use crate::schema::{
    BOOLEAN, Field, Integer, ListKind, PORT, Rule, Shape, TEXT, Type, field, integer, list, object, objects, rule,
};

/// A filter of this type may stand once in a list.
macro_rules! once {
    ($type:literal) => {
        rule(concat!("self.filter(f, f.type == '", $type, "').size() <= 1"), concat!($type, " can be used once"))
    };
}

/// A field that is set if, and only if, `type` has this value.
macro_rules! goes_with {
    ($type:literal, $field:literal) => {
        rule(
            concat!("(self.type == '", $type, "') == has(self.", $field, ")"),
            concat!($field, " goes with type ", $type),
        )
    };
}

/// Name of a header or query parameter.
pub(super) const HEADER_NAME: Type = TEXT.least(1).most(256).like(r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$");

pub(super) const HTTP_FILTERS: Field = field(
    "filters",
    objects(&HTTP_FILTER).most(16).keyed(ListKind::Atomic),
    "What is done to the request and its response, in order.",
)
.rules(&[
    rule(
        "!self.exists(f, f.type == 'RequestRedirect') || !self.exists(f, f.type == 'URLRewrite')",
        "RequestRedirect and URLRewrite exclude each other",
    ),
    once!("CORS"),
    once!("RequestHeaderModifier"),
    once!("ResponseHeaderModifier"),
    once!("RequestRedirect"),
    once!("URLRewrite"),
]);

pub(super) const GRPC_FILTERS: Field = field(
    "filters",
    objects(&GRPC_FILTER).most(16).keyed(ListKind::Atomic),
    "What is done to the request and its response, in order.",
)
.rules(&[once!("RequestHeaderModifier"), once!("ResponseHeaderModifier")]);

static HTTP_FILTER: Shape = Shape::new(&[
    field(
        "type",
        Type::Choice(&[
            "RequestHeaderModifier",
            "ResponseHeaderModifier",
            "RequestMirror",
            "RequestRedirect",
            "URLRewrite",
            "ExtensionRef",
            "CORS",
        ]),
        "Which filter it is; the field of that name says the rest.",
    )
    .required(),
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    MIRROR,
    field("requestRedirect", object(&REDIRECT), "Answers with another address."),
    field("urlRewrite", object(&REWRITE), "Changes what is asked for."),
    field("cors", object(&CORS), "Cross-origin requests that are allowed."),
    EXTENSION,
])
.rules(&[
    goes_with!("RequestHeaderModifier", "requestHeaderModifier"),
    goes_with!("ResponseHeaderModifier", "responseHeaderModifier"),
    goes_with!("RequestMirror", "requestMirror"),
    goes_with!("RequestRedirect", "requestRedirect"),
    goes_with!("URLRewrite", "urlRewrite"),
    goes_with!("ExtensionRef", "extensionRef"),
    goes_with!("CORS", "cors"),
]);

static GRPC_FILTER: Shape = Shape::new(&[
    field(
        "type",
        Type::Choice(&["RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "ExtensionRef"]),
        "Which filter it is; the field of that name says the rest.",
    )
    .required(),
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    MIRROR,
    EXTENSION,
])
.rules(&[
    goes_with!("RequestHeaderModifier", "requestHeaderModifier"),
    goes_with!("ResponseHeaderModifier", "responseHeaderModifier"),
    goes_with!("RequestMirror", "requestMirror"),
    goes_with!("ExtensionRef", "extensionRef"),
]);

const REQUEST_HEADERS: Field = field("requestHeaderModifier", object(&HEADERS), "Changes headers of the request.");
const RESPONSE_HEADERS: Field = field("responseHeaderModifier", object(&HEADERS), "Changes headers of the response.");
const MIRROR: Field = field("requestMirror", object(&MIRROR_SHAPE), "Sends a copy elsewhere.")
    .rules(&[rule("!has(self.percent) || !has(self.fraction)", "percent and fraction exclude each other")]);
const EXTENSION: Field = field("extensionRef", object(&LOCAL_OBJECT), "A filter that an implementation brings.");

static HEADERS: Shape = Shape::new(&[
    field("set", HEADER_LIST, "Headers that replace what is there."),
    field("add", HEADER_LIST, "Headers that are added to what is there."),
    field("remove", list(&TEXT).most(16).keyed(ListKind::Set), "Headers that are taken away."),
]);

const HEADER_LIST: Type = objects(&HEADER).most(16).keyed(ListKind::Map(&["name"]));

static HEADER: Shape = Shape::new(&[
    field("name", HEADER_NAME, "Name of the header.").required(),
    field("value", TEXT.least(1).most(4096), "Its value.").required(),
]);

static MIRROR_SHAPE: Shape = Shape::new(&[
    field("backendRef", object(&BACKEND_OBJECT), "Where the copy goes.").required(),
    field("percent", integer(0, 100), "Share of requests; all if left out."),
    field("fraction", object(&FRACTION), "Share of requests."),
]);

static FRACTION: Shape = Shape::new(&[
    field("numerator", integer(0, i32::MAX as i64), "So many").required(),
    field("denominator", integer(1, i32::MAX as i64), "of so many.").default("100"),
])
.rules(&[rule("self.numerator <= self.denominator", "a fraction is 1 at most")]);

static REDIRECT: Shape = Shape::new(&[
    field("scheme", Type::Choice(&["http", "https"]), "Scheme of the new address."),
    field("hostname", PRECISE_HOSTNAME, "Name in the new address."),
    field("path", object(&PATH), "Path of the new address."),
    field("port", PORT, "Port in the new address; that of the scheme, or of the listener, if left out."),
    field(
        "statusCode",
        Type::Integer(Integer { least: 301, most: 308, choices: &[301, 302, 303, 307, 308] }),
        "Status of the answer.",
    )
    .default("302"),
]);

static REWRITE: Shape = Shape::new(&[
    field("hostname", PRECISE_HOSTNAME, "What the name becomes."),
    field("path", object(&PATH), "What the path becomes."),
]);

static PATH: Shape = Shape::new(&[
    field("type", Type::Choice(&["ReplaceFullPath", "ReplacePrefixMatch"]), "What is replaced.").required(),
    field("replaceFullPath", TEXT.most(1024), "The new path."),
    field("replacePrefixMatch", TEXT.most(1024), "What is put in place of the prefix that matched."),
])
.rules(&[goes_with!("ReplaceFullPath", "replaceFullPath"), goes_with!("ReplacePrefixMatch", "replacePrefixMatch")]);

static CORS: Shape = Shape::new(&[
    field(
        "allowOrigins",
        list(&ORIGIN).most(64).keyed(ListKind::Set),
        "Origins that are allowed: scheme://host, or *.",
    )
    .rules(&[ALONE]),
    field("allowCredentials", BOOLEAN, "Whether requests may carry credentials."),
    field("allowMethods", list(&METHOD_OR_ANY).most(9).keyed(ListKind::Set), "Methods that are allowed, or *.")
        .rules(&[ALONE]),
    field(
        "allowHeaders",
        list(&HEADER_NAME_ITEM).most(64).keyed(ListKind::Set),
        "Headers that requests may have, or *.",
    )
    .rules(&[ALONE]),
    field(
        "exposeHeaders",
        list(&HEADER_NAME_ITEM).most(64).keyed(ListKind::Set),
        "Headers that scripts may read, or *.",
    ),
    field("maxAge", integer(1, i32::MAX as i64), "Seconds that an answer to a preflight holds.").default("5"),
]);

const ALONE: Rule = rule("!('*' in self) || self.size() == 1", "* stands alone");

static ORIGIN: Type = TEXT.least(1).most(253).like(r"(^\*$)|(^[a-zA-Z][a-zA-Z0-9+\-.]*://[^/?#\s]+$)");
static METHOD_OR_ANY: Type =
    Type::Choice(&["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*"]);
static HEADER_NAME_ITEM: Type = HEADER_NAME;

//! VirtualService: where traffic for a name goes.

use super::port::DESTINATION;
use super::status::STATUS;
use super::{NETWORKING, NETWORKING_CATEGORIES, NETWORKING_VERSIONS};
use crate::schema::{
    AGE, BOOLEAN, DURATION, Field, Group, INT32, Kind, Scope, Shape, TEXT, TEXTS, Type, UINT32, column, field, map,
    object, object_map, objects,
};

pub(crate) static VIRTUAL_SERVICE: Kind = Kind {
    group: NETWORKING,
    kind: "VirtualService",
    plural: "virtualservices",
    singular: "virtualservice",
    short_names: &["vs"],
    categories: NETWORKING_CATEGORIES,
    scope: Scope::Namespaced,
    versions: NETWORKING_VERSIONS,
    spec: &SPEC,
    spec_required: false,
    status: Some(&STATUS),
    columns: &[column("Gateways", ".spec.gateways"), column("Hosts", ".spec.hosts"), AGE],
    doc: "Where traffic for a name goes, by what it asks for.",
    not_carried_out: None,
};

static SPEC: Shape = Shape::new(&[
    field("hosts", TEXTS, "Names that clients ask for; none in a delegate."),
    field("gateways", TEXTS, "Gateways that this is for; mesh, also if left out, stands for all workloads."),
    field("http", objects(&HTTP_ROUTE), "Rules for HTTP; the first that matches holds."),
    field("tls", objects(&TLS_ROUTE), "Rules for TLS that is not terminated; the first that matches holds."),
    field("tcp", objects(&TCP_ROUTE), "Rules for any other TCP; the first that matches holds."),
    field("exportTo", TEXTS, "Namespaces that this is for: . for its own, * for all."),
]);

static HTTP_ROUTE: Shape = Shape::new(&[
    field("name", TEXT, "Name of the rule, for logs."),
    field("match", objects(&HTTP_MATCH), "Requests that the rule is for, any of these; all if left out."),
    field("route", objects(&HTTP_DESTINATION), "Where the request goes."),
    field("redirect", object(&REDIRECT), "Answers with another address."),
    field("directResponse", object(&DIRECT_RESPONSE), "Answers with a fixed response."),
    field("delegate", object(&DELEGATE), "Another VirtualService that has the rules."),
    field("rewrite", object(&REWRITE), "Changes what is asked for before the request goes on."),
    field("timeout", DURATION, "How long an answer may take."),
    field("retries", object(&RETRIES), "When a request is sent again."),
    field("fault", object(&FAULT), "Delays and errors, for tests."),
    field("mirror", object(&DESTINATION), "Where a copy of the request goes."),
    field("mirrors", objects(&MIRROR), "Where copies of the request go."),
    field("mirrorPercent", UINT32, "Share of requests that are copied.").nullable().deprecated("mirrorPercentage"),
    field("mirror_percent", UINT32, "Share of requests that are copied.").nullable().deprecated("mirrorPercentage"),
    field("mirrorPercentage", object(&PERCENT), "Share of requests that are copied."),
    field("corsPolicy", object(&CORS), "Cross-origin requests that are allowed."),
    HEADERS_FIELD,
]);

static HTTP_MATCH: Shape = Shape::new(&[
    field("name", TEXT, "Name of the match, for logs."),
    field("uri", object(&STRING_MATCH), "The path."),
    field("scheme", object(&STRING_MATCH), "http or https."),
    field("method", object(&STRING_MATCH), "The method."),
    field("authority", object(&STRING_MATCH), "The name that was asked for."),
    field("headers", object_map(&STRING_MATCH), "Headers, by their names in lower case."),
    field("port", UINT32, "Port that was asked for."),
    field("sourceLabels", map(&TEXT), "Labels of the client."),
    field("gateways", TEXTS, "Gateways that this match is for, out of those above."),
    field("queryParams", object_map(&STRING_MATCH), "Query parameters."),
    field("ignoreUriCase", BOOLEAN, "Whether upper and lower case of the path are the same."),
    field("withoutHeaders", object_map(&STRING_MATCH), "Headers that must not match."),
    field("sourceNamespace", TEXT, "Namespace of the client."),
    field("statPrefix", TEXT, "Prefix of the route's own metrics."),
]);

static STRING_MATCH: Shape = Shape::new(&[
    field("exact", TEXT, "The whole value."),
    field("prefix", TEXT, "What the value begins with."),
    field("regex", TEXT, "An expression in RE2's syntax that the whole value matches."),
])
.groups(&[Group::AtMostOne(&["exact", "prefix", "regex"])]);

static HTTP_DESTINATION: Shape = Shape::new(&[
    field("destination", object(&DESTINATION), "The service.").required(),
    field("weight", INT32, "Its share, relative to the others."),
    HEADERS_FIELD,
]);

const HEADERS_FIELD: Field = field("headers", object(&HEADERS), "Changes to headers.");

static HEADERS: Shape = Shape::new(&[
    field("request", object(&HEADER_OPERATIONS), "Changes to the request."),
    field("response", object(&HEADER_OPERATIONS), "Changes to the response."),
]);

static HEADER_OPERATIONS: Shape = Shape::new(&[
    field("set", map(&TEXT), "Headers that replace what is there."),
    field("add", map(&TEXT), "Headers that are added to what is there."),
    field("remove", TEXTS, "Headers that are taken away."),
]);

static REDIRECT: Shape = Shape::new(&[
    field("uri", TEXT, "Path of the new address."),
    field("authority", TEXT, "Name in the new address."),
    field("port", UINT32, "Port in the new address."),
    field("derivePort", Type::Choice(&["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"]), "Where the port comes from."),
    field("scheme", TEXT, "http or https in the new address."),
    field("redirectCode", UINT32, "Status of the answer; 301 if left out."),
])
.groups(&[Group::AtMostOne(&["port", "derivePort"])]);

static DIRECT_RESPONSE: Shape = Shape::new(&[
    field("status", UINT32, "Status of the answer.").required(),
    field("body", object(&BODY), "Content of the answer."),
]);

static BODY: Shape =
    Shape::new(&[field("string", TEXT, "As text."), field("bytes", TEXT.format("byte"), "As base64.")])
        .groups(&[Group::AtMostOne(&["string", "bytes"])]);

static DELEGATE: Shape = Shape::new(&[
    field("name", TEXT, "Name of the VirtualService."),
    field("namespace", TEXT, "Its namespace; that of this one if left out."),
]);

static REWRITE: Shape = Shape::new(&[
    field("uri", TEXT, "What the path, or the prefix that matched, becomes."),
    field("authority", TEXT, "What the name becomes."),
    field("uriRegexRewrite", object(&REGEX_REWRITE), "Replaces parts of the path."),
]);

static REGEX_REWRITE: Shape = Shape::new(&[
    field("match", TEXT, "An expression in RE2's syntax."),
    field("rewrite", TEXT, r"What is put in place of it; \1 is its first group."),
]);

static RETRIES: Shape = Shape::new(&[
    field("attempts", INT32, "Most retries of a request; 0 for none."),
    field("perTryTimeout", DURATION, "How long each attempt may take."),
    field("retryOn", TEXT, "When it is retried: names and status codes, by commas."),
    field("retryRemoteLocalities", BOOLEAN, "Whether retries may go to other localities.").nullable(),
    field("retryIgnorePreviousHosts", BOOLEAN, "Whether retries may go where an attempt failed.").nullable(),
    field("backoff", DURATION, "Least time between attempts."),
]);

static FAULT: Shape = Shape::new(&[
    field("delay", object(&FAULT_DELAY), "Holds requests back."),
    field("abort", object(&FAULT_ABORT), "Answers with an error."),
]);

static FAULT_DELAY: Shape = Shape::new(&[
    field("fixedDelay", DURATION, "For how long."),
    field("exponentialDelay", DURATION, "For how long on average.").not_carried_out("no proxy has ever carried it out"),
    field("percentage", object(&PERCENT), "Share of requests."),
    field("percent", INT32, "Share of requests.").deprecated("percentage"),
])
.groups(&[Group::AtMostOne(&["fixedDelay", "exponentialDelay"])]);

static FAULT_ABORT: Shape = Shape::new(&[
    field("httpStatus", INT32, "Status of the answer."),
    field("grpcStatus", TEXT, "gRPC status of the answer, by its name."),
    field("http2Error", TEXT, "HTTP/2 error.").not_carried_out("no proxy has ever carried it out"),
    field("percentage", object(&PERCENT), "Share of requests."),
])
.groups(&[Group::AtMostOne(&["httpStatus", "grpcStatus", "http2Error"])]);

static PERCENT: Shape =
    Shape::new(&[field("value", Type::Number { least: None, most: None }, "0 to 100; 0.1 is one in a thousand.")]);

static MIRROR: Shape = Shape::new(&[
    field("destination", object(&DESTINATION), "The service.").required(),
    field("percentage", object(&PERCENT), "Share of requests; all if left out."),
]);

static CORS: Shape = Shape::new(&[
    field("allowOrigin", TEXTS, "Origins that are allowed.").deprecated("allowOrigins"),
    field("allowOrigins", objects(&STRING_MATCH), "Origins that are allowed."),
    field("allowMethods", TEXTS, "Methods that are allowed."),
    field("allowHeaders", TEXTS, "Headers that requests may have."),
    field("exposeHeaders", TEXTS, "Headers of the response that scripts may read."),
    field("maxAge", DURATION, "How long an answer to a preflight holds."),
    field("allowCredentials", BOOLEAN, "Whether requests may carry credentials.").nullable(),
    field(
        "unmatchedPreflights",
        Type::Choice(&["UNSPECIFIED", "FORWARD", "IGNORE"]),
        "What becomes of preflights from other origins.",
    ),
]);

static TLS_ROUTE: Shape = Shape::new(&[
    field("match", objects(&TLS_MATCH), "Connections that the rule is for, any of these.").required(),
    field("route", objects(&ROUTE_DESTINATION), "Where the connection goes."),
]);

static TLS_MATCH: Shape = Shape::new(&[
    field("sniHosts", TEXTS, "Names in the handshake.").required(),
    field("destinationSubnets", TEXTS, "Addresses that were asked for."),
    field("port", UINT32, "Port that was asked for."),
    field("sourceLabels", map(&TEXT), "Labels of the client."),
    field("gateways", TEXTS, "Gateways that this match is for, out of those above."),
    field("sourceNamespace", TEXT, "Namespace of the client."),
]);

static TCP_ROUTE: Shape = Shape::new(&[
    field("match", objects(&TCP_MATCH), "Connections that the rule is for, any of these."),
    field("route", objects(&ROUTE_DESTINATION), "Where the connection goes."),
]);

static TCP_MATCH: Shape = Shape::new(&[
    field("destinationSubnets", TEXTS, "Addresses that were asked for."),
    field("port", UINT32, "Port that was asked for."),
    field("sourceSubnet", TEXT, "Addresses of the client.").not_carried_out("no proxy has ever carried it out"),
    field("sourceLabels", map(&TEXT), "Labels of the client."),
    field("gateways", TEXTS, "Gateways that this match is for, out of those above."),
    field("sourceNamespace", TEXT, "Namespace of the client."),
]);

static ROUTE_DESTINATION: Shape = Shape::new(&[
    field("destination", object(&DESTINATION), "The service.").required(),
    field("weight", INT32, "Its share, relative to the others."),
]);

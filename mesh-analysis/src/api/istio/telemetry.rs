//! Telemetry: what is measured, logged and traced.

use super::selector::{ONE_WAY_TO_SELECT, SELECTOR, TARGET_REF_FIELD, TARGET_REFS};
use super::status::STATUS;
use super::{TELEMETRY as GROUP, TELEMETRY_CATEGORIES};
use crate::schema::{
    AGE, BOOLEAN, DURATION, Field, Group, Kind, Scope, Shape, TEXT, Type, field, number, object, object_map, objects,
    rule,
};

pub(crate) static TELEMETRY: Kind = Kind {
    group: GROUP,
    kind: "Telemetry",
    plural: "telemetries",
    singular: "telemetry",
    short_names: &["telemetry"],
    categories: TELEMETRY_CATEGORIES,
    scope: Scope::Namespaced,
    versions: &["v1", "v1alpha1"],
    spec: &SPEC,
    spec_required: false,
    status: Some(&STATUS),
    columns: &[AGE],
    doc: "What is measured, logged and traced of some workloads.",
    not_carried_out: None,
};

static SPEC: Shape = Shape::new(&[
    SELECTOR,
    TARGET_REF_FIELD,
    TARGET_REFS,
    field("tracing", objects(&TRACING), "Tracing; one entry is looked at."),
    field("metrics", objects(&METRICS), "Metrics."),
    field("accessLogging", objects(&ACCESS_LOGGING), "The access log."),
])
.rules(&[ONE_WAY_TO_SELECT]);

const PROVIDERS: Field = field("providers", objects(&PROVIDER), "Where it goes; the mesh's default if left out.");
static PROVIDER: Shape = Shape::new(&[field("name", WORD, "Name of a provider in the mesh's settings.").required()]);

const MODE: Field = field("mode", Type::Choice(&["CLIENT_AND_SERVER", "CLIENT", "SERVER"]), "At which end it is done.");
static MATCH: Shape = Shape::new(&[MODE]);
const MATCH_FIELD: Field = field("match", object(&MATCH), "Traffic that this is for.");

static TRACING: Shape = Shape::new(&[
    MATCH_FIELD,
    PROVIDERS,
    field("randomSamplingPercentage", number(0.0, 100.0), "Share of requests that a trace is begun for.").nullable(),
    field("disableSpanReporting", BOOLEAN, "Hands traces on and reports nothing.").nullable(),
    field("customTags", object_map(&CUSTOM_TAG), "Further tags of spans."),
    field("useRequestIdForTraceSampling", BOOLEAN, "Whether X-Request-Id decides about a trace.").nullable(),
    field("enableIstioTags", BOOLEAN, "Whether spans have tags of the mesh.").nullable(),
]);

static CUSTOM_TAG: Shape = Shape::new(&[
    field("literal", object(&VALUE), "A fixed value."),
    field("environment", object(&NAMED), "An environment variable of the proxy."),
    field("header", object(&NAMED), "A header of the request."),
    field("formatter", object(&VALUE), "A format of the access log."),
])
.groups(&[Group::AtMostOne(&["literal", "environment", "header", "formatter"])]);

static VALUE: Shape = Shape::new(&[field("value", WORD, "The value.").required()]);
static NAMED: Shape = Shape::new(&[
    field("name", WORD, "The name.").required(),
    field("defaultValue", TEXT, "The value if there is none."),
]);

static METRICS: Shape = Shape::new(&[
    PROVIDERS,
    field("overrides", objects(&OVERRIDE), "Changes to single metrics, in order."),
    field("reportingInterval", DURATION, "Time between two reports of an open connection."),
]);

static OVERRIDE: Shape = Shape::new(&[
    field("match", object(&METRIC), "Metrics that this is for; all if left out."),
    field("disabled", BOOLEAN, "Takes them away.").nullable(),
    field("tagOverrides", object_map(&TAG), "Changes to their tags."),
]);

static METRIC: Shape = Shape::new(&[
    field(
        "metric",
        Type::Choice(&[
            "ALL_METRICS",
            "REQUEST_COUNT",
            "REQUEST_DURATION",
            "REQUEST_SIZE",
            "RESPONSE_SIZE",
            "TCP_OPENED_CONNECTIONS",
            "TCP_CLOSED_CONNECTIONS",
            "TCP_SENT_BYTES",
            "TCP_RECEIVED_BYTES",
            "GRPC_REQUEST_MESSAGES",
            "GRPC_RESPONSE_MESSAGES",
        ]),
        "One of Istio's metrics.",
    ),
    field("customMetric", WORD, "Any other metric, by its name."),
    MODE,
])
.groups(&[Group::AtMostOne(&["metric", "customMetric"])]);

static TAG: Shape = Shape::new(&[
    field("operation", Type::Choice(&["UPSERT", "REMOVE"]), "Whether the tag is set or taken away."),
    field("value", TEXT, "An expression for the tag's value."),
])
.rules(&[
    rule(
        "!has(self.operation) || self.operation != 'UPSERT' || (has(self.value) && self.value != '')",
        "UPSERT needs a value",
    ),
    rule("!has(self.operation) || self.operation != 'REMOVE' || !has(self.value)", "REMOVE takes no value"),
]);

static ACCESS_LOGGING: Shape = Shape::new(&[
    MATCH_FIELD,
    PROVIDERS,
    field("disabled", BOOLEAN, "Turns the log off.").nullable(),
    field("filter", object(&FILTER), "Which requests and connections are logged."),
]);

static FILTER: Shape = Shape::new(&[field("expression", TEXT, "An expression in the Common Expression Language.")]);

const WORD: Type = TEXT.least(1);

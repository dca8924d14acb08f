//! EnvoyFilter, WasmPlugin and ProxyConfig: they change Envoy, which Weft does not use. Known, so that they can be stored,
//! and said to be without effect.

use super::selector::{LABELS_SELECTOR, ONE_WAY_TO_SELECT, PRIORITY, SELECTOR, TARGET_REF_FIELD, TARGET_REFS};
use super::status::STATUS;
use super::{EXTENSIONS, EXTENSIONS_CATEGORIES, NETWORKING, NETWORKING_CATEGORIES};
use crate::schema::{
    AGE, INT32, Kind, ListKind, PORT, Scope, Shape, TEXT, Type, field, integer, list, map, object, objects, rule,
};

pub(crate) static ENVOY_FILTER: Kind = Kind {
    group: NETWORKING,
    kind: "EnvoyFilter",
    plural: "envoyfilters",
    singular: "envoyfilter",
    short_names: &[],
    categories: NETWORKING_CATEGORIES,
    scope: Scope::Namespaced,
    versions: &["v1alpha3"],
    spec: &FILTER,
    spec_required: false,
    status: Some(&STATUS),
    columns: &[],
    doc: "Changes to Envoy's configuration.",
    not_carried_out: Some(NO_ENVOY),
};

pub(crate) static WASM_PLUGIN: Kind = Kind {
    group: EXTENSIONS,
    kind: "WasmPlugin",
    plural: "wasmplugins",
    singular: "wasmplugin",
    short_names: &[],
    categories: EXTENSIONS_CATEGORIES,
    scope: Scope::Namespaced,
    versions: &["v1alpha1"],
    spec: &PLUGIN,
    spec_required: true,
    status: Some(&STATUS),
    columns: &[AGE],
    doc: "A WebAssembly program within a proxy.",
    not_carried_out: Some(NO_ENVOY),
};

pub(crate) static PROXY_CONFIG: Kind = Kind {
    group: NETWORKING,
    kind: "ProxyConfig",
    plural: "proxyconfigs",
    singular: "proxyconfig",
    short_names: &[],
    categories: NETWORKING_CATEGORIES,
    scope: Scope::Namespaced,
    versions: &["v1beta1"],
    spec: &PROXY,
    spec_required: false,
    status: Some(&STATUS),
    columns: &[],
    doc: "How the proxies of some workloads run.",
    not_carried_out: Some(NO_ENVOY),
};

const NO_ENVOY: &str = "no workload of Weft's has an Envoy beside it";

static FILTER: Shape = Shape::new(&[
    field(
        "workloadSelector",
        object(&LABELS_SELECTOR),
        "Workloads that this is for; those of the namespace if left out.",
    ),
    TARGET_REFS,
    field("configPatches", list(&Type::Opaque), "Patches, each with what it matches."),
    field("priority", INT32, "Order of filters, lowest first."),
])
.rules(&[rule(
    "!has(self.workloadSelector) || !has(self.targetRefs)",
    "workloadSelector and targetRefs exclude each other",
)]);

static PLUGIN: Shape = Shape::new(&[
    SELECTOR,
    TARGET_REF_FIELD,
    TARGET_REFS,
    field("url", TEXT.least(1), "Where the program comes from: oci, file, http or https.").required(),
    field("sha256", TEXT.like("^$|^[a-f0-9]{64}$"), "Hash of the program."),
    field(
        "imagePullPolicy",
        Type::Choice(&["UNSPECIFIED_POLICY", "IfNotPresent", "Always"]),
        "When the program is fetched again.",
    ),
    field("imagePullSecret", TEXT.least(1).most(253), "Secret with credentials for the registry."),
    field("verificationKey", TEXT, "Key that the program is signed with."),
    field("pluginConfig", Type::Opaque, "Handed to the program."),
    field("pluginName", TEXT.least(1).most(256), "Name of the program within Envoy."),
    field("phase", Type::Choice(&["UNSPECIFIED_PHASE", "AUTHN", "AUTHZ", "STATS"]), "Where in the chain it stands."),
    PRIORITY,
    field(
        "failStrategy",
        Type::Choice(&["FAIL_CLOSE", "FAIL_OPEN", "FAIL_RELOAD"]),
        "What becomes of traffic when it fails.",
    ),
    field("vmConfig", object(&VM), "Environment of the program."),
    field("match", objects(&TRAFFIC), "Traffic that it is for, any of these."),
    field("type", Type::Choice(&["UNSPECIFIED_PLUGIN_TYPE", "HTTP", "NETWORK"]), "What it looks at."),
])
.rules(&[ONE_WAY_TO_SELECT]);

static VM: Shape =
    Shape::new(&[field("env", objects(&VARIABLE).most(256).keyed(ListKind::Map(&["name"])), "Environment variables.")]);

static VARIABLE: Shape = Shape::new(&[
    field("name", TEXT.least(1).most(256), "Name of the variable.").required(),
    field("valueFrom", Type::Choice(&["INLINE", "HOST"]), "Where the value comes from."),
    field("value", TEXT.most(2048), "The value, with INLINE."),
])
.rules(&[rule(
    "!has(self.valueFrom) || self.valueFrom != 'HOST' || !has(self.value)",
    "a value goes with INLINE only",
)]);

static TRAFFIC: Shape = Shape::new(&[
    field("mode", Type::Choice(&["UNDEFINED", "CLIENT", "SERVER", "CLIENT_AND_SERVER"]), "Which way it goes."),
    field("ports", objects(&PORT_NUMBER).keyed(ListKind::Map(&["number"])), "Ports that it goes to, any of these."),
]);

static PORT_NUMBER: Shape = Shape::new(&[field("number", PORT, "Number of the port.").required()]);

static PROXY: Shape = Shape::new(&[
    SELECTOR,
    field("concurrency", integer(0, i32::MAX as i64), "Threads of the proxy; 0 for one a core.").nullable(),
    field("environmentVariables", map(&VALUE), "Further environment variables."),
    field("image", object(&IMAGE), "Image of the proxy."),
]);

static VALUE: Type = TEXT.most(2048);
static IMAGE: Shape = Shape::new(&[field("imageType", TEXT, "default, debug or distroless.")]);

//! WorkloadEntry and WorkloadGroup: workloads that Kubernetes does not run. A ServiceEntry's endpoints look the same.

use super::status::STATUS;
use super::{NETWORKING, NETWORKING_CATEGORIES, NETWORKING_VERSIONS};
use crate::schema::{
    AGE, Field, Group, Kind, PORT, Rule, Scope, Shape, TEXT, Type, UINT32, column, field, integer, list, map, object,
    objects, rule,
};

pub(crate) static WORKLOAD_ENTRY: Kind = Kind {
    group: NETWORKING,
    kind: "WorkloadEntry",
    plural: "workloadentries",
    singular: "workloadentry",
    short_names: &["we"],
    categories: NETWORKING_CATEGORIES,
    scope: Scope::Namespaced,
    versions: NETWORKING_VERSIONS,
    spec: &ENTRY,
    spec_required: true,
    status: Some(&STATUS),
    columns: &[AGE, column("Address", ".spec.address")],
    doc: "A workload that is no pod, such as a process on a host.",
    not_carried_out: None,
};

pub(crate) static WORKLOAD_GROUP: Kind = Kind {
    group: NETWORKING,
    kind: "WorkloadGroup",
    plural: "workloadgroups",
    singular: "workloadgroup",
    short_names: &["wg"],
    categories: NETWORKING_CATEGORIES,
    scope: Scope::Namespaced,
    versions: NETWORKING_VERSIONS,
    spec: &GROUP,
    spec_required: true,
    status: Some(&STATUS),
    columns: &[AGE],
    doc: "What WorkloadEntries of one kind have in common, and how their health is probed.",
    not_carried_out: Some("hosts are enrolled by their own agents, which need no group"),
};

/// A WorkloadEntry's spec, and an endpoint of a ServiceEntry.
pub(super) static ENTRY: Shape =
    Shape::new(FIELDS).rules(&[rule("has(self.address) || has(self.network)", "an address is needed"), NO_PORTS]);

/// The address of a group's entry is filled in when it registers.
static TEMPLATE: Shape = Shape::new(FIELDS).rules(&[NO_PORTS]);

const FIELDS: &[Field] = &[
    field("address", TEXT.most(256), "IP address, name, or socket (unix://).").rules(&[
        rule(
            "!self.startsWith('unix://') || self.startsWith('unix:///') || self.startsWith('unix://@')",
            "a socket's path begins with / or @",
        ),
        rule("!self.startsWith('unix://') || !self.endsWith('/')", "a socket is no directory"),
    ]),
    field("ports", map(&PORT).most(128), "Port for each port of the service, by its name.").rules(&[rule(
        "self.all(key, key.matches('^[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?$'))",
        "no port's name",
    )]),
    field("labels", map(&TEXT).most(256), "Labels of the workload."),
    field("network", TEXT.most(2048), "Network that the address is in."),
    field("locality", TEXT.most(2048), "region/zone/subzone."),
    field("weight", UINT32, "Its share, relative to other endpoints."),
    field("serviceAccount", TEXT.most(253), "Service account that the workload runs as, and gets certificates for."),
];

const NO_PORTS: Rule =
    rule("!has(self.address) || !self.address.startsWith('unix://') || !has(self.ports)", "a socket has no ports");

static GROUP: Shape = Shape::new(&[
    field("metadata", object(&METADATA), "Labels and annotations of the entries."),
    field("template", object(&TEMPLATE), "What the entries have in common.").required(),
    field("probe", object(&PROBE), "How the entries' health is found out."),
]);

static METADATA: Shape = Shape::new(&[
    field("labels", map(&TEXT).most(256), "Labels."),
    field("annotations", map(&TEXT).most(256), "Annotations."),
]);

static PROBE: Shape = Shape::new(&[
    field("initialDelaySeconds", SECONDS, "Seconds before the first probe."),
    field("timeoutSeconds", SECONDS, "Seconds that an answer may take."),
    field("periodSeconds", SECONDS, "Seconds between probes."),
    field("successThreshold", SECONDS, "Successes until it counts as healthy again."),
    field("failureThreshold", SECONDS, "Failures until it counts as ill."),
    field("httpGet", object(&HTTP_GET), "Healthy if a request is answered with 200 to 399."),
    field("tcpSocket", object(&TCP_SOCKET), "Healthy if a connection comes up."),
    field("exec", object(&EXEC), "Healthy if a command ends with 0."),
    field("grpc", object(&GRPC), "Healthy if gRPC's health service says so."),
])
.groups(&[Group::AtMostOne(&["httpGet", "tcpSocket", "exec", "grpc"])]);

const SECONDS: Type = integer(0, i32::MAX as i64);

static HTTP_GET: Shape = Shape::new(&[
    field("path", TEXT, "Path that is asked for."),
    field("port", PORT, "Port that is asked.").required(),
    field("host", TEXT, "Name that is asked for."),
    field("scheme", TEXT.like("^(HTTPS?)?$"), "HTTP or HTTPS."),
    field("httpHeaders", objects(&HEADER), "Headers of the request."),
]);

static HEADER: Shape = Shape::new(&[
    field("name", TEXT.like("^[-_A-Za-z0-9]+$"), "Name of the header."),
    field("value", TEXT, "Its value."),
]);

static TCP_SOCKET: Shape = Shape::new(&[
    field("host", TEXT, "Host that is connected to; the workload's own if left out."),
    field("port", PORT, "Port that is connected to.").required(),
]);

static EXEC: Shape = Shape::new(&[field("command", list(&WORD), "The command and its arguments.").required()]);

static WORD: Type = TEXT.least(1);

static GRPC: Shape =
    Shape::new(&[field("port", PORT, "Port that is asked."), field("service", TEXT, "Service that is asked about.")]);

//! What of a Telemetry waypoints do nothing with, or cannot.

use mesh_core::l7::expression;

use super::{tag, targets, tracing};
use crate::index::Built;
use crate::index::cluster::{Cluster, Name};
use crate::index::layer7::backends::object_key;
use crate::object::Kind;
use crate::object::telemetry::{TagOperation, TelemetrySpec};
use crate::source::{Code, Severity};

/// A field, and what is to be said of it.
type Said = (String, String);

impl Cluster {
    pub(in crate::index) fn check_telemetry(&self, name: &Name, built: &mut Built) {
        let Some(telemetry) = self.layer7.telemetries.get(name) else { return };
        let (object, spec) = (object_key(Kind::Telemetry, name), &telemetry.spec);
        let targets: Vec<_> = targets(spec).cloned().collect();
        self.check_targets(&targets, &object, built);
        let mut found: Vec<(Severity, Code, Said)> = Vec::new();
        let tracer = tracing(spec).and_then(|tracing| tracing.providers.first());
        if let Some(Err(why)) = tracer.map(|provider| self.tracer(&provider.name, built)) {
            let said = ("spec.tracing[0].providers[0].name".to_owned(), format!("{why}; nothing is traced"));
            found.push((Severity::Warning, Code::Unresolved, said));
        }
        found.extend(unused(spec).into_iter().map(|said| (Severity::Info, Code::NoEffect, said)));
        found.extend(no_expressions(spec).into_iter().map(|said| (Severity::Warning, Code::NoEffect, said)));
        for (severity, code, (field, message)) in found {
            built.finding(severity, code, object.clone(), Some(field), message);
        }
    }
}

fn unused(spec: &TelemetrySpec) -> Vec<Said> {
    let mut unused: Vec<Said> = Vec::new();
    let mut say = |field: String, why: &str| unused.push((field, why.to_owned()));
    if spec.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty()) {
        say("spec.selector".to_owned(), "waypoints are told by targetRefs; agents read no Telemetry");
    }
    for (i, tracing) in spec.tracing.iter().enumerate() {
        if i > 0 {
            say(format!("spec.tracing[{i}]"), "only the first of them is carried out");
        }
        for (j, _) in tracing.providers.iter().enumerate().skip(1) {
            say(format!("spec.tracing[{i}].providers[{j}]"), "only the first of them is told");
        }
        for (name, _) in tracing.custom_tags.iter().filter(|(_, custom)| tag(custom).is_none()) {
            say(format!("spec.tracing[{i}].customTags.{name}"), "a tag of this form is left out");
        }
    }
    // There is one log and one set of metrics, by the names that are built in.
    let logs = spec.access_logging.iter().map(|logging| (&logging.providers, "envoy")).enumerate();
    let metrics = spec.metrics.iter().map(|metrics| (&metrics.providers, "prometheus")).enumerate();
    let all = logs.map(|log| ("accessLogging", log)).chain(metrics.map(|metrics| ("metrics", metrics)));
    for (field, (i, (providers, own))) in all {
        for (j, _) in providers.iter().enumerate().filter(|(_, provider)| &*provider.name != own) {
            say(format!("spec.{field}[{i}].providers[{j}]"), "is not told; what stands beside it holds all the same");
        }
    }
    unused
}

fn no_expressions(spec: &TelemetrySpec) -> Vec<Said> {
    let mut found = Vec::new();
    let mut look = |field: String, source: &str, otherwise: &str| {
        if let Err(why) = expression::parse(source) {
            // A parser may take many lines for it.
            let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
            found.push((field, format!("is not taken, and {otherwise}: {why}")));
        }
    };
    for (i, logging) in spec.access_logging.iter().enumerate() {
        if let Some(filter) = logging.filter.as_ref().filter(|filter| !filter.expression.is_empty()) {
            look(format!("spec.accessLogging[{i}].filter.expression"), &filter.expression, "all is logged");
        }
    }
    for (i, metrics) in spec.metrics.iter().enumerate() {
        for (j, change) in metrics.overrides.iter().enumerate() {
            for (label, tag) in change.tag_overrides.iter().filter(|(_, tag)| tag.operation == TagOperation::Upsert) {
                let field = format!("spec.metrics[{i}].overrides[{j}].tagOverrides.{label}.value");
                look(field, &tag.value, "the label stays what it was");
            }
        }
    }
    found
}

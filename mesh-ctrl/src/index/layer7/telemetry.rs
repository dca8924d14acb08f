//! Telemetry at a waypoint. What is nearer says more: the mesh's, the waypoint's namespace's, the service's, then what is attached
//! to the waypoint, then to the service.

mod check;

use std::sync::Arc;

use mesh_core::l7::route::Share;
use mesh_core::l7::telemetry::{Tag, Telemetry as Model};

use super::Whole;
use crate::index::Built;
use crate::index::cluster::{Cluster, Topic};
use crate::object::Telemetry;
use crate::object::reference::{Referent, TargetRef};
use crate::object::telemetry::{CustomTag, Metrics, Mode, Override, TagOperation, TelemetrySpec, Tracing};

impl Cluster {
    pub(super) fn telemetry_at(&self, whole: &Whole<'_>, built: &mut Built) -> Model {
        let mut layers: Vec<(usize, &Telemetry)> = Vec::new();
        for (nearness, namespace) in whole.namespaces(&self.config.root_namespace).into_iter().enumerate() {
            let telemetries = self.layer7.telemetries_in.get(&namespace).into_iter().flatten();
            let telemetries = telemetries.filter_map(|(_, name)| self.layer7.telemetries.get(name));
            // Of those for a whole namespace the oldest holds.
            let mut has_whole = false;
            for telemetry in telemetries {
                let targets: Vec<_> = targets(&telemetry.spec).collect();
                if targets.is_empty() {
                    let selects = telemetry.spec.selector.as_ref().is_some_and(|s| !s.match_labels.is_empty());
                    if !selects && !has_whole {
                        has_whole = true;
                        layers.push((nearness, telemetry));
                    }
                    continue;
                }
                let here = targets.into_iter().filter(|target| self.is_target(whole, target, &namespace));
                let nearest = here.map(|target| match target.referent() {
                    Some(Referent::Service | Referent::ServiceEntry) => 20,
                    Some(Referent::Gateway) => 11,
                    _ => 10,
                });
                layers.extend(nearest.max().map(|nearness| (nearness, telemetry)));
            }
            built.read(Topic::Policies(namespace));
        }
        // Of what is equally near the oldest comes last, and holds.
        layers.reverse();
        layers.sort_by_key(|(nearness, _)| *nearness);
        built.read(Topic::MeshConfig);
        let config = self.mesh_config.as_ref();
        let mut model = Model::default();
        model.tracing.sampling = config.and_then(|config| config.sampling).map(Share::percent);
        let mut tracer = config.and_then(|config| config.default_tracers.first());
        for (_, telemetry) in layers {
            add(&mut model, &telemetry.spec);
            tracer = tracing(&telemetry.spec).and_then(|tracing| Some(&tracing.providers.first()?.name)).or(tracer);
        }
        match tracer.map(|name| self.tracer(name, built)) {
            Some(Ok(provider)) => model.tracing.provider = Some(Arc::new(provider)),
            // As in the reference: spans do not go to anybody else.
            Some(Err(_)) => model.tracing.disabled = true,
            None => {}
        }
        model
    }
}

fn targets(spec: &TelemetrySpec) -> impl Iterator<Item = &TargetRef> {
    spec.target_ref.iter().chain(&spec.target_refs)
}

/// What is said of traces, which a waypoint makes as the destination does.
fn tracing(spec: &TelemetrySpec) -> Option<&Tracing> {
    spec.tracing.first().filter(|tracing| tracing.ends.mode != Mode::Client)
}

/// A waypoint tells of traffic as its destination does.
fn add(model: &mut Model, spec: &TelemetrySpec) {
    for logging in spec.access_logging.iter().filter(|logging| logging.ends.mode != Mode::Client) {
        model.access_log.enabled = logging.disabled != Some(true);
        if let Some(filter) = &logging.filter {
            model.access_log.filter = Some(filter.expression.clone()).filter(|expression| !expression.is_empty());
        }
    }
    for change in spec.metrics.iter().flat_map(|metrics: &Metrics| &metrics.overrides) {
        if change.selected.mode != Mode::Client {
            add_override(model, change);
        }
    }
    if let Some(tracing) = tracing(spec) {
        if let Some(percentage) = tracing.random_sampling_percentage {
            model.tracing.sampling = Some(Share::percent(percentage));
        }
        if let Some(disabled) = tracing.disable_span_reporting {
            model.tracing.disabled = disabled;
        }
        let tags = tracing.custom_tags.iter().filter_map(|(name, custom)| Some((name.clone(), tag(custom)?)));
        let tags: std::collections::BTreeMap<_, _> = tags.collect();
        // As in the reference, tags are not put together.
        if !tracing.custom_tags.is_empty() {
            model.tracing.tags = tags;
        }
    }
}

fn add_override(model: &mut Model, from: &Override) {
    let name = match (&from.selected.metric, &from.selected.custom_metric) {
        (Some(metric), _) => known(metric),
        (None, Some(custom)) => custom.strip_prefix("istio_").unwrap_or(custom),
        (None, None) => ALL,
    };
    let overrides = &mut model.metrics.overrides;
    overrides.entry(name.into()).or_default();
    // What is said of all metrics later goes before what was said of one.
    let said = overrides.iter_mut().filter(|(own, _)| name == ALL || &***own == name);
    for (_, change) in said {
        change.disabled = from.disabled.or(change.disabled);
        for (label, tag) in &from.tag_overrides {
            let value = (tag.operation == TagOperation::Upsert).then(|| tag.value.clone());
            change.labels.insert(label.clone(), value);
        }
    }
}

const ALL: &str = "ALL_METRICS";

/// Names of the reference's metrics, without `istio_`.
fn known(metric: &str) -> &str {
    match metric {
        "REQUEST_COUNT" => "requests_total",
        "REQUEST_DURATION" => "request_duration_milliseconds",
        "REQUEST_SIZE" => "request_bytes",
        "RESPONSE_SIZE" => "response_bytes",
        "TCP_OPENED_CONNECTIONS" => "tcp_connections_opened_total",
        "TCP_CLOSED_CONNECTIONS" => "tcp_connections_closed_total",
        "TCP_SENT_BYTES" => "tcp_sent_bytes_total",
        "TCP_RECEIVED_BYTES" => "tcp_received_bytes_total",
        "GRPC_REQUEST_MESSAGES" => "request_messages_total",
        "GRPC_RESPONSE_MESSAGES" => "response_messages_total",
        other => other,
    }
}

fn tag(from: &CustomTag) -> Option<Tag> {
    let named = |named: &crate::object::telemetry::Named| (named.name.clone(), named.default_value.clone());
    if let Some(literal) = &from.literal {
        return Some(Tag::Literal(literal.value.clone()));
    }
    if let Some((name, default)) = from.environment.as_ref().map(named) {
        return Some(Tag::Environment { name, default });
    }
    let (name, default) = from.header.as_ref().map(named)?;
    Some(Tag::Header { name: name.to_lowercase().into(), default })
}

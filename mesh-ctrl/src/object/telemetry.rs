//! Telemetry, as it is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::Metadata;
use super::reference::TargetRef;
use super::security::Selector;

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Telemetry {
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: TelemetrySpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TelemetrySpec {
    pub selector: Option<Selector>,
    pub target_ref: Option<TargetRef>,
    pub target_refs: Vec<TargetRef>,
    pub tracing: Vec<Tracing>,
    pub metrics: Vec<Metrics>,
    pub access_logging: Vec<AccessLogging>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Ends {
    pub mode: Mode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Mode {
    #[default]
    ClientAndServer,
    Client,
    Server,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tracing {
    #[serde(rename = "match")]
    pub ends: Ends,
    pub providers: Vec<ProviderRef>,
    pub random_sampling_percentage: Option<f64>,
    pub disable_span_reporting: Option<bool>,
    pub custom_tags: BTreeMap<Arc<str>, CustomTag>,
}

/// A provider of the mesh's configuration, or one that is built in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ProviderRef {
    pub name: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CustomTag {
    pub literal: Option<Value>,
    pub environment: Option<Named>,
    pub header: Option<Named>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Value {
    pub value: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Named {
    pub name: Arc<str>,
    #[serde(default)]
    pub default_value: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Metrics {
    pub providers: Vec<ProviderRef>,
    pub overrides: Vec<Override>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Override {
    #[serde(rename = "match")]
    pub selected: Metric,
    pub disabled: Option<bool>,
    pub tag_overrides: BTreeMap<Arc<str>, TagOverride>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metric {
    pub metric: Option<String>,
    pub custom_metric: Option<String>,
    pub mode: Mode,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TagOverride {
    pub operation: TagOperation,
    pub value: Arc<str>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TagOperation {
    #[default]
    Upsert,
    Remove,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AccessLogging {
    #[serde(rename = "match")]
    pub ends: Ends,
    pub providers: Vec<ProviderRef>,
    pub disabled: Option<bool>,
    pub filter: Option<Filter>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Filter {
    pub expression: Arc<str>,
}

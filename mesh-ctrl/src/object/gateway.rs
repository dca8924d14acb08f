//! Gateway of the Gateway API, as far as it makes a waypoint. Istio's kind of the same name is another, and not read.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Labels, Metadata};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Gateway {
    pub metadata: Metadata,
    pub spec: GatewaySpec,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    pub gateway_class_name: Arc<str>,
    #[serde(default)]
    pub listeners: Vec<Listener>,
    #[serde(default)]
    pub infrastructure: Infrastructure,
    /// Addresses that are asked for: a waypoint has the one that its Service gets.
    #[serde(default)]
    pub addresses: Vec<IgnoredAny>,
}

/// What goes onto the objects that carry the Gateway out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Infrastructure {
    pub labels: Labels,
    pub annotations: Labels,
    pub parameters_ref: Option<IgnoredAny>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    #[serde(default)]
    pub name: Arc<str>,
    /// 0: it does not say.
    #[serde(default)]
    pub port: u16,
    #[serde(default)]
    pub protocol: Arc<str>,
    #[serde(default)]
    pub allowed_routes: AllowedRoutes,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AllowedRoutes {
    pub namespaces: AllowedNamespaces,
}

/// Whose services may use the waypoint.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AllowedNamespaces {
    pub from: From_,
    pub selector: LabelSelector,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum From_ {
    All,
    Selector,
    #[default]
    Same,
}

/// Kubernetes' LabelSelector.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    pub match_labels: Labels,
    pub match_expressions: Vec<Expression>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Expression {
    pub key: Arc<str>,
    pub operator: Arc<str>,
    #[serde(default)]
    pub values: Vec<Arc<str>>,
}

impl LabelSelector {
    pub fn holds(&self, labels: &Labels) -> bool {
        let expression = |expression: &Expression| {
            let value = labels.get(&expression.key);
            let listed = value.is_some_and(|value| expression.values.contains(value));
            match &*expression.operator {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                // What nobody knows selects nothing.
                _ => false,
            }
        };
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(expression)
    }
}

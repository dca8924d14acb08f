//! MeshConfig, where Istio's users have it: YAML at key `mesh` of ConfigMap `istio` in the root namespace.
//!
//! Of its many fields these are read; the rest is listed as unused. A provider that is asked for authorization is read strictly:
//! a misspelt `failOpen` is no detail.

pub mod provider;
mod tracer;

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::l7::PathNormalization;
use serde::Deserialize;
use serde_json::Value;

use super::Metadata;
use super::security::Mistake;
use provider::{Provider, RawProvider};

/// Name of the ConfigMap.
pub const NAME: &str = "istio";
/// Its key.
pub const KEY: &str = "mesh";

#[derive(Clone, Debug, PartialEq)]
pub struct MeshConfig {
    pub metadata: Metadata,
    /// By name.
    pub providers: BTreeMap<Arc<str>, Provider>,
    pub path_normalization: PathNormalization,
    pub trust_domain: Option<Arc<str>>,
    pub trust_domain_aliases: Vec<Arc<str>>,
    /// `defaultConfig.tracing.sampling`, in percent.
    pub sampling: Option<f64>,
    /// Providers that trace where no Telemetry says otherwise: `defaultProviders.tracing`.
    pub default_tracers: Vec<Arc<str>>,
    /// Fields that are carried out nowhere, and why.
    pub unused: Vec<(String, String)>,
}

#[derive(Deserialize)]
pub(super) struct RawConfigMap {
    pub(super) metadata: Metadata,
    #[serde(default)]
    pub(super) data: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawMeshConfig {
    extension_providers: Vec<RawProvider>,
    path_normalization: Normalization,
    trust_domain: Option<Arc<str>>,
    trust_domain_aliases: Vec<Arc<str>>,
    default_config: ProxyConfig,
    default_providers: DefaultProviders,
    access_log_file: Option<Arc<str>>,
    outbound_traffic_policy: OutboundTrafficPolicy,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Normalization {
    normalization: NormalizationType,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum NormalizationType {
    #[default]
    Default,
    None,
    Base,
    MergeSlashes,
    DecodeAndMergeSlashes,
}

/// What a proxy is started with, of which one thing is about requests.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ProxyConfig {
    tracing: Tracing,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tracing {
    sampling: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DefaultProviders {
    tracing: Vec<Arc<str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OutboundTrafficPolicy {
    mode: Option<Arc<str>>,
}

impl RawMeshConfig {
    /// # Errors
    /// A provider that cannot be asked as it is written; the field within the configuration.
    pub(super) fn read(self, metadata: Metadata) -> Result<MeshConfig, Mistake> {
        let mut unused: Vec<(String, String)> = Vec::new();
        let mut providers = BTreeMap::new();
        for (i, raw) in self.extension_providers.into_iter().enumerate() {
            let at = format!("extensionProviders[{i}]");
            let name = raw.name.clone();
            let provider = raw.read(&at, &mut unused)?;
            if providers.insert(name.clone(), provider).is_some() {
                return Err(Mistake { field: format!("{at}.name"), message: format!("{name:?} is there twice") });
            }
        }
        if let Some(file) = self.access_log_file.filter(|file| !["", "/dev/stdout"].contains(&&**file)) {
            unused.push(("accessLogFile".to_owned(), format!("the access log goes to standard output, not to {file}")));
        }
        if let Some(mode) = self.outbound_traffic_policy.mode.filter(|mode| **mode != *"ALLOW_ANY") {
            let why = format!("{mode} is not carried out: what is not in the mesh is reached as without it");
            unused.push(("outboundTrafficPolicy.mode".to_owned(), why));
        }
        unused.extend(self.rest.keys().map(|field| (field.clone(), "is carried out nowhere".to_owned())));
        Ok(MeshConfig {
            metadata,
            providers,
            path_normalization: match self.path_normalization.normalization {
                NormalizationType::None => PathNormalization::None,
                NormalizationType::Default | NormalizationType::Base => PathNormalization::Base,
                NormalizationType::MergeSlashes => PathNormalization::MergeSlashes,
                NormalizationType::DecodeAndMergeSlashes => PathNormalization::DecodeAndMergeSlashes,
            },
            trust_domain: self.trust_domain.filter(|domain| !domain.is_empty()),
            trust_domain_aliases: self.trust_domain_aliases,
            sampling: self.default_config.tracing.sampling,
            default_tracers: self.default_providers.tracing,
            unused,
        })
    }
}

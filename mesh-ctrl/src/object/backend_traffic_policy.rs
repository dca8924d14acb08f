//! Envoy Gateway's BackendTrafficPolicy, of which waypoints carry out the local rate limits.
//!
//! What stands in `rateLimit.local` and is not known is refused: without a condition a limit would be for more requests than its
//! author meant. Whatever else the kind has is listed as unused.

mod selector;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::l7::ratelimit::{Headers, RateLimit};
use serde::Deserialize;
use serde_json::Value;

use super::Metadata;
use super::reference::TargetRef;
use super::security::Mistake;
use selector::{Selected, Selector};

#[derive(Clone, Debug, PartialEq)]
pub struct BackendTrafficPolicy {
    pub metadata: Metadata,
    pub targets: Vec<Target>,
    pub limits: Vec<RateLimit>,
    /// Fields that are carried out nowhere, and why.
    pub unused: Vec<(String, &'static str)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    #[serde(flatten)]
    pub whole: TargetRef,
    /// A listener, a rule, a port.
    #[serde(default)]
    pub section_name: Option<Arc<str>>,
}

#[derive(Deserialize)]
pub(super) struct RawBackendTrafficPolicy {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    target_ref: Option<Target>,
    target_refs: Vec<Target>,
    rate_limit: Option<RateLimits>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateLimits {
    /// Deprecated: which of the two is there says the same.
    #[serde(default, rename = "type")]
    _kind: Option<Value>,
    #[serde(default)]
    global: Option<Value>,
    #[serde(default)]
    local: Local,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Local {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    client_selectors: Vec<Selector>,
    limit: Limit,
    #[serde(default)]
    cost: Option<Value>,
    #[serde(default)]
    shared: bool,
    #[serde(default)]
    shadow_mode: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    requests: u32,
    unit: Unit,
}

/// A month has 30 days and a year 365, as there.
#[derive(Clone, Copy, Deserialize)]
enum Unit {
    Second,
    Minute,
    Hour,
    Day,
    Month,
    Year,
}

impl Unit {
    fn duration(self) -> Duration {
        const DAY: u64 = 86_400;
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => DAY,
            Self::Month => 30 * DAY,
            Self::Year => 365 * DAY,
        })
    }
}

/// Most buckets of a limit at one waypoint, about 200 bytes each.
const MAX_KEYS: u32 = 10_000;

/// On the policy: what answers say of the limit.
const HEADERS: &str = "weft.io/ratelimit-headers";

impl TryFrom<RawBackendTrafficPolicy> for BackendTrafficPolicy {
    type Error = Mistake;

    fn try_from(raw: RawBackendTrafficPolicy) -> Result<Self, Mistake> {
        let RawBackendTrafficPolicy { metadata, spec } = raw;
        let mut unused: Vec<_> = spec
            .rest
            .keys()
            .map(|field| (format!("spec.{field}"), "waypoints carry out rateLimit.local alone"))
            .collect();
        let headers = headers(&metadata)?;
        let mut limits = Vec::new();
        if let Some(limited) = spec.rate_limit {
            if limited.global.is_some() {
                unused.push(("spec.rateLimit.global".to_owned(), "each waypoint counts for itself"));
            }
            let name: Arc<str> = format!("{}/{}", metadata.namespace, metadata.name).into();
            for (i, rule) in limited.local.rules.into_iter().enumerate() {
                let at = format!("spec.rateLimit.local.rules[{i}]");
                if rule.cost.is_some() {
                    unused.push((format!("{at}.cost"), "each request counts as one"));
                }
                if rule.shared {
                    unused.push((format!("{at}.shared"), "each service has buckets of its own"));
                }
                let Selected { rules, by } = selector::read(&rule.client_selectors, &format!("{at}.clientSelectors"))?;
                limits.push(RateLimit {
                    name: name.clone(),
                    dry_run: rule.shadow_mode,
                    rules,
                    by,
                    requests: rule.limit.requests,
                    per: rule.limit.unit.duration(),
                    burst: None,
                    max_keys: MAX_KEYS,
                    headers,
                });
            }
        }
        Ok(Self { metadata, targets: spec.target_ref.into_iter().chain(spec.target_refs).collect(), limits, unused })
    }
}

fn headers(metadata: &Metadata) -> Result<Headers, Mistake> {
    match metadata.annotation(HEADERS) {
        None | Some("x-ratelimit") => Ok(Headers::Reference),
        Some("ratelimit") => Ok(Headers::Standard),
        Some("none") => Ok(Headers::None),
        Some(other) => Err(Mistake {
            field: format!("metadata.annotations.{HEADERS}"),
            message: format!("{other:?} is none of x-ratelimit, ratelimit, none"),
        }),
    }
}

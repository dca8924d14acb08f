//! `localityLbSetting`: which endpoints a client prefers by where they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::traffic::{Distribution, LocalityPolicy, Place};
use mesh_core::workload::Scope;
use serde::Deserialize;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct RawLocality {
    distribute: Vec<RawDistribution>,
    failover: Vec<RawFailover>,
    failover_priority: Vec<String>,
    enabled: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDistribution {
    from: Arc<str>,
    to: BTreeMap<Arc<str>, u32>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFailover {
    from: Arc<str>,
    to: Arc<str>,
}

/// Without outlier detection nobody knows that a place fails, so nothing fails over, as in the reference.
pub(super) fn locality(
    path: &str,
    raw: Option<RawLocality>,
    has_outliers: bool,
    unused: &mut Vec<(String, &'static str)>,
) -> Option<LocalityPolicy> {
    let default = || LocalityPolicy::Failover {
        scopes: vec![Scope::Region, Scope::Zone, Scope::Subzone],
        regions: BTreeMap::new(),
    };
    let Some(raw) = raw else { return has_outliers.then(default) };
    if raw.enabled == Some(false) {
        return None;
    }
    if !raw.distribute.is_empty() {
        let to = |to: BTreeMap<Arc<str>, u32>| to.into_iter().map(|(place, share)| (Place(place), share)).collect();
        let rules = raw.distribute.into_iter().map(|rule| Distribution { from: Place(rule.from), to: to(rule.to) });
        return Some(LocalityPolicy::Distribute(rules.collect()));
    }
    if !has_outliers {
        unused.push((path.to_owned(), "failover needs outlierDetection"));
        return None;
    }
    let regions = raw.failover.into_iter().map(|failover| (failover.from, failover.to)).collect();
    if raw.failover_priority.is_empty() {
        return Some(LocalityPolicy::Failover { scopes: vec![Scope::Region, Scope::Zone, Scope::Subzone], regions });
    }
    let mut scopes = Vec::new();
    for (i, label) in raw.failover_priority.iter().enumerate() {
        match scope(label) {
            Some(scope) => scopes.push(scope),
            None => {
                let why = "agents know topology labels only; this one and those after it are left out";
                unused.push((format!("{path}.failoverPriority[{i}]"), why));
                break;
            }
        }
    }
    Some(LocalityPolicy::Failover { scopes, regions })
}

fn scope(label: &str) -> Option<Scope> {
    Some(match label {
        "topology.kubernetes.io/region" | "failure-domain.beta.kubernetes.io/region" => Scope::Region,
        "topology.kubernetes.io/zone" | "failure-domain.beta.kubernetes.io/zone" => Scope::Zone,
        "topology.istio.io/subzone" => Scope::Subzone,
        "kubernetes.io/hostname" => Scope::Node,
        "topology.istio.io/cluster" => Scope::Cluster,
        "topology.istio.io/network" => Scope::Network,
        _ => return None,
    })
}

//! Which policies a workload is under, and what they say at L4.

mod authorization;
mod peers;

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_core::workload::{PlaintextPorts, PolicyKey};

use super::cluster::{Cluster, EVERYWHERE};
use super::labels::matches;
use crate::object::Labels;

pub(super) use peers::strict;

/// The policies that select a workload by its labels, sorted, and the ports on which it asked for plaintext.
pub(super) fn of_workload(
    cluster: &Cluster,
    namespace: &Arc<str>,
    labels: &Labels,
) -> (Vec<PolicyKey>, PlaintextPorts) {
    let mut keys = BTreeSet::new();
    // In the root namespace a selector picks everywhere, so its policies stand in the one scope and never in the other.
    for scope in [namespace.clone(), EVERYWHERE.into()] {
        for name in cluster.authorization_selectors.candidates(&scope, labels) {
            if cluster.authorizations.get(name).is_some_and(|policy| matches(&policy.selector, labels)) {
                keys.insert(PolicyKey { namespace: name.namespace.clone(), name: name.name.clone() });
            }
        }
    }
    let mtls = cluster.mtls(namespace, labels);
    keys.extend(mtls.policy);
    (keys.into_iter().collect(), mtls.plaintext)
}

//! `istio.workload.LoadBalancing.Scope` <-> [`Scope`].

use super::workload::load_balancing::Scope as Wire;
use crate::workload::Scope;

/// `None`: a number that this version does not know, or none.
pub(super) fn read(number: i32) -> Option<Scope> {
    Some(match Wire::try_from(number).ok()? {
        Wire::UnspecifiedScope => return None,
        Wire::Region => Scope::Region,
        Wire::Zone => Scope::Zone,
        Wire::Subzone => Scope::Subzone,
        Wire::Node => Scope::Node,
        Wire::Cluster => Scope::Cluster,
        Wire::Network => Scope::Network,
    })
}

pub(super) fn write(scope: Scope) -> i32 {
    let wire = match scope {
        Scope::Region => Wire::Region,
        Scope::Zone => Wire::Zone,
        Scope::Subzone => Wire::Subzone,
        Scope::Node => Wire::Node,
        Scope::Cluster => Wire::Cluster,
        Scope::Network => Wire::Network,
    };
    wire as i32
}

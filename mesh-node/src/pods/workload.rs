//! Who a pod is to the control plane.

use std::sync::Arc;

use mesh_core::identity::SpiffeId;
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::{Tunnel, Uid, Workload};

use super::command::{Description, Manager};

/// The workload that a pod, or a host of that name, is on the control stream.
pub(super) fn workload_of<'a>(snapshot: &'a Snapshot, cluster: &str, d: &Description) -> Option<&'a Arc<Workload>> {
    let host = || Uid(format!("{cluster}/networking.istio.io/WorkloadEntry/{}/{}", d.namespace, d.name).into());
    let found = snapshot.workload(&Uid::pod(cluster, &d.namespace, &d.name)).or_else(|| snapshot.workload(&host()));
    // A kubelet's pods are known by the uid: one of the same name may be the one before it.
    found.filter(|workload| d.manager != Manager::Kubelet || workload.pod_uid == d.uid)
}

/// Whether the control plane wants it in the mesh, if it knows it.
pub(super) fn wanted(snapshot: &Snapshot, cluster: &str, d: &Description) -> Option<bool> {
    workload_of(snapshot, cluster, d).map(|w| is_captured(w))
}

/// Whether a workload's connections are to be captured: it is in the mesh, and no waypoint, which has a tunnel of its own.
pub(crate) fn is_captured(workload: &Workload) -> bool {
    workload.tunnel == Tunnel::Hbone && !workload.native_tunnel
}

/// Whose certificates it gets; `None` until the control plane says so.
pub(super) fn identity_of(
    d: &Description,
    workload: Option<&Workload>,
    trust_domain: &str,
) -> Result<Option<SpiffeId>, String> {
    match (&d.service_account, workload) {
        (Some(account), _) => SpiffeId::new(trust_domain, &d.namespace, account).map(Some).map_err(|e| e.to_string()),
        (None, Some(workload)) => Ok(Some(workload.identity.clone())),
        (None, None) => Ok(None),
    }
}

//! The way in: a certificate, listeners in the pod's namespace, the hooks; then whoever carries its connections is told.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::SpiffeId;
use mesh_core::workload::Uid;
use mesh_net::certificates::Lease;
use tokio::time::Instant;
use tracing::{info, warn};

use super::command::{Description, SUPERSEDED, Standing};
use super::stage::{Stage, answer};
use super::workload::{identity_of, is_captured, workload_of};
use super::{Pods, TICK};
use crate::ebpf::{self, ListenerKind};
use crate::pod::{Enrolment, Pod};
use crate::socket::pacing::Pacing;
use crate::socket::{self, Keepalive};
use crate::worker::Listeners;

/// Backlog of a pod's listeners: what somaxconn allows by default since kernel 5.4.
const BACKLOG: i32 = 4096;
/// Until something tells of a change there is little use in trying again.
const LONG: Duration = Duration::from_secs(2);

impl Pods {
    /// Takes a waiting pod as far as it goes.
    pub(super) fn advance(&mut self, uid: &Arc<str>) {
        let Some(known) = self.known.get_mut(uid) else { return };
        let Stage::Waiting { lease, failures, .. } = &mut known.stage else { return };
        let mut lease = lease.take();
        let mut failures = *failures;
        let description = known.description.clone();
        let wait = |why: String, lease: Option<Lease>, failures: u32, pause: Duration| Stage::Waiting {
            lease,
            why,
            retry_at: Instant::now() + pause,
            failures,
        };
        let snapshot = self.snapshot.borrow().clone();
        let workload = snapshot.as_ref().and_then(|s| workload_of(s, &self.config.cluster_id, &description).cloned());
        if description.manager.heeds_labels() {
            match &workload {
                None => {
                    known.stage = wait("the control plane to tell of the workload".to_owned(), None, 0, LONG);
                    return;
                }
                Some(w) if !is_captured(w) => {
                    known.stage = Stage::Outside;
                    answer(&mut known.waiters, Ok(Standing::Outside));
                    // An agent before this one may have left it enrolled.
                    let cookie = description.netns.cookie();
                    if self.kernel.enrolled().contains(&cookie) && !self.releasing.contains_key(&cookie.0) {
                        self.release_adopted(&description);
                    }
                    return;
                }
                Some(_) => {}
            }
        }
        let identity = match identity_of(&description, workload.as_deref(), &self.config.trust_domain) {
            Ok(Some(identity)) => identity,
            Ok(None) => {
                known.stage = wait("the control plane to tell of the workload".to_owned(), None, 0, LONG);
                return;
            }
            Err(error) => {
                answer(&mut known.waiters, Err(error.clone()));
                known.stage = wait(error, None, 0, LONG);
                return;
            }
        };
        if lease.as_ref().is_none_or(|l| *l.identity() != identity) {
            let _context = self.keepers.enter();
            lease = Some(self.certificates.lease(&identity));
        }
        let lease = lease.expect("set above");
        if lease.current().is_none() {
            let why = lease.status().last_error.unwrap_or_else(|| "no answer yet".to_owned());
            known.stage = wait(format!("a certificate for {identity}: {why}"), Some(lease), failures, LONG);
            return;
        }
        let uid_on_stream = workload
            .as_ref()
            .map(|w| w.uid.clone())
            .unwrap_or_else(|| Uid::pod(&self.config.cluster_id, &description.namespace, &description.name));
        match self.enrol(&description, uid_on_stream, identity, lease.clone()) {
            Ok(pod) => {
                info!(pod = %uid, identity = %pod.identity, addresses = ?pod.addresses, "pod enrolled");
                let known = self.known.get_mut(uid).expect("looked up above");
                known.stage = Stage::Enrolled(pod);
                answer(&mut known.waiters, Ok(Standing::Enrolled));
            }
            Err(error) => {
                failures += 1;
                if !self.superseded {
                    warn!(pod = %uid, error, failures, "pod not enrolled");
                }
                let known = self.known.get_mut(uid).expect("looked up above");
                answer(&mut known.waiters, Err(error.clone()));
                let pause = (TICK * 2u32.saturating_pow(failures.min(10))).min(Duration::from_secs(15));
                known.stage = wait(error, Some(lease), failures, pause);
            }
        }
    }

    fn enrol(
        &mut self,
        description: &Description,
        workload: Uid,
        identity: SpiffeId,
        certificate: Lease,
    ) -> Result<Arc<Pod>, String> {
        let netns = &description.netns;
        let addresses = netns.addresses().map_err(|e| format!("read the pod's addresses: {e}"))?;
        if addresses.is_empty() {
            return Err("the pod has no address yet".to_owned());
        }
        let count = self.told.workers.len();
        let listen = |what, keepalive| {
            socket::listen(netns, count, BACKLOG, keepalive).map_err(|e| format!("listen for {what}: {e}"))
        };
        let outbound = listen("outbound", None)?;
        let plaintext = listen("plaintext", Some(Keepalive::default()))?;
        let hbone = listen("tunnels", Some(Keepalive::TUNNEL))?;
        let cost = self.connections.costs().enter(&description.namespace, &description.name, netns.cookie());
        let pod = Arc::new(Pod::new(Enrolment {
            uid: description.uid.clone(),
            namespace: description.namespace.clone(),
            name: description.name.clone(),
            workload,
            identity,
            netns: netns.clone(),
            addresses: addresses.clone(),
            certificate,
            cost,
            pacing: Pacing::of(&hbone, self.config.pace_from),
        }));
        self.number += 1;
        let kinds =
            [(ListenerKind::Outbound, &outbound), (ListenerKind::Plaintext, &plaintext), (ListenerKind::Hbone, &hbone)];
        let listeners: Vec<_> =
            kinds.into_iter().flat_map(|(kind, group)| group.iter().map(move |one| (kind, one.as_fd()))).collect();
        let enrolled =
            self.kernel.enrol(&ebpf::Pod { netns, addresses: &addresses, id: self.number, listeners: &listeners });
        if let Err(error) = enrolled {
            let error = self.failed(&error);
            return Err(error.map_or(SUPERSEDED.to_owned(), |error| format!("enrol in the kernel: {error}")));
        }
        self.releasing.remove(&pod.cookie.0);
        let sets = outbound.into_iter().zip(plaintext).zip(hbone);
        for (worker, ((outbound, plaintext), hbone)) in self.told.workers.iter().zip(sets) {
            worker.serve(pod.clone(), Listeners { outbound, plaintext, hbone });
        }
        self.told.outside.enrolled(pod.clone());
        self.told.direct.enrolled(pod.clone());
        Ok(pod)
    }
}

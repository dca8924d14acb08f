//! The way out, in two halves; and pods that nobody knows any more.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::Pods;
use super::command::{Description, Manager, SUPERSEDED};
use super::stage::Releasing;
use crate::capture::LINGER;
use crate::connection::End;
use crate::netns::NetnsCookie;
use crate::pod::Pod;

/// How often the kernel is asked whether connections of a pod that leaves go on through another agent.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Pods {
    /// First half of the way out: no new connections come to the agent.
    pub(super) fn release(&mut self, pod: Arc<Pod>) -> Result<(), String> {
        let released = match self.kernel.release(pod.cookie) {
            Ok(()) => Ok(()),
            // The pod stays as it is, in the other agent's hands.
            Err(error) => match self.failed(&error) {
                None => return Err(SUPERSEDED.to_owned()),
                Some(error) => Err(error),
            },
        };
        pod.withdraw();
        self.told.direct.released(pod.cookie);
        let now = Instant::now();
        // Twice, so that what was accepted in the last moment is held by then.
        let not_before = now + 2 * LINGER;
        let deadline = not_before.max(now + self.config.release_deadline);
        let releasing = Releasing {
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            netns: pod.netns.clone(),
            pod: Some(pod.clone()),
            not_before,
            deadline,
        };
        self.releasing.insert(pod.cookie.0, releasing);
        self.finish_releases(Instant::now());
        released
    }

    /// As [`release`](Self::release), of a pod that an agent before this one enrolled. That may still carry connections of it.
    pub(super) fn release_adopted(&mut self, description: &Description) {
        let cookie = description.netns.cookie();
        if let Err(error) = self.kernel.release(cookie)
            && let Some(error) = self.failed(&error)
        {
            warn!(pod = %description.uid, error, "release a pod of the agent before this one");
        }
        let now = Instant::now();
        let releasing = Releasing {
            uid: description.uid.clone(),
            namespace: description.namespace.clone(),
            name: description.name.clone(),
            netns: description.netns.clone(),
            pod: None,
            not_before: now,
            deadline: now + self.config.release_deadline,
        };
        self.releasing.insert(cookie.0, releasing);
        self.finish_releases(now);
    }

    /// Second half: once a pod's connections have ended, or may last no longer, nothing is left behind in its namespace.
    pub(super) fn finish_releases(&mut self, now: Instant) {
        let mut done = Vec::new();
        for (cookie, releasing) in &mut self.releasing {
            let cookie = NetnsCookie(*cookie);
            let mut idle = releasing.not_before <= now && self.connections.held_of(cookie) == 0;
            // Of two agents that overlap, the one that is going carries on what it has. Only the kernel knows of it; without
            // sock_diag nobody does.
            if idle && self.kernel.relayed(&releasing.netns).is_ok_and(|relayed| relayed > 0) {
                releasing.not_before = now + LOOK_AGAIN;
                idle = false;
            }
            if idle || releasing.deadline <= now {
                done.push(cookie);
            }
        }
        for cookie in done {
            let Some(Releasing { uid, .. }) = self.releasing.remove(&cookie.0) else { continue };
            self.connections.end_where(|live| {
                (live.facts.pod == Some(cookie))
                    .then(|| End::because("withdrawn", "the pod left the mesh and its deadline has passed"))
            });
            if self.withdraw(cookie, &uid) {
                info!(pod = %uid, "pod withdrawn, nothing left in its namespace");
            }
        }
    }

    /// Takes every trace of a pod out of the kernel and its namespace, and says whether that went well.
    pub(super) fn withdraw(&mut self, cookie: NetnsCookie, uid: &str) -> bool {
        let Err(error) = self.kernel.withdraw(cookie) else { return true };
        if let Some(error) = self.failed(&error) {
            warn!(pod = uid, netns_cookie = cookie.0, error, "withdraw a pod");
        }
        false
    }

    /// Pods that an earlier agent enrolled and no manager has told this one of.
    pub(super) fn forget_strangers(&mut self) {
        let mine: Vec<u64> = self.known.values().map(|k| k.description.netns.cookie().0).collect();
        for cookie in self.kernel.enrolled() {
            if !mine.contains(&cookie.0) && !self.releasing.contains_key(&cookie.0) {
                info!(netns_cookie = cookie.0, "withdraw a pod that no manager knows any more");
                match self.kernel.namespace(cookie) {
                    Some(netns) => self.release_adopted(&Description {
                        uid: "unknown".into(),
                        namespace: "".into(),
                        name: "".into(),
                        service_account: None,
                        netns,
                        manager: Manager::Label,
                    }),
                    None => drop(self.withdraw(cookie, "unknown")),
                }
            }
        }
    }
}

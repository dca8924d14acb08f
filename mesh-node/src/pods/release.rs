//! The way out, in two halves; and pods that nobody knows any more.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{info, warn};

use super::Pods;
use super::command::SUPERSEDED;
use super::stage::Releasing;
use crate::capture::LINGER;
use crate::connection::End;
use crate::netns::NetnsCookie;
use crate::pod::Pod;

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
        self.releasing.insert(pod.cookie.0, Releasing { pod, not_before, deadline });
        self.finish_releases(Instant::now());
        released
    }

    /// Second half: once a pod's connections have ended, or may last no longer, nothing is left behind in its namespace.
    pub(super) fn finish_releases(&mut self, now: Instant) {
        let connections = &self.connections;
        let done: Vec<u64> = self
            .releasing
            .iter()
            .filter(|(cookie, r)| {
                let idle = r.not_before <= now && connections.held_of(NetnsCookie(**cookie)) == 0;
                idle || r.deadline <= now
            })
            .map(|(cookie, _)| *cookie)
            .collect();
        for cookie in done {
            let Some(Releasing { pod, .. }) = self.releasing.remove(&cookie) else { continue };
            self.connections.end_where(|live| {
                (live.facts.pod == Some(pod.cookie))
                    .then(|| End::because("withdrawn", "the pod left the mesh and its deadline has passed"))
            });
            if self.withdraw(pod.cookie, &pod.uid) {
                info!(pod = %pod.uid, "pod withdrawn, nothing left in its namespace");
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
                self.withdraw(cookie, "unknown");
            }
        }
    }
}

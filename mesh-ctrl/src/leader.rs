//! Which of several controllers writes: the one that holds a Lease.
//!
//! Discovery and certificates come from every replica; only what is written into the cluster has one author at a time.
//! A Lease says nothing by itself: a holder is taken for dead when the Lease has not changed for its whole duration by
//! the watcher's own clock, so that clocks need not agree. A holder that cannot renew gives up well before that, and what
//! it still means to write is held back at the client ([`fence`]).
//!
//! ```text
//!              created, free, or stale
//!   Follower ───────────────────────────> Leader ──renewed──┐
//!      ^                                    │  ^────────────┘
//!      └── someone else's, or not renewed in time
//! ```

mod fence;

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

pub(crate) use fence::Leadership;

/// How long others wait for a holder that says nothing.
const DURATION: Duration = Duration::from_secs(15);
/// After this long without a renewal a holder no longer takes itself for one; less than [`DURATION`] by more than a call.
const DEADLINE: Duration = Duration::from_secs(10);
/// Between two attempts to take or renew, and the longest time that one may take.
const RETRY: Duration = Duration::from_secs(2);

/// Takes part in the election for Lease `name`, until `stopping` is true; gives the Lease back then.
pub(crate) struct Candidate {
    leases: Api<Lease>,
    name: String,
    identity: String,
    leadership: Leadership,
    /// Version of the Lease that was seen last, and since when.
    seen: Option<(String, Instant)>,
}

/// What to do about a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Renew,
    Take,
    Wait,
}

impl Candidate {
    /// `identity` has to be another one in each process; `leadership` is what writers are kept to.
    pub(crate) fn new(client: Client, namespace: &str, name: &str, identity: String, leadership: Leadership) -> Self {
        let leases = Api::namespaced(client, namespace);
        Self { leases, name: name.to_owned(), identity, leadership, seen: None }
    }

    /// Publishes whether this process leads.
    pub(crate) async fn run(mut self, leads: watch::Sender<bool>, mut stopping: watch::Receiver<bool>) {
        loop {
            self.attempt().await;
            let leading = self.leadership.holds();
            let changed = leads.send_if_modified(|led| std::mem::replace(led, leading) != leading);
            if changed {
                info!(leading, lease = self.name, identity = self.identity, "leadership");
            }
            tokio::select! {
                () = sleep(RETRY.mul_f64(rand::random_range(0.8..=1.0))) => {}
                _ = stopping.wait_for(|stop| *stop) => break,
            }
        }
        let held = self.leadership.holds();
        self.leadership.end();
        leads.send_replace(false);
        if held {
            self.give_back().await;
        }
    }

    async fn attempt(&mut self) {
        let begun = Instant::now();
        match timeout(RETRY, self.hold()).await {
            // From before the call: the holder counts its time from no later than others do.
            Ok(Ok(true)) => self.leadership.extend(begun + DEADLINE),
            Ok(Ok(false)) => self.leadership.end(),
            Ok(Err(error)) => warn!(%error, lease = self.name, "the Lease cannot be had"),
            Err(_) => warn!(lease = self.name, "the API server does not answer"),
        }
    }

    async fn hold(&mut self) -> Result<bool, kube::Error> {
        let Some(lease) = self.leases.get_opt(&self.name).await? else {
            let spec = LeaseSpec { lease_transitions: Some(0), acquire_time: Some(now()), ..self.spec() };
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(spec) };
            return self.written(self.leases.create(&PostParams::default(), &lease).await);
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => Instant::now(),
        };
        self.seen = Some((version, since));
        let held = lease.spec.clone().unwrap_or_default();
        let spec = match decide(&held, since.elapsed(), &self.identity) {
            Move::Wait => return Ok(false),
            Move::Renew => {
                LeaseSpec { acquire_time: held.acquire_time, lease_transitions: held.lease_transitions, ..self.spec() }
            }
            Move::Take => {
                info!(from = held.holder_identity, "taking the Lease");
                let transitions = held.lease_transitions.unwrap_or(0).saturating_add(1);
                LeaseSpec { acquire_time: Some(now()), lease_transitions: Some(transitions), ..self.spec() }
            }
        };
        // With the version that was read: if somebody was faster, this is a conflict.
        let lease = Lease { spec: Some(spec), ..lease };
        self.written(self.leases.replace(&self.name, &PostParams::default(), &lease).await)
    }

    fn written(&self, result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
        match result {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                debug!(lease = self.name, "somebody else was faster");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn spec(&self) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            renew_time: Some(now()),
            ..LeaseSpec::default()
        }
    }

    async fn give_back(&self) {
        let given = async {
            let lease = self.leases.get(&self.name).await?;
            let spec = lease.spec.clone().unwrap_or_default();
            if spec.holder_identity.as_deref() != Some(&self.identity) {
                return Ok(());
            }
            let lease = Lease { spec: Some(LeaseSpec { holder_identity: Some(String::new()), ..spec }), ..lease };
            self.leases.replace(&self.name, &PostParams::default(), &lease).await.map(drop)
        };
        let given: Result<Result<(), kube::Error>, _> = timeout(RETRY, given).await;
        if !matches!(given, Ok(Ok(()))) {
            info!(lease = self.name, "the Lease was not given back; it ends by itself");
        }
    }
}

fn decide(held: &LeaseSpec, unchanged_for: Duration, identity: &str) -> Move {
    let duration =
        held.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).map_or(DURATION, Duration::from_secs);
    match held.holder_identity.as_deref() {
        Some(holder) if holder == identity => Move::Renew,
        None | Some("") => Move::Take,
        Some(_) if unchanged_for >= duration => Move::Take,
        Some(_) => Move::Wait,
    }
}

fn now() -> MicroTime {
    MicroTime(Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_it_is_free_or_its_holder_has_said_nothing_for_its_duration() {
        let held = |holder: Option<&str>, seconds| LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: seconds,
            ..LeaseSpec::default()
        };
        let after = |spec: &LeaseSpec, seconds| decide(spec, Duration::from_secs(seconds), "me");
        assert_eq!(after(&held(Some("me"), Some(15)), 100), Move::Renew);
        assert_eq!(after(&held(Some("other"), Some(15)), 14), Move::Wait);
        assert_eq!(after(&held(Some("other"), Some(15)), 15), Move::Take);
        assert_eq!(after(&held(Some("other"), Some(60)), 15), Move::Wait, "the holder's own duration counts");
        assert_eq!(after(&held(Some("other"), None), 14), Move::Wait);
        assert_eq!(after(&held(Some("other"), Some(-1)), 14), Move::Wait);
        assert_eq!(after(&held(Some(""), Some(15)), 0), Move::Take);
        assert_eq!(after(&held(None, None), 0), Move::Take);
    }
}

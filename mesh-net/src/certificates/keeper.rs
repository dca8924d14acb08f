//! The task that keeps one identity's certificate.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use mesh_core::identity::SpiffeId;
use thiserror::Error;
use tracing::{info, warn};

use super::{Held, POLL, Shared, State};
use crate::ca::CaError;
use crate::svid::{InvalidSvid, InvalidTrustBundle, KeyError, KeyPair, Svid, TrustBundle};
use crate::tls::Credentials;
use crate::unix_time;

/// Least time between a certificate and the request for the next one, whatever its lifetime.
const MIN_RENEWAL: Duration = Duration::from_secs(1);

#[derive(Debug, Error)]
enum IssueError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error(transparent)]
    Svid(#[from] InvalidSvid),
    #[error(transparent)]
    Trust(#[from] InvalidTrustBundle),
    #[error("the authority issued a certificate for {found}")]
    Identity { found: SpiffeId },
    #[error("the authority issued a certificate that is over by this clock ({})", unix_time::seconds(*.not_after))]
    Over { not_after: SystemTime },
    #[error("the authority sent no chain")]
    NoChain,
    #[error("stopping")]
    Stopping,
}

impl IssueError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Ca(e) => e.reason(),
            Self::Svid(_) => "svid",
            Self::Trust(_) => "trust",
            Self::Identity { .. } => "identity",
            Self::Over { .. } => "over",
            Self::NoChain => "chain",
            Self::Stopping => "stopping",
        }
    }
}

/// What the keeper knows between two steps.
struct Keeper {
    shared: Arc<Shared>,
    held: Arc<Held>,
    identity: SpiffeId,
    current: Option<Arc<Svid>>,
    /// Issued, and by this clock not valid yet.
    next: Option<Arc<Svid>>,
    trust: Option<Arc<TrustBundle>>,
    request_at: SystemTime,
    failures: u32,
}

/// Runs until aborted.
pub(super) async fn keep(shared: Arc<Shared>, held: Arc<Held>) {
    let identity = held.status().identity.clone();
    let mut roots = shared.roots.watch();
    let mut keeper = Keeper {
        request_at: shared.now(),
        trust: roots.borrow_and_update().clone(),
        current: None,
        next: None,
        failures: 0,
        shared,
        held,
        identity,
    };
    let mut request = None;
    loop {
        let now = keeper.shared.now();
        if request.is_none() && keeper.request_at <= now {
            request = Some(Box::pin(issue(keeper.shared.clone(), keeper.identity.clone())));
        }
        keeper.look(now);
        let wait = keeper.next_event(now, request.is_some());
        let answer = async {
            match &mut request {
                Some(request) => request.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            answer = answer => {
                request = None;
                // The answer may have brought the roots that its certificate is published with.
                keeper.trust = roots.borrow_and_update().clone();
                keeper.take(answer);
            }
            changed = roots.changed() => {
                if changed.is_err() {
                    return;
                }
                keeper.trust = roots.borrow_and_update().clone();
                keeper.publish();
            }
            () = tokio::time::sleep(wait) => keeper.shared.roots.refresh(keeper.shared.now()),
        }
    }
}

impl Keeper {
    /// Does what the clock asks for: retires what is over, takes up what has become valid.
    fn look(&mut self, now: SystemTime) {
        if let Some(next) = self.next.take_if(|next| next.not_before <= now) {
            self.use_certificate(next, None);
        }
        if self.current.as_ref().is_some_and(|svid| svid.not_after <= now) {
            warn!(identity = %self.identity, "certificate has expired");
            self.current = None;
            match self.next.take() {
                Some(next) => self.use_certificate(next, None),
                None => {
                    self.held.status().state = State::Expired;
                    self.publish();
                }
            }
        }
    }

    fn next_event(&self, now: SystemTime, requesting: bool) -> Duration {
        let request = (!requesting).then_some(self.request_at);
        let expiry = self.current.as_ref().map(|svid| svid.not_after);
        let start = self.next.as_ref().map(|svid| svid.not_before);
        let until = |at: SystemTime| at.duration_since(now).unwrap_or(Duration::ZERO);
        // The wall clock may be set meanwhile, so no plan is trusted for longer than `POLL`.
        [request, expiry, start].into_iter().flatten().map(until).min().unwrap_or(POLL).min(POLL)
    }

    fn take(&mut self, answer: Result<Svid, IssueError>) {
        let now = self.shared.now();
        match answer {
            Ok(svid) => {
                self.shared.issued.fetch_add(1, Ordering::Relaxed);
                self.failures = 0;
                self.request_at = now + renewal(now, svid.not_after, rand::random_range(-1.0..=1.0));
                self.accept(Arc::new(svid), now);
            }
            Err(error) => {
                self.shared.failed.fetch_add(1, Ordering::Relaxed);
                let wait = self.shared.config.backoff.wait(self.failures);
                self.failures = self.failures.saturating_add(1);
                self.request_at = now + wait;
                let identity = &self.identity;
                warn!(%identity, reason = error.reason(), %error, retry_in = ?wait, "no certificate");
                let mut status = self.held.status();
                status.last_error = Some(error.to_string());
                if status.state == State::Initializing {
                    status.state = State::Failed;
                }
            }
        }
        self.held.status().renew_at = Some(self.request_at);
    }

    /// A certificate that begins in the future means that two clocks disagree. With another one to use, it waits until it
    /// is valid by ours; with none, it is used at once, since it may be our clock that is behind.
    fn accept(&mut self, svid: Arc<Svid>, now: SystemTime) {
        let skew = svid.not_before.duration_since(now).ok().filter(|d| !d.is_zero());
        let note = skew.map(|d| format!("certificate {} is valid only in {d:?}: clocks differ", svid.serial_hex));
        match (note, &self.current) {
            (Some(note), Some(_)) => {
                warn!(identity = %self.identity, "{note}");
                self.held.status().last_error = Some(note);
                self.next = Some(svid);
            }
            (note, _) => {
                self.next = None;
                self.use_certificate(svid, note);
            }
        }
    }

    fn use_certificate(&mut self, svid: Arc<Svid>, note: Option<String>) {
        info!(identity = %self.identity, serial = svid.serial_hex, "certificate in use");
        let mut status = self.held.status();
        status.state = State::Available;
        status.serial = Some(svid.serial_hex.clone());
        status.not_before = Some(svid.not_before);
        status.not_after = Some(svid.not_after);
        status.last_error = note;
        drop(status);
        self.current = Some(svid);
        self.publish();
    }

    fn publish(&self) {
        let credentials = match (&self.current, &self.trust) {
            (Some(svid), Some(trust)) => Some(Arc::new(Credentials::new(svid.clone(), trust.clone()))),
            _ => None,
        };
        self.held.current.send_if_modified(|current| {
            let changed = current.is_some() || credentials.is_some();
            *current = credentials;
            changed
        });
    }
}

/// A new key, a request for it, and the certificate that came back.
async fn issue(shared: Arc<Shared>, identity: SpiffeId) -> Result<Svid, IssueError> {
    let _turn = shared.limit.acquire().await.map_err(|_| IssueError::Stopping)?;
    let key = KeyPair::generate()?;
    let csr = key.csr_pem(&identity)?;
    let chain = (shared.sign)(csr, identity.clone(), shared.config.ttl).await?;
    let (roots, chain) = chain.split_last().ok_or(IssueError::NoChain)?;
    let svid = Svid::from_pem(&chain.join("\n"), &key)?;
    let now = shared.now();
    if svid.identity != identity {
        return Err(IssueError::Identity { found: svid.identity.clone() });
    }
    if svid.not_after <= now {
        return Err(IssueError::Over { not_after: svid.not_after });
    }
    let lifetime = svid.not_after.duration_since(svid.not_before).unwrap_or_default();
    shared.roots.learn(roots, now, lifetime.max(shared.config.ttl))?;
    Ok(svid)
}

/// How long to use a certificate before asking for the next: half of what is left of it, up to a tenth of that earlier or
/// later (`jitter` in -1..=1), so that the pods of a node that started together do not renew together for ever.
fn renewal(now: SystemTime, not_after: SystemTime, jitter: f64) -> Duration {
    let left = not_after.duration_since(now).unwrap_or_default();
    left.mul_f64(0.5 * (1.0 + 0.1 * jitter)).max(MIN_RENEWAL)
}

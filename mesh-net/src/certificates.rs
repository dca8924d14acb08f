//! The leaf certificates of the identities that this process speaks for: made while somebody needs them, renewed before
//! half of their life is over at the latest, forgotten with the last lease.
//!
//! ```text
//!              issued                      half life            issued
//! Initializing ------> Available -----------------> (renewing) ------> Available
//!      | refused           | not_after, CA still down
//!      v                   v
//!    Failed  <-------   Expired        both keep asking, with backoff; a certificate makes either Available
//! ```

mod keeper;
mod roots;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use mesh_core::identity::SpiffeId;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::ca::{CaClient, CaError};
use crate::grpc::Backoff;
use crate::tls::Credentials;
use roots::Roots;

pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

#[derive(Clone)]
pub struct Config {
    /// Lifetime asked for; the authority may give less.
    pub ttl: Duration,
    /// Requests to the authority at once: enough to hide its latency, few enough not to be a flood when a node starts.
    pub concurrency: usize,
    pub backoff: Backoff,
    /// PEM file with roots to trust besides those that the authority names; re-read every [`POLL`].
    pub extra_roots: Option<PathBuf>,
    /// Wall clock, which certificates are written in; it may jump.
    pub clock: Clock,
}

/// How often files are looked at and the wall clock is compared with what was planned, in case it was set.
pub const POLL: Duration = Duration::from_secs(30);

impl Default for Config {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(24 * 3600),
            concurrency: 16,
            backoff: Backoff { min: Duration::from_millis(250), max: Duration::from_secs(30) },
            extra_roots: None,
            clock: Arc::new(SystemTime::now),
        }
    }
}

/// Whoever signs: the authority's client, or a stand-in.
pub trait Signer: Send + Sync + 'static {
    /// Yields PEM texts, the leaf first and the root or roots last.
    fn sign(
        &self,
        csr_pem: String,
        identity: &SpiffeId,
        ttl: Duration,
    ) -> impl Future<Output = Result<Vec<String>, CaError>> + Send;
}

impl Signer for CaClient {
    async fn sign(&self, csr_pem: String, identity: &SpiffeId, ttl: Duration) -> Result<Vec<String>, CaError> {
        CaClient::sign(self, csr_pem, identity, ttl).await
    }
}

#[derive(Debug, Error)]
pub enum CertificateError {
    #[error("no certificate for {identity} yet: {why}")]
    NotReady { identity: SpiffeId, why: String },
    #[error("the certificate for {identity} has expired: {why}")]
    Expired { identity: SpiffeId, why: String },
}

impl CertificateError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotReady { .. } => "certificate_not_ready",
            Self::Expired { .. } => "certificate_expired",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Initializing,
    Available,
    Expired,
    Failed,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initializing => "initializing",
            Self::Available => "available",
            Self::Expired => "expired",
            Self::Failed => "failed",
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct CertificateStatus {
    pub identity: SpiffeId,
    pub state: State,
    /// Of the certificate in use (or expired), lower-case hex.
    pub serial: Option<String>,
    /// Seconds since 1970, like the other times.
    #[serde(serialize_with = "crate::unix_time::serialize")]
    pub not_before: Option<SystemTime>,
    #[serde(serialize_with = "crate::unix_time::serialize")]
    pub not_after: Option<SystemTime>,
    #[serde(serialize_with = "crate::unix_time::serialize")]
    pub renew_at: Option<SystemTime>,
    pub last_error: Option<String>,
    pub leases: usize,
}

/// The certificates in use; clones share them.
#[derive(Clone)]
pub struct Certificates {
    shared: Arc<Shared>,
}

type Sign = Box<dyn Fn(String, SpiffeId, Duration) -> BoxFuture<'static, Result<Vec<String>, CaError>> + Send + Sync>;

struct Shared {
    config: Config,
    sign: Sign,
    limit: Semaphore,
    roots: Roots,
    entries: Mutex<HashMap<SpiffeId, Entry>>,
    issued: AtomicU64,
    failed: AtomicU64,
}

struct Entry {
    leases: usize,
    held: Arc<Held>,
    keeper: AbortHandle,
}

/// What leases and the keeper of one identity share.
struct Held {
    current: watch::Sender<Option<Arc<Credentials>>>,
    status: Mutex<CertificateStatus>,
}

impl Certificates {
    /// Needs a tokio runtime: each identity is kept by a task of its own.
    pub fn start(config: Config, signer: impl Signer) -> Self {
        let signer = Arc::new(signer);
        let sign: Sign = Box::new(move |csr, identity, ttl| {
            let signer = signer.clone();
            Box::pin(async move { signer.sign(csr, &identity, ttl).await })
        });
        let shared = Shared {
            limit: Semaphore::new(config.concurrency.max(1)),
            roots: Roots::new(config.extra_roots.clone()),
            entries: Mutex::default(),
            issued: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            sign,
            config,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Keeps a certificate for `identity` until the lease, and every other lease of it, is dropped.
    pub fn lease(&self, identity: &SpiffeId) -> Lease {
        let mut entries = self.shared.entries();
        let held = match entries.get_mut(identity) {
            Some(entry) => {
                entry.leases += 1;
                entry.held.clone()
            }
            None => {
                let held = Arc::new(Held::new(identity.clone()));
                let keeper = tokio::spawn(keeper::keep(self.shared.clone(), held.clone())).abort_handle();
                entries.insert(identity.clone(), Entry { leases: 1, held: held.clone(), keeper });
                held
            }
        };
        Lease { identity: identity.clone(), shared: self.shared.clone(), held }
    }

    /// In the order of identities.
    pub fn status(&self) -> Vec<CertificateStatus> {
        let entries = self.shared.entries();
        let mut all: Vec<_> =
            entries.values().map(|e| CertificateStatus { leases: e.leases, ..e.held.status().clone() }).collect();
        all.sort_by(|a, b| a.identity.cmp(&b.identity));
        all
    }
}

impl Shared {
    fn entries(&self) -> MutexGuard<'_, HashMap<SpiffeId, Entry>> {
        self.entries.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn now(&self) -> SystemTime {
        (self.config.clock)()
    }
}

impl Held {
    fn new(identity: SpiffeId) -> Self {
        let status = CertificateStatus {
            identity,
            state: State::Initializing,
            serial: None,
            not_before: None,
            not_after: None,
            renew_at: None,
            last_error: None,
            leases: 0,
        };
        Self { current: watch::channel(None).0, status: Mutex::new(status) }
    }

    fn status(&self) -> MutexGuard<'_, CertificateStatus> {
        self.status.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The right to an identity's certificate. The key is forgotten with the last lease and the last connection made with it.
pub struct Lease {
    identity: SpiffeId,
    shared: Arc<Shared>,
    held: Arc<Held>,
}

impl Lease {
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// `None` before the first certificate and after an expiry.
    pub fn current(&self) -> Option<Arc<Credentials>> {
        self.held.current.borrow().clone()
    }

    /// Waits for a usable certificate.
    ///
    /// # Errors
    /// There is none at `deadline`; the error says what the last attempt met.
    pub async fn ready(&self, deadline: Instant) -> Result<Arc<Credentials>, CertificateError> {
        let mut receiver = self.watch();
        let wait = async {
            loop {
                if let Some(credentials) = &*receiver.borrow_and_update() {
                    return credentials.clone();
                }
                // `self` keeps the sender.
                if receiver.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        if let Ok(credentials) = tokio::time::timeout_at(deadline, wait).await {
            return Ok(credentials);
        }
        let status = self.held.status();
        let identity = self.identity.clone();
        let why = status.last_error.clone().unwrap_or_else(|| "the authority has not answered".to_owned());
        Err(match status.state {
            State::Expired => CertificateError::Expired { identity, why },
            _ => CertificateError::NotReady { identity, why },
        })
    }

    /// Sees every renewal, change of the roots and expiry (`None`).
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Credentials>>> {
        self.held.current.subscribe()
    }

    pub fn status(&self) -> CertificateStatus {
        self.held.status().clone()
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        Certificates { shared: self.shared.clone() }.lease(&self.identity)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut entries = self.shared.entries();
        if let Some(entry) = entries.get_mut(&self.identity) {
            entry.leases -= 1;
            if entry.leases == 0 {
                entry.keeper.abort();
                entries.remove(&self.identity);
            }
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("identities", &self.shared.entries().len()).finish_non_exhaustive()
    }
}

/// Metrics; register with `registry.register_collector(Box::new(certificates.clone()))`.
impl Collector for Certificates {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut states = [State::Initializing, State::Available, State::Expired, State::Failed].map(|s| (s, 0_i64));
        for entry in self.shared.entries().values() {
            states[entry.held.status().state as usize].1 += 1;
        }
        let gauge = ConstGauge::new(0_i64).metric_type();
        let mut family = encoder.encode_descriptor("weft_certificates", "Identities kept, by state", None, gauge)?;
        for (state, count) in states {
            ConstGauge::new(count).encode(family.encode_family(&[("state", state.as_str())])?)?;
        }
        let counter = ConstCounter::new(0_u64).metric_type();
        let mut family = encoder.encode_descriptor(
            "weft_certificate_requests",
            "Certificate requests, by outcome",
            None,
            counter,
        )?;
        for (outcome, count) in [("issued", &self.shared.issued), ("failed", &self.shared.failed)] {
            let count = ConstCounter::new(count.load(Ordering::Relaxed));
            count.encode(family.encode_family(&[("outcome", outcome)])?)?;
        }
        Ok(())
    }
}

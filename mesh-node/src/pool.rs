//! Tunnels that are up: one TLS handshake for a peer, many connections over it.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use mesh_core::addr::TunnelAddr;
use mesh_core::identity::SpiffeId;
use mesh_net::certificates::CertificateError;
use mesh_net::tls::{self, HandshakeError};
use mesh_net::tunnel::client::{Connection, OpenError, ReplyHead};
use mesh_net::tunnel::head::Head;
use mesh_net::tunnel::stream::Stream;
use mesh_net::tunnel::{self, ConnectionError};
use thiserror::Error;
use tokio::sync::Semaphore;
use tracing::debug;

use crate::netns::NetnsCookie;
use crate::pod::Pod;
use crate::socket;

#[derive(Clone, Debug)]
pub struct Config {
    /// For TCP, TLS and the tunnel's own handshake, each.
    pub connect_timeout: Duration,
    /// Until the peer has dialled the application and said so.
    pub open_timeout: Duration,
    /// A tunnel without connections is closed after this long.
    pub idle_timeout: Duration,
    pub tunnel: tunnel::Config,
}

impl Default for Config {
    /// Ten seconds is what Linux's own connect makes of three lost SYNs (1 + 2 + 4 s) and a little; an idle tunnel is
    /// kept for 90 s, so that a client that polls once a minute does not pay a handshake each time.
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            open_timeout: Duration::from_secs(12),
            idle_timeout: Duration::from_secs(90),
            tunnel: tunnel::Config::default(),
        }
    }
}

#[derive(Debug, Error)]
pub enum DialError {
    #[error("certificate of {identity}: {source}")]
    Certificate { identity: SpiffeId, source: CertificateError },
    #[error("dial {to}: {source}")]
    Connect { to: TunnelAddr, source: io::Error },
    #[error("handshake with {to}: {source}")]
    Handshake { to: TunnelAddr, source: HandshakeError },
    #[error("tunnel to {to}: {source}")]
    Tunnel { to: TunnelAddr, source: ConnectionError },
    #[error("stream to {to}: {source}")]
    Open { to: TunnelAddr, source: OpenError },
}

impl DialError {
    /// Closed set, used as a log and metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Certificate { .. } => "no_certificate",
            Self::Connect { source, .. } => connect_reason(source),
            Self::Handshake { source, .. } => source.reason(),
            Self::Tunnel { source, .. } => source.reason(),
            Self::Open { source, .. } => source.reason(),
        }
    }

    /// Whether another endpoint may fare better: a refusal by policy is an answer, everything else is a failure.
    pub fn is_failure(&self) -> bool {
        !matches!(self, Self::Open { source: OpenError::Refused { status: 400..=499 }, .. } | Self::Certificate { .. })
    }

    /// Nobody listens for tunnels there: the pod's agent is starting, or the pod is about to enter or leave the mesh.
    pub fn is_no_listener(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused)
    }
}

/// Closed set, used as a log and metric label.
pub fn connect_reason(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect_refused",
        io::ErrorKind::TimedOut => "connect_timeout",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "connect_unreachable",
        _ => "connect_failed",
    }
}

/// The tunnels of one worker.
#[derive(Clone, Debug)]
pub struct Pool {
    config: Arc<Config>,
    slots: Arc<Mutex<HashMap<Key, Arc<Slot>>>>,
}

/// A tunnel leaves from a pod's own namespace, with its identity, and is pinned to who may answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    pod: NetnsCookie,
    to: TunnelAddr,
    expected: Vec<SpiffeId>,
}

#[derive(Debug)]
struct Slot {
    /// One handshake at a time: connections that arrive together share the first tunnel.
    turn: Semaphore,
    tunnels: Mutex<Vec<Tunnel>>,
}

struct Tunnel {
    connection: Connection,
    /// When the certificates run out by which both ends proved who they are. What is carried goes on; nothing new begins.
    until: SystemTime,
    idle_since: Option<Instant>,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").field("streams", &self.connection.in_use()).finish_non_exhaustive()
    }
}

impl Pool {
    pub fn new(config: Config) -> Self {
        Self { config: Arc::new(config), slots: Arc::default() }
    }

    /// Opens a stream to `to`, over a tunnel that is up or a new one. The peer must prove to be one of `expected`.
    ///
    /// # Errors
    /// See [`DialError`]; nothing of the application's data has been sent in any case.
    pub async fn open(
        &self,
        pod: &Arc<Pod>,
        to: TunnelAddr,
        expected: &[SpiffeId],
        head: &Head,
    ) -> Result<(ReplyHead, Stream), DialError> {
        let slot = self.slot(Key { pod: pod.cookie, to, expected: expected.to_vec() });
        loop {
            let (connection, fresh) = match slot.free() {
                Some(connection) => (connection, false),
                None => {
                    let _turn = slot.turn.acquire().await.expect("the semaphore is never closed");
                    match slot.free() {
                        Some(connection) => (connection, false),
                        None => {
                            let (connection, until) = self.dial(pod, to, expected).await?;
                            slot.lock().push(Tunnel { connection: connection.clone(), until, idle_since: None });
                            (connection, true)
                        }
                    }
                }
            };
            match connection.open(head, self.config.open_timeout).await {
                Ok(opened) => return Ok(opened),
                // The peer was leaving, or this tunnel was dead before we knew: a new one settles which.
                Err(OpenError::GoAway | OpenError::ConnectionLost) if !fresh => slot.forget_spent(),
                Err(source) => {
                    if matches!(source, OpenError::GoAway | OpenError::ConnectionLost) {
                        slot.forget_spent();
                    }
                    return Err(DialError::Open { to, source });
                }
            }
        }
    }

    /// Closes tunnels that have had no connection for a while, and those of pods that are gone. To be called now and then.
    pub fn sweep(&self, now: Instant, gone: impl Fn(NetnsCookie) -> bool) {
        let idle_timeout = self.config.idle_timeout;
        self.lock().retain(|key, slot| {
            let mut tunnels = slot.lock();
            tunnels.retain_mut(|tunnel| {
                if tunnel.connection.is_closed() {
                    return false;
                }
                if tunnel.connection.in_use() > 0 {
                    tunnel.idle_since = None;
                    return true;
                }
                let since = *tunnel.idle_since.get_or_insert(now);
                let over = gone(key.pod) || tunnel.until <= SystemTime::now();
                if over || now.duration_since(since) >= idle_timeout {
                    tunnel.connection.drain();
                    return false;
                }
                true
            });
            !tunnels.is_empty() || Arc::strong_count(slot) > 1
        });
    }

    /// Tunnels that are up.
    pub fn len(&self) -> usize {
        self.lock().values().map(|slot| slot.lock().len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    async fn dial(
        &self,
        pod: &Arc<Pod>,
        to: TunnelAddr,
        expected: &[SpiffeId],
    ) -> Result<(Connection, SystemTime), DialError> {
        let timeout = self.config.connect_timeout;
        let credentials = pod
            .certificate
            .ready(tokio::time::Instant::now() + timeout)
            .await
            .map_err(|source| DialError::Certificate { identity: pod.identity.clone(), source })?;
        let tcp = socket::connect_from_pod(&pod.netns, to.0, timeout)
            .await
            .map_err(|source| DialError::Connect { to, source })?;
        let tls = tls::connect(tcp.stream, &credentials, expected, &[tls::ALPN_H2], timeout)
            .await
            .map_err(|source| DialError::Handshake { to, source })?;
        let until = tls.peer_until().min(credentials.svid().not_after);
        let (connection, driver) =
            Connection::handshake(tls, &self.config.tunnel).await.map_err(|source| DialError::Tunnel { to, source })?;
        let peer = connection.peer().clone();
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                debug!(%to, %peer, %error, "tunnel ended");
            }
        });
        Ok((connection, until))
    }

    fn slot(&self, key: Key) -> Arc<Slot> {
        let mut slots = self.lock();
        let slot =
            slots.entry(key).or_insert_with(|| Arc::new(Slot { turn: Semaphore::new(1), tunnels: Mutex::default() }));
        slot.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn free(&self) -> Option<Connection> {
        let mut tunnels = self.lock();
        tunnels.retain(|t| !t.connection.is_closed());
        let now = SystemTime::now();
        tunnels.iter().find(|t| t.until > now && t.connection.available() > 0).map(|t| t.connection.clone())
    }

    /// Drops tunnels that take no more streams: one that has answered GOAWAY, or has died, says so from then on.
    fn forget_spent(&self) {
        self.lock().retain(|t| !t.connection.is_closed() && t.connection.available() > 0);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Tunnel>> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

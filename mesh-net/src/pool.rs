//! Tunnels that are up, by where they leave from and where they go: HBONE connections that many streams share, and lanes that
//! carry one after the other.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use mesh_core::addr::TunnelAddr;
use mesh_core::identity::SpiffeId;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tracing::debug;

use crate::certificates::{CertificateError, Lease};
use crate::tls::{self, HandshakeError};
use crate::tunnel;
use crate::tunnel::client::{self, Berth, Connection, Lane, OpenError, ReplyHead, Tunnel};
use crate::tunnel::early::Early;
use crate::tunnel::head::Head;
use crate::tunnel::stream::Stream;

/// Where tunnels leave from, and as whom.
pub trait Origin: Send + Sync {
    /// Tells origins apart: tunnels of one are never lent to another.
    fn key(&self) -> u64;

    fn identity(&self) -> &SpiffeId;

    fn certificate(&self) -> &Lease;

    /// Connects in TCP, with keepalive for a peer that is gone without a word.
    fn connect(&self, to: SocketAddr, timeout: Duration) -> impl Future<Output = io::Result<TcpStream>> + Send;

    /// Runs what moves a tunnel's bytes, until it ends.
    fn drive(&self, driver: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(driver);
    }
}

#[derive(Clone, Debug)]
pub struct Config {
    /// For TCP, TLS and the tunnel's own handshake, each.
    pub connect_timeout: Duration,
    /// Until the peer has dialled the application and said so.
    pub open_timeout: Duration,
    /// A tunnel without connections is closed after this long.
    pub idle_timeout: Duration,
    pub transport: Transport,
    pub tunnel: tunnel::Config,
}

/// Ways to carry streams that peers are offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Lanes where the peer knows them, else HBONE.
    #[default]
    Any,
    /// HBONE alone.
    Hbone,
}

impl Transport {
    /// As ALPN names, best first.
    pub fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Any => &[tls::ALPN_WEFT, tls::ALPN_H2],
            Self::Hbone => &[tls::ALPN_H2],
        }
    }
}

impl Default for Config {
    /// Ten seconds is what Linux's own connect makes of three lost SYNs (1 + 2 + 4 s) and a little; an idle tunnel is
    /// kept for 90 s, so that a client that polls once a minute does not pay a handshake each time.
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            open_timeout: Duration::from_secs(12),
            idle_timeout: Duration::from_secs(90),
            transport: Transport::default(),
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
            Self::Open { source, .. } => source.reason(),
        }
    }

    /// Whether another endpoint may fare better, and may be asked: a refusal by policy is an answer, and where the first bytes
    /// may have been delivered they must not be a second time.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Certificate { .. } => false,
            Self::Open { source, .. } => {
                !matches!(source, OpenError::Refused { status: 400..=499 } | OpenError::Unanswered(_))
            }
            Self::Connect { .. } | Self::Handshake { .. } => true,
        }
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

/// A tunnel leaves from one place, with its identity, and is pinned to who may answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    origin: u64,
    to: TunnelAddr,
    expected: Vec<SpiffeId>,
}

struct Slot {
    /// Handshakes at once. Of the first there is one: those who come meanwhile share its tunnel, or resume its session.
    turns: Semaphore,
    /// The peer is known to speak lanes.
    has_lanes: AtomicBool,
    tunnels: Mutex<Vec<Shared>>,
    /// Free lanes, the one used last at the end.
    lanes: Mutex<Vec<(Lane, Instant)>>,
    since: Instant,
    /// When the peer last answered, in milliseconds after `since`; 0 is never.
    heard: AtomicU64,
}

struct Shared {
    connection: Connection,
    /// When the certificates run out by which both ends proved who they are. What is carried goes on; nothing new begins.
    until: SystemTime,
    idle_since: Option<Instant>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("tunnels", &self.tunnels().len()).field("lanes", &self.lanes().len()).finish()
    }
}

impl Pool {
    pub fn new(config: Config) -> Self {
        Self { config: Arc::new(config), slots: Arc::default() }
    }

    /// Opens a stream to `to`, over a tunnel that is up or a new one. The peer must prove to be one of `expected`. What
    /// `client` has said already goes along if the peer was heard of within the last [`FRESH`].
    ///
    /// # Errors
    /// See [`DialError`]. Of the application's data nothing has been delivered, unless it is [`OpenError::Unanswered`].
    pub async fn open(
        &self,
        origin: &impl Origin,
        to: TunnelAddr,
        expected: &[SpiffeId],
        head: &Head,
        mut client: Option<&mut dyn Early>,
    ) -> Result<(ReplyHead, Stream), DialError> {
        let slot = self.slot(Key { origin: origin.key(), to, expected: expected.to_vec() });
        loop {
            let opened = match slot.free(slot.is_crowded()) {
                Some(free) => self.open_on(&slot, free, head, again(&mut client)).await,
                None => {
                    let turn = slot.turns.acquire().await.expect("the semaphore is never closed");
                    let crowded = slot.is_crowded();
                    match slot.free(crowded) {
                        Some(free) => {
                            drop(turn);
                            self.open_on(&slot, free, head, again(&mut client)).await
                        }
                        None => {
                            let fresh = self.dial(&slot, origin, to, expected, crowded).await?;
                            let opened = self.open_on(&slot, fresh, head, again(&mut client)).await;
                            // The first session of a peer has come by now, for others to resume.
                            drop(turn);
                            if opened.is_err() {
                                slot.forget_spent();
                            }
                            return opened.map_err(|source| DialError::Open { to, source });
                        }
                    }
                }
            };
            match opened {
                Ok(opened) => return Ok(opened),
                // The peer was leaving, or this tunnel was dead before we knew: a new one settles which.
                Err(OpenError::GoAway | OpenError::ConnectionLost) => slot.forget_spent(),
                Err(source) => return Err(DialError::Open { to, source }),
            }
        }
    }

    async fn open_on(
        &self,
        slot: &Arc<Slot>,
        free: Free,
        head: &Head,
        client: Option<&mut dyn Early>,
    ) -> Result<(ReplyHead, Stream), OpenError> {
        let timeout = self.config.open_timeout;
        let client = client.filter(|_| slot.is_fresh());
        let opened = match free {
            Free::Shared(connection) => connection.open(head, timeout, client).await,
            Free::Lane(lane) => lane.open(head, timeout, client, slot.clone()).await,
        };
        if matches!(opened, Ok(_) | Err(OpenError::Refused { .. })) {
            slot.hear();
        }
        opened
    }

    /// Closes tunnels that have had no connection for a while, and those of origins that are gone. To be called now and
    /// then.
    pub fn sweep(&self, now: Instant, gone: impl Fn(u64) -> bool) {
        let idle_timeout = self.config.idle_timeout;
        self.lock().retain(|key, slot| {
            let gone = gone(key.origin);
            let mut tunnels = slot.tunnels();
            tunnels.retain_mut(|tunnel| {
                if tunnel.connection.is_closed() {
                    return false;
                }
                if tunnel.connection.in_use() > 0 {
                    tunnel.idle_since = None;
                    return true;
                }
                let since = *tunnel.idle_since.get_or_insert(now);
                let over = gone || tunnel.until <= SystemTime::now();
                if over || now.duration_since(since) >= idle_timeout {
                    tunnel.connection.drain();
                    return false;
                }
                true
            });
            let mut lanes = slot.lanes();
            let over = |lane: &mut Lane, since: Instant| {
                gone || lane.until <= SystemTime::now()
                    || now.saturating_duration_since(since) >= idle_timeout
                    || !lane.is_usable()
            };
            for (lane, _) in lanes.extract_if(.., |(lane, since)| over(lane, *since)) {
                lane.leave();
            }
            !tunnels.is_empty() || !lanes.is_empty() || Arc::strong_count(slot) > 1
        });
    }

    /// Tunnels that are up, lanes in use not counted.
    pub fn len(&self) -> usize {
        self.lock().values().map(|slot| slot.tunnels().len() + slot.lanes().len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    async fn dial(
        &self,
        slot: &Slot,
        origin: &impl Origin,
        to: TunnelAddr,
        expected: &[SpiffeId],
        crowded: bool,
    ) -> Result<Free, DialError> {
        let timeout = self.config.connect_timeout;
        let credentials = origin
            .certificate()
            .ready(tokio::time::Instant::now() + timeout)
            .await
            .map_err(|source| DialError::Certificate { identity: origin.identity().clone(), source })?;
        let tcp = origin.connect(to.0, timeout).await.map_err(|source| DialError::Connect { to, source })?;
        let transport = if crowded { Transport::Hbone } else { self.config.transport };
        let tls = tls::connect(tcp, &credentials, expected, transport.alpn(), timeout)
            .await
            .map_err(|source| DialError::Handshake { to, source })?;
        slot.hear();
        let until = tls.peer_until().min(credentials.svid().not_after);
        match client::begin(tls, &self.config.tunnel) {
            Tunnel::Shared(connection, driver) => {
                let peer = connection.peer().clone();
                origin.drive(async move {
                    if let Err(error) = driver.await {
                        debug!(%to, %peer, %error, "tunnel ended");
                    }
                });
                slot.tunnels().push(Shared { connection: connection.clone(), until, idle_since: None });
                Ok(Free::Shared(connection))
            }
            Tunnel::Lane(mut lane) => {
                lane.until = until;
                if !slot.has_lanes.swap(true, Ordering::Relaxed) {
                    slot.turns.add_permits(HANDSHAKES - 1);
                }
                Ok(Free::Lane(lane))
            }
        }
    }

    fn slot(&self, key: Key) -> Arc<Slot> {
        let mut slots = self.lock();
        slots.entry(key).or_insert_with(|| Arc::new(Slot::new())).clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same, for one of several attempts.
fn again<'a>(client: &'a mut Option<&mut dyn Early>) -> Option<&'a mut dyn Early> {
    match client {
        Some(client) => Some(&mut **client),
        None => None,
    }
}

/// Something that a stream can be asked of.
enum Free {
    Shared(Connection),
    Lane(Lane),
}

impl Slot {
    fn new() -> Self {
        Self {
            turns: Semaphore::new(1),
            has_lanes: AtomicBool::new(false),
            tunnels: Mutex::default(),
            lanes: Mutex::default(),
            since: Instant::now(),
            heard: AtomicU64::new(0),
        }
    }

    /// Whether so many lanes are in use that further streams are to share a connection: a lane costs a descriptor and a port.
    fn is_crowded(self: &Arc<Self>) -> bool {
        // Whoever uses a lane or is about to has the slot in hand.
        Arc::strong_count(self) > LANES
    }

    fn free(&self, crowded: bool) -> Option<Free> {
        let now = SystemTime::now();
        while let Some((mut lane, _)) = self.lanes().pop() {
            if lane.until > now && lane.is_usable() {
                return Some(Free::Lane(lane));
            }
            lane.leave();
        }
        if self.has_lanes.load(Ordering::Relaxed) && !crowded {
            return None;
        }
        let mut tunnels = self.tunnels();
        tunnels.retain(|t| !t.connection.is_closed());
        let free = tunnels.iter().find(|t| t.until > now && t.connection.available() > 0);
        free.map(|t| Free::Shared(t.connection.clone()))
    }

    /// Notes that the peer has answered.
    fn hear(&self) {
        self.heard.store(self.now(), Ordering::Relaxed);
    }

    /// Whether the peer has answered so lately that it may be taken to be there.
    fn is_fresh(&self) -> bool {
        let heard = self.heard.load(Ordering::Relaxed);
        heard > 0 && self.now().saturating_sub(heard) <= FRESH.as_millis() as u64
    }

    fn now(&self) -> u64 {
        self.since.elapsed().as_millis() as u64 + 1
    }

    /// Drops tunnels that take no more streams: one that has answered GOAWAY, or has died, says so from then on.
    fn forget_spent(&self) {
        self.tunnels().retain(|t| !t.connection.is_closed() && t.connection.available() > 0);
    }

    fn tunnels(&self) -> MutexGuard<'_, Vec<Shared>> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes(&self) -> MutexGuard<'_, Vec<(Lane, Instant)>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Berth for Slot {
    fn back(&self, lane: Lane) {
        let mut lanes = self.lanes();
        if lanes.len() < FREE_LANES {
            lanes.push((lane, Instant::now()));
        } else {
            lane.leave();
        }
    }
}

/// How lately a peer must have answered for a client's first words to go along with the question. Whoever may have them is the
/// last who can be asked; so, of a node that has died, connections may be asked for elsewhere from then on.
pub const FRESH: Duration = Duration::from_secs(1);
/// Lanes in use with one peer until further streams share a connection. More than streams that move much at once ever are;
/// many more connections are idle ones.
const LANES: usize = 512;
/// Handshakes with one peer at once, for lanes.
const HANDSHAKES: usize = 8;
/// Lanes to one peer that are kept for what may come.
const FREE_LANES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_has_not_answered_lately_gets_no_first_words() {
        let mut slot = Slot::new();
        assert!(!slot.is_fresh(), "it has never answered");
        slot.hear();
        assert!(slot.is_fresh());
        slot.since -= FRESH;
        assert!(slot.is_fresh());
        slot.since -= Duration::from_millis(50);
        assert!(!slot.is_fresh());
        slot.hear();
        assert!(slot.is_fresh());
    }
}

//! A pod's connection on its way out: route it, reach the other end, carry the bytes.

pub mod route;
mod locality;
mod balance;
pub mod limits;
pub mod experience;
mod outliers;
mod first_words;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_core::addr::NetworkAddress;
use mesh_core::snapshot::Snapshot;
use mesh_core::traffic::{ConnectionPool, TrafficPolicy};
use mesh_core::workload::Workload;
use mesh_net::tunnel::early::Early;
use mesh_net::tunnel::head::{Baggage, Forwarded, Head};
use mesh_net::tunnel::stream::Stream;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::info;

use crate::capture::Captured;
use crate::connection::{Direction, End, Facts, Live, Security};
use crate::connections::Connections;
use crate::ebpf::Kernel;
use crate::pod::Pod;
use crate::socket::Dialled;
use crate::splice::Begun;
use crate::{socket, splice};
use experience::{Loaded, Target, Upstreams};
use first_words::FirstWords;
use limits::{Limits, Taken};
use mesh_net::pool::{DialError, Pool, connect_reason};
use route::{Carriage, Endpoint, NoRoute, Origin, Route, UnknownDestinations};

#[derive(Clone, Debug)]
pub struct Config {
    pub network: Arc<str>,
    pub unknown: UnknownDestinations,
    pub connect_timeout: Duration,
    /// Endpoints tried for one connection, the first included.
    pub attempts: usize,
    /// How long to go on trying a pod whose agent does not listen yet: the time that an agent needs to start or to enrol
    /// a pod whose label the control plane told everybody of at once.
    pub enrolling: Duration,
}

impl Config {
    pub fn new(network: Arc<str>, unknown: UnknownDestinations) -> Self {
        Self {
            network,
            unknown,
            connect_timeout: Duration::from_secs(10),
            attempts: 3,
            enrolling: Duration::from_secs(5),
        }
    }
}

/// The outbound side of one worker.
#[derive(Clone, Debug)]
pub struct Outbound {
    pub config: Arc<Config>,
    /// `None` until the control stream has been read once.
    pub snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    pub pool: Pool,
    pub upstreams: Upstreams,
    pub limits: Limits,
    pub connections: Connections,
    /// Tells which endpoints the connect hook has left out of its draw for the agent.
    pub kernel: Option<Arc<Kernel>>,
}

/// A connection that is up, as far as this side of it is concerned.
struct Way {
    reached: Reached,
    /// Of what the client has said.
    begun: Begun,
    /// `None`: nobody chose an endpoint.
    _loaded: Option<Loaded>,
    governed: Option<Box<Governed>>,
}

/// What a traffic policy asks of a connection that is up.
struct Governed {
    target: Target,
    policy: TrafficPolicy,
    _taken: Option<Taken>,
}

/// The other end, reached.
enum Reached {
    Tunnel(Box<Stream>),
    Tcp(Dialled),
}

#[derive(Debug, Error)]
enum Failure {
    #[error(transparent)]
    NoRoute(#[from] NoRoute),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("dial {to}: {source}")]
    Connect { to: SocketAddr, source: std::io::Error },
    #[error("the pod has {most} connections to the service already (connectionPool.tcp.maxConnections)")]
    Overflow { most: u32 },
    #[error("the control plane has not been heard of since the agent started")]
    NotSynced,
}

impl Failure {
    fn end(&self) -> End {
        let reason = match self {
            Self::NoRoute(no) => no.reason(),
            Self::Dial(error) => error.reason(),
            Self::Connect { source, .. } => connect_reason(source),
            Self::Overflow { .. } => "max_connections",
            Self::NotSynced => "not_synced",
        };
        End::because(reason, self)
    }
}

impl Outbound {
    /// Carries one captured connection from its first byte to its last.
    pub async fn serve(self, captured: Captured) {
        let Captured { pod, stream: client, asked, client: client_address, at, hold: _hold } = captured;
        let mut facts = Facts::new(Direction::Outbound, client_address, asked);
        facts.pod = Some(pod.cookie);
        facts.source_identity = Some(pod.identity.clone());
        match Box::pin(self.reach(&pod, &mut facts, &client)).await {
            Ok(Way { reached, begun, _loaded, governed }) => {
                let open = self.connections.open(facts, at);
                let _watch = governed.as_deref().and_then(|governed| watch(governed, open.live()));
                let end = match reached {
                    Reached::Tunnel(stream) => splice::into_tunnel(client, begun, *stream, open.live()).await,
                    Reached::Tcp(app) => splice::relay(client, begun, app, open.live()).await,
                };
                if let Some(governed) = governed {
                    self.judge(&governed, open.live(), &end);
                }
                open.finish(end);
            }
            Err(failure) => {
                self.connections.refuse(facts, at, failure.end());
                socket::reset(client);
            }
        }
    }

    /// Reaches what was asked for. Endpoints that the connect hook has drawn among and not drawn have had their share of the
    /// service's connections: they are for when there is no other.
    async fn reach(&self, pod: &Arc<Pod>, facts: &mut Facts, client: &TcpStream) -> Result<Way, Failure> {
        let mut left = match &self.kernel {
            Some(kernel) if socket::is_drawn(client) => kernel.choices(pod.cookie, facts.asked.0),
            _ => Vec::new(),
        };
        let mut words = FirstWords::of(client);
        let mut tried: Vec<Arc<Workload>> = Vec::new();
        let mut last: Option<Failure> = None;
        let mut taken: Option<Taken> = None;
        let give_up = Instant::now() + self.config.enrolling;
        let namespace = pod.identity.namespace();
        loop {
            let snapshot = self.synced().await?;
            facts.source = snapshot.workload(&pod.workload).cloned();
            let origin = Origin {
                network: &self.config.network,
                workload: facts.source.as_deref(),
                namespace,
                client: facts.client.0.ip(),
            };
            let at = |ip: &IpAddr| snapshot.workload_at(&NetworkAddress::new(self.config.network.clone(), *ip));
            let spared = left.iter().filter_map(at);
            let avoid: Vec<Arc<Workload>> = tried.iter().chain(spared).cloned().collect();
            let routed = route::route(
                &snapshot,
                &origin,
                facts.asked,
                self.config.unknown,
                &avoid,
                &self.upstreams,
                &mut rand::rng(),
            );
            let endpoint = match routed {
                Ok(Route::Endpoint(endpoint)) => endpoint,
                Ok(Route::Passthrough(to)) => {
                    let reached = self.plain(pod, to.0).await?;
                    return Ok(Way { reached, begun: words.begun(0), _loaded: None, governed: None });
                }
                Err(NoRoute::NoEndpoint) if !left.is_empty() => {
                    left.clear();
                    continue;
                }
                // Endpoints were there, and each was tried: what went wrong last says more than that none is left.
                Err(NoRoute::NoEndpoint | NoRoute::NoWaypoint) if last.is_some() => {
                    if last.as_ref().is_some_and(starting) && Instant::now() < give_up {
                        tokio::time::sleep(ENROLLING_PAUSE).await;
                        tried.clear();
                        continue;
                    }
                    return Err(last.expect("checked above"));
                }
                Err(no) => return Err(no.into()),
            };
            describe(facts, &endpoint);
            let policy = endpoint.policy(namespace);
            if let Some((target, TrafficPolicy { pool: ConnectionPool { max_connections: Some(most), .. }, .. })) =
                &policy
                && taken.is_none()
            {
                taken = Some(self.limits.take(pod.cookie, target, *most).ok_or(Failure::Overflow { most: *most })?);
            }
            let loaded = self.upstreams.begin(&endpoint.workload);
            let pool = policy.as_ref().map(|(_, policy)| &policy.pool);
            let failure = match self.endpoint(pod, facts, &endpoint, pool, &mut words).await {
                Ok((reached, sent)) => {
                    let governed = policy.map(|(target, policy)| {
                        Box::new(Governed { target, policy: policy.clone(), _taken: taken.take() })
                    });
                    return Ok(Way { reached, begun: words.begun(sent), _loaded: Some(loaded), governed });
                }
                Err(failure) => failure,
            };
            let again = match &failure {
                Failure::Dial(error) => error.is_failure(),
                Failure::Connect { .. } => true,
                Failure::NoRoute(_) | Failure::Overflow { .. } | Failure::NotSynced => false,
            };
            if let Some((target, policy)) = &policy
                && again
                && !starting(&failure)
            {
                self.failed(target, policy, &endpoint.workload, &snapshot);
            }
            tried.push(endpoint.workload.clone());
            if endpoint.service.is_none() && !endpoint.waypoint {
                // The application named this pod: there is no other to try, but its agent may be about to listen.
                if starting(&failure) && Instant::now() < give_up {
                    tokio::time::sleep(ENROLLING_PAUSE).await;
                    tried.clear();
                    continue;
                }
                return Err(failure);
            }
            if !again || (tried.len() >= self.config.attempts && !starting(&failure)) {
                return Err(failure);
            }
            last = Some(failure);
        }
    }

    /// Counts how a connection ended for or against its endpoint.
    fn judge(&self, governed: &Governed, live: &Live, end: &End) {
        let Some(workload) = &live.facts.destination else { return };
        match (end.reason, &*self.snapshot.borrow()) {
            (splice::DESTINATION_RESET, Some(snapshot)) => {
                self.failed(&governed.target, &governed.policy, workload, snapshot);
            }
            _ if governed.policy.outliers.is_some() => self.upstreams.succeeded(&governed.target, &workload.uid),
            _ => {}
        }
    }

    fn failed(&self, target: &Target, policy: &TrafficPolicy, workload: &Workload, snapshot: &Snapshot) {
        let Some(rule) = &policy.outliers else { return };
        let endpoints = snapshot.endpoints(&target.service).count();
        if let Some(time) = self.upstreams.failed(target, &workload.uid, rule, endpoints) {
            let (service, port) = (&target.service, target.port);
            info!(%service, port, endpoint = %workload.uid, ?time, "endpoint ejected: it failed too often in a row");
        }
    }

    /// Reaches an endpoint, within the time that its service's traffic policy gives; with how many of the first words.
    async fn endpoint(
        &self,
        pod: &Arc<Pod>,
        facts: &mut Facts,
        endpoint: &Endpoint,
        pool: Option<&ConnectionPool>,
        words: &mut FirstWords<'_>,
    ) -> Result<(Reached, usize), Failure> {
        let (reached, sent) = match pool.and_then(|pool| pool.connect_timeout) {
            None => self.carriage(pod, facts, endpoint, Some(words)).await?,
            Some(most) => {
                let late = |_| Failure::Connect { to: endpoint.target.0, source: io::ErrorKind::TimedOut.into() };
                // Given up from outside, it could not tell whether the peer has the words.
                tokio::time::timeout(most, self.carriage(pod, facts, endpoint, None)).await.map_err(late)??
            }
        };
        if let (Reached::Tcp(dialled), Some(keepalive)) = (&reached, pool.and_then(|pool| pool.keepalive)) {
            let default = socket::Keepalive::default();
            let keepalive = socket::Keepalive {
                idle: keepalive.time.unwrap_or(default.idle),
                interval: keepalive.interval.unwrap_or(default.interval),
                probes: keepalive.probes.unwrap_or(default.probes),
            };
            socket::keep_alive(&dialled.stream, keepalive)
                .map_err(|source| Failure::Connect { to: endpoint.target.0, source })?;
        }
        Ok((reached, sent))
    }

    async fn carriage(
        &self,
        pod: &Arc<Pod>,
        facts: &mut Facts,
        endpoint: &Endpoint,
        words: Option<&mut FirstWords<'_>>,
    ) -> Result<(Reached, usize), Failure> {
        match &endpoint.carriage {
            Carriage::Plain => Ok((self.plain(pod, endpoint.target.0).await?, 0)),
            Carriage::Tunnel { to, expected } => {
                facts.security = Security::MutualTls;
                facts.tunnel = Some(*to);
                let head = head(facts, endpoint);
                let words = words.map(|words| words as &mut dyn Early);
                let (reply, stream) = self.pool.open(&**pod, *to, expected, &head, words).await?;
                facts.destination_identity = Some(endpoint.workload.identity.clone());
                Ok((Reached::Tunnel(Box::new(stream)), reply.early))
            }
        }
    }

    async fn plain(&self, pod: &Pod, to: SocketAddr) -> Result<Reached, Failure> {
        let connected = socket::connect_from_pod(&pod.netns, to, self.config.connect_timeout).await;
        connected.map(Reached::Tcp).map_err(|source| Failure::Connect { to, source })
    }

    /// The newest snapshot; waits for the first. Passing a connection through before it is known whether its destination is
    /// in the mesh could put a pod's bytes on the wire unprotected.
    async fn synced(&self) -> Result<Arc<Snapshot>, Failure> {
        let mut snapshot = self.snapshot.clone();
        let first = snapshot.wait_for(Option::is_some);
        let synced = tokio::time::timeout(self.config.connect_timeout, first).await;
        synced.ok().and_then(Result::ok).and_then(|s| s.clone()).ok_or(Failure::NotSynced)
    }
}

/// Looks after how long the connection lives, until it is dropped.
fn watch(governed: &Governed, live: &Arc<Live>) -> Option<JoinSet<()>> {
    let pool = &governed.policy.pool;
    (pool.idle_timeout.is_some() || pool.max_duration.is_some()).then(|| {
        let mut watch = JoinSet::new();
        watch.spawn(limits::watch(live.clone(), pool.clone()));
        watch
    })
}

/// Pause before asking again whether a pod's agent listens.
const ENROLLING_PAUSE: Duration = Duration::from_millis(50);

fn starting(failure: &Failure) -> bool {
    matches!(failure, Failure::Dial(error) if error.is_no_listener())
}

fn describe(facts: &mut Facts, endpoint: &Endpoint) {
    facts.destination = Some(endpoint.workload.clone());
    facts.target = Some(endpoint.target);
    facts.service = endpoint.service.as_ref().map(|(service, _)| service.clone());
    facts.security = Security::None;
    facts.tunnel = None;
    facts.destination_identity = None;
}

fn head(facts: &Facts, endpoint: &Endpoint) -> Head {
    Head {
        authority: endpoint.target.to_string(),
        baggage: facts.source.as_deref().map(baggage),
        forwarded: Some(Forwarded {
            for_: facts.client.0,
            host: endpoint.service.as_ref().map(|(service, _)| service.key.hostname.to_string()),
        }),
        traceparent: Some(traceparent()),
    }
}

/// A trace of its own for each connection, not sampled (W3C Trace Context, section 3.2): what an L7 hop further on joins.
fn traceparent() -> String {
    // An all-zero id is invalid; its odds are 2^-128 and 2^-64.
    format!("00-{:032x}-{:016x}-00", rand::random::<u128>(), rand::random::<u64>())
}

/// What the other agent is told of a workload, for its telemetry.
pub fn baggage(workload: &Workload) -> Baggage {
    let some = |text: &Arc<str>| (!text.is_empty()).then(|| text.to_string());
    Baggage {
        cluster: some(&workload.cluster),
        namespace: some(&workload.namespace),
        workload: some(&workload.workload_name).map(|name| (workload.kind, name)),
        service_name: some(&workload.canonical_name),
        service_version: some(&workload.canonical_revision),
    }
}

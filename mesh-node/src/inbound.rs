//! A connection on its way in: who is it, may it, hand it over.

pub mod deliver;
pub mod service;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mesh_core::policy::{Connection, Denial, DenialReason, Evaluated, Permit, evaluate};
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::Workload;
use mesh_net::tls::{self, TrustDomains};
use mesh_net::tunnel;
use mesh_net::tunnel::server::{Connection as TunnelConnection, Request, Status};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tracing::debug;

use crate::capture::{Captured, LINGER};
use crate::connection::{Direction, End, Facts, Live, Security};
use crate::connections::{Connections, Hold};
use crate::outbound::baggage;
use crate::pod::Pod;
use crate::shares::shared;
use crate::telemetry::Telemetry;
use crate::{socket, splice};
use mesh_core::addr::{PodAddr, TunnelAddr};
use mesh_net::pool::Transport;

#[derive(Clone, Debug)]
pub struct Config {
    pub trust_domains: TrustDomains,
    pub handshake_timeout: Duration,
    /// For dialling the application.
    pub connect_timeout: Duration,
    /// How long a connection waits for a policy that its workload lists and that has not arrived: the two travel as
    /// resources of their own, and deciding without it could let in what it denies.
    pub policy_timeout: Duration,
    pub transport: Transport,
    pub tunnel: tunnel::Config,
}

impl Config {
    pub fn new(trust_domains: TrustDomains) -> Self {
        Self {
            trust_domains,
            handshake_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            policy_timeout: Duration::from_secs(2),
            transport: Transport::default(),
            tunnel: tunnel::Config::default(),
        }
    }
}

/// The inbound side of one worker.
#[derive(Clone, Debug)]
pub struct Inbound {
    pub config: Arc<Config>,
    pub snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    pub connections: Connections,
    pub telemetry: Telemetry,
    /// Turns true when the agent is to stop: peers are told to open their next connections elsewhere.
    pub draining: watch::Receiver<bool>,
}

impl Inbound {
    /// Serves one tunnel from a peer: TLS, then each connection that the peer opens over it.
    pub async fn serve_tunnel(self: Arc<Self>, captured: Captured) {
        let Captured { pod, stream, asked, client, hold, .. } = captured;
        let (tunnel, until) = match Box::pin(self.handshake(&pod, stream)).await {
            Ok(shaken) => shaken,
            Err((reason, detail)) => {
                self.telemetry.handshake_failed(Direction::Inbound, reason, &detail, client);
                return;
            }
        };
        // Either is in a box, because ten thousand of the one would each have room for the other.
        match tunnel.is_lane() {
            true => Box::pin(self.serve_lane(pod, tunnel, until, asked, client)).await,
            false => Box::pin(self.serve_streams(pod, tunnel, until, asked, client, hold)).await,
        }
    }

    /// Serves many streams at once.
    async fn serve_streams(
        self: Arc<Self>,
        pod: Arc<Pod>,
        mut tunnel: TunnelConnection,
        until: SystemTime,
        asked: SocketAddr,
        client: SocketAddr,
        hold: Hold,
    ) {
        let mut draining = self.draining.clone();
        let proven = until.duration_since(SystemTime::now()).unwrap_or_default();
        let mut expired = pin!(tokio::time::sleep(proven));
        let (mut told, mut patience) = (false, LINGER);
        loop {
            let request = tokio::select! {
                biased;
                () = leaving(&pod, &mut draining, patience), if !told => { tunnel.drain(); told = true; continue }
                // Who the peer is has been proven until now: its next connection needs a new proof.
                () = &mut expired, if !told => { tunnel.drain(); told = true; continue }
                request = tunnel.accept() => request,
            };
            patience = Duration::ZERO;
            match request {
                Some(Ok(request)) => {
                    let (this, pod, hold) = (self.clone(), pod.clone(), hold.clone());
                    tokio::spawn(shared(pod.cost.clone(), async move {
                        this.serve_request(&pod, request, asked, client, Instant::now()).await;
                        drop(hold);
                    }));
                }
                Some(Err(error)) => {
                    debug!(%client, %error, reason = error.reason(), "tunnel ended");
                    return;
                }
                None => return,
            }
        }
    }

    /// Serves one stream after the other.
    async fn serve_lane(
        self: Arc<Self>,
        pod: Arc<Pod>,
        mut lane: TunnelConnection,
        until: SystemTime,
        asked: SocketAddr,
        client: SocketAddr,
    ) {
        let mut draining = self.draining.clone();
        let mut patience = LINGER;
        loop {
            let request = tokio::select! {
                biased;
                () = leaving(&pod, &mut draining, patience) => None,
                request = lane.accept() => Some(request),
            };
            patience = Duration::ZERO;
            let Some(request) = request else { return close(lane).await };
            match request {
                // Who the peer is has been proven until then: its next connection needs a new proof.
                Some(Ok(request)) if until <= SystemTime::now() => return request.decline(),
                Some(Ok(request)) => {
                    self.serve_request(&pod, request, asked, client, Instant::now()).await;
                }
                Some(Err(error)) => {
                    debug!(%client, %error, reason = error.reason(), "tunnel ended");
                    return;
                }
                None => return,
            }
        }
    }

    /// A tunnel, and until when the certificates are valid by which both ends proved who they are.
    async fn handshake(
        &self,
        pod: &Pod,
        tcp: TcpStream,
    ) -> Result<(TunnelConnection, SystemTime), (&'static str, String)> {
        pod.pacing.settle(&tcp);
        let timeout = self.config.handshake_timeout;
        let credentials = pod
            .certificate
            .ready(tokio::time::Instant::now() + timeout)
            .await
            .map_err(|error| ("no_certificate", error.to_string()))?;
        let tls = tls::accept(tcp, &credentials, &self.config.trust_domains, self.config.transport.alpn(), timeout)
            .await
            .map_err(|error| (error.reason(), error.to_string()))?;
        let until = tls.peer_until().min(credentials.svid().not_after);
        let tunnel = TunnelConnection::handshake(tls, &self.config.tunnel)
            .await
            .map_err(|error| (error.reason(), error.to_string()))?;
        Ok((tunnel, until))
    }

    async fn serve_request(&self, pod: &Pod, request: Request, hbone: SocketAddr, client: SocketAddr, at: Instant) {
        let asked: Option<SocketAddr> = request.head().authority.parse().ok();
        let mut facts = Facts::new(Direction::Inbound, claimed_client(&request, client), asked.unwrap_or(hbone));
        facts.pod = Some(pod.cookie);
        facts.security = Security::MutualTls;
        facts.tunnel = Some(TunnelAddr::new(hbone));
        facts.source_identity = Some(request.peer().clone());
        let Some(target) = asked.filter(|a| pod.owns(a.ip())) else {
            let detail = format!("authority {:?} is no address of pod {}", request.head().authority, pod.name);
            self.connections.refuse(facts, at, End::because("wrong_authority", detail));
            return request.refuse(Status::BadRequest);
        };
        let named = request.head().forwarded.as_ref().and_then(|forwarded| forwarded.host.as_deref());
        match Box::pin(self.admit(pod, &mut facts, client, target, named)).await {
            Ok((permit, snapshot)) => {
                let app = match deliver::dial(permit, pod, client.ip(), target, self.config.connect_timeout).await {
                    Ok(app) => app,
                    Err(error) => {
                        self.connections.refuse(facts, at, error.end());
                        return request.refuse(Status::Unavailable);
                    }
                };
                let reply = facts.destination.as_deref().map(baggage);
                let open = self.connections.open(facts, at);
                if let Some(end) = self.changed_since(&snapshot, open.live()) {
                    open.finish(end);
                    socket::reset(app.stream);
                    return request.refuse(Status::Denied);
                }
                let end = match request.accept(reply.as_ref()) {
                    Ok(stream) => splice::from_tunnel(stream, app, open.live()).await,
                    Err(error) => {
                        socket::reset(app.stream);
                        End::because("client_reset", error)
                    }
                };
                open.finish(end);
            }
            Err(refusal) => {
                let status = refusal.status;
                self.connections.refuse(facts, at, refusal.end);
                request.refuse(status);
            }
        }
    }

    /// Serves a connection that reached the pod without a tunnel.
    pub async fn serve_plaintext(self: Arc<Self>, captured: Captured, from_node: bool) {
        let Captured { pod, stream, asked, client, at, hold: _hold } = captured;
        let mut facts = Facts::new(Direction::Inbound, client, asked);
        facts.pod = Some(pod.cookie);
        facts.from_node = from_node;
        match Box::pin(self.admit(&pod, &mut facts, client, asked, None)).await {
            Ok((permit, snapshot)) => {
                match deliver::dial(permit, &pod, client.ip(), asked, self.config.connect_timeout).await {
                    Ok(app) => {
                        let open = self.connections.open(facts, at);
                        if let Some(end) = self.changed_since(&snapshot, open.live()) {
                            socket::reset(stream);
                            socket::reset(app.stream);
                            return open.finish(end);
                        }
                        let end = splice::relay(stream, splice::Begun::default(), app, open.live()).await;
                        open.finish(end);
                    }
                    Err(error) => {
                        self.connections.refuse(facts, at, error.end());
                        socket::reset(stream);
                    }
                }
            }
            Err(refusal) => {
                self.connections.refuse(facts, at, refusal.end);
                socket::reset(stream);
            }
        }
    }

    /// Decides on a connection with the newest snapshot; `named` is the service that the peer says it asked for.
    async fn admit(
        &self,
        pod: &Pod,
        facts: &mut Facts,
        client: SocketAddr,
        target: SocketAddr,
        named: Option<&str>,
    ) -> Result<(Permit, Arc<Snapshot>), Refusal> {
        facts.target = Some(PodAddr::new(target));
        let snapshot = self.settled(pod).await?;
        let Some(workload) = snapshot.workload(&pod.workload) else {
            return Err(Refusal::unavailable("unknown_workload", "the control plane does not know this pod"));
        };
        facts.destination = Some(workload.clone());
        facts.destination_identity = Some(pod.identity.clone());
        facts.source = peer_workload(&snapshot, workload, facts, client);
        facts.service = service::asked(&snapshot, workload, target.port(), named);
        facts.named = named.and_then(|named| service::named(workload, named));
        let evaluated = decide(&snapshot, workload, facts, client, target);
        self.record(&evaluated, facts);
        match evaluated.verdict {
            Ok(permit) => {
                facts.policy = permit.policy().cloned();
                Ok((permit, snapshot))
            }
            Err(denial) => Err(Refusal::denied(&denial)),
        }
    }

    /// The newest snapshot in which nothing is missing that this pod's workload lists.
    async fn settled(&self, pod: &Pod) -> Result<Arc<Snapshot>, Refusal> {
        let complete = |s: &Option<Arc<Snapshot>>| {
            s.as_ref().is_some_and(|s| s.workload(&pod.workload).is_none_or(|w| s.missing_policies(w).next().is_none()))
        };
        let mut snapshot = self.snapshot.clone();
        let settled = tokio::time::timeout(self.config.policy_timeout, snapshot.wait_for(complete)).await;
        match settled {
            Ok(Ok(snapshot)) => Ok(snapshot.clone().expect("complete only when there is one")),
            _ if self.snapshot.borrow().is_none() => Err(Refusal::unavailable(
                "not_synced",
                "the control plane has not been heard of since the agent started",
            )),
            _ => Err(Refusal {
                end: End::because("policy_missing", "a policy that selects this pod has not arrived"),
                status: Status::Denied,
            }),
        }
    }

    /// The world may have changed while the application was dialled, before the connection was on record.
    fn changed_since(&self, decided_on: &Arc<Snapshot>, live: &Live) -> Option<End> {
        let newest = self.snapshot.borrow().clone()?;
        if Arc::ptr_eq(&newest, decided_on) { None } else { revoked(&newest, &live.facts) }
    }

    fn record(&self, evaluated: &Evaluated, facts: &Facts) {
        for policy in &evaluated.audited {
            tracing::info!(target: "audit", %policy, client = %facts.client, identity = ?facts.source_identity, "audited");
            self.telemetry.recorded("audit", policy.to_string());
        }
        match &evaluated.dry_run {
            Some(Err(denial)) => {
                tracing::info!(target: "audit", client = %facts.client, identity = ?facts.source_identity, "dry run: would be {denial}");
                let policy = denial.policy.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
                self.telemetry.recorded("dry_run_deny", policy);
            }
            Some(Ok(policy)) => {
                let policy = policy.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
                tracing::info!(target: "audit", client = %facts.client, identity = ?facts.source_identity, policy, "dry run: would be allowed");
                self.telemetry.recorded("dry_run_allow", policy);
            }
            None => {}
        }
    }
}

/// Resolves once no further stream is to be taken, because the pod has left the mesh or this agent is to stop; `patience` later for a tunnel that
/// has not carried any. A peer that dialled before it could know of that asks for its first stream in this time, and to send
/// that one away would fail a connection: there is nowhere else to ask.
async fn leaving(pod: &Pod, draining: &mut watch::Receiver<bool>, patience: Duration) {
    tokio::select! {
        () = pod.withdrawn() => {}
        _ = draining.wait_for(|d| *d) => {}
    }
    if !patience.is_zero() {
        tokio::time::sleep(patience).await;
    }
}

/// Tells the peer of a free lane that no further stream is taken.
async fn close(mut lane: TunnelConnection) {
    lane.drain();
    let _ = lane.accept().await;
}

/// Why a connection was turned away, and what a peer is told.
struct Refusal {
    end: End,
    status: Status,
}

impl Refusal {
    fn denied(denial: &Denial) -> Self {
        Self { end: End::denied(denial), status: Status::Denied }
    }

    fn unavailable(reason: &'static str, detail: &str) -> Self {
        Self { end: End::because(reason, detail), status: Status::Unavailable }
    }
}

/// What policy says of a connection to `workload`.
pub fn decide(
    snapshot: &Snapshot,
    workload: &Workload,
    facts: &Facts,
    client: SocketAddr,
    target: SocketAddr,
) -> Evaluated {
    let connection = Connection {
        source: facts.source_identity.as_ref(),
        source_ip: client.ip(),
        destination_ip: target.ip(),
        destination_port: target.port(),
        from_node: facts.from_node,
        way: snapshot.way(workload, facts.source_identity.as_ref(), facts.named.as_ref()),
    };
    evaluate(snapshot.policies_for(workload), &connection)
}

/// Why an inbound connection that lives would be refused today. A policy still on its way decides nothing: neither what it
/// would deny, nor that no ALLOW matches. A waypoint that came after it is no reason.
pub fn revoked(snapshot: &Snapshot, facts: &Facts) -> Option<End> {
    if facts.direction != Direction::Inbound {
        return None;
    }
    let (destination, target) = (facts.destination.as_ref()?, facts.target?);
    let workload = snapshot.workload(&destination.uid)?;
    let denial = decide(snapshot, workload, facts, facts.client.0, target.0).verdict.err()?;
    let spared = match denial.reason {
        DenialReason::DenyPolicy => false,
        DenialReason::NoAllowPolicy => snapshot.missing_policies(workload).next().is_some(),
        // It is older than the waypoint.
        DenialReason::WaypointRequired => true,
    };
    (!spared).then(|| End::denied(&denial))
}

/// The peer's workload: by its address, believed only if it has the identity that the peer proved.
pub fn peer_workload(snapshot: &Snapshot, own: &Workload, facts: &Facts, client: SocketAddr) -> Option<Arc<Workload>> {
    let mut at = snapshot.workloads_at(&own.network, client.ip());
    match &facts.source_identity {
        Some(identity) => at.find(|w| w.identity == *identity).cloned(),
        None => at.find(|w| !w.host_network).cloned(),
    }
}

/// The port of the client's own connection, if the peer tells it and is on the client's address; else the tunnel's end. A
/// peer's word on another address is not taken.
fn claimed_client(request: &Request, peer: SocketAddr) -> SocketAddr {
    match &request.head().forwarded {
        Some(forwarded) if forwarded.for_.ip().to_canonical() == peer.ip().to_canonical() => forwarded.for_,
        _ => peer,
    }
}

#[cfg(test)]
mod tests;

//! Where streams are carried: a few threads, each with a runtime, a listener, tunnels and connections of its own.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{io, thread};

use mesh_core::l7::WaypointKey;
use mesh_net::pool::Transport;
use mesh_net::tls::{self, TrustDomains};
use mesh_net::tunnel;
use mesh_net::tunnel::server::{Connection, Request, Status};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tracing::{debug, error, warn};

use crate::asked;
use crate::client::Client;
use crate::dial::Own;
use crate::io::Carried;
use crate::outbox;
use crate::overload::Level;
use crate::session::{Session, Shared};
use crate::world::World;

#[derive(Clone, Debug)]
pub struct Config {
    pub gateway: WaypointKey,
    pub network: Arc<str>,
    pub trust_domains: TrustDomains,
    pub transport: Transport,
    pub tunnel: tunnel::Config,
    pub handshake_timeout: Duration,
    /// How long a stream waits for the model of what it asks for: addresses and models travel apart.
    pub model_timeout: Duration,
}

/// How often connections without use are looked for.
const SWEEP: Duration = Duration::from_secs(15);
/// Pause after an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(50);

/// Carries what one listener takes.
#[derive(Clone)]
pub struct Worker {
    pub config: Arc<Config>,
    pub own: Arc<Own>,
    pub shared: Shared,
    /// Of the process.
    pub level: watch::Receiver<Level>,
}

/// A listener that shares its address with those of other workers: the kernel spreads connections over them.
///
/// # Errors
/// Of the kernel.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

impl Worker {
    /// Starts a worker's thread. `make` is called on it, for what must not be shared.
    ///
    /// # Errors
    /// The process may have no more threads or descriptors.
    pub fn start(
        index: usize,
        listener: std::net::TcpListener,
        make: impl FnOnce() -> Worker + Send + 'static,
    ) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            runtime.block_on(async {
                let worker = make();
                match TcpListener::from_std(listener) {
                    Ok(listener) => worker.run(listener).await,
                    Err(error) => error!(%error, "a listener cannot be used"),
                }
            });
        })?;
        Ok(())
    }

    async fn run(mut self, listener: TcpListener) {
        let mut sweep = tokio::time::interval(SWEEP);
        self.adapt();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => drop(tokio::spawn(self.clone().tunnel(stream, peer))),
                    Err(error) => {
                        warn!(%error, "accept");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                _ = sweep.tick() => self.shared.upstreams.sweep(Duration::from_secs(3600)),
                Ok(()) = self.level.changed() => self.adapt(),
            }
        }
    }

    /// To how much memory there is.
    fn adapt(&mut self) {
        let level = *self.level.borrow_and_update();
        self.shared.overload.set(level);
        let is_tight = level >= Level::Tight;
        outbox::read_ahead(!is_tight);
        if is_tight {
            self.shared.upstreams.sweep(Duration::ZERO);
        }
    }

    async fn tunnel(self, stream: TcpStream, peer: SocketAddr) {
        let (mut tunnel, until) = match Box::pin(self.handshake(stream)).await {
            Ok(shaken) => shaken,
            Err((reason, detail)) => return self.shared.telemetry.handshake_failed(reason, &detail, peer),
        };
        let is_lane = tunnel.is_lane();
        let mut draining = self.shared.draining.clone();
        let proven = until.duration_since(SystemTime::now()).unwrap_or_default();
        let mut expired = pin!(tokio::time::sleep(proven));
        let mut told = false;
        loop {
            let request = tokio::select! {
                biased;
                _ = draining.wait_for(|d| *d), if !told => { tunnel.drain(); told = true; continue }
                // Who the peer is has been proven until now: its next stream needs a new proof.
                () = &mut expired, if !told => { tunnel.drain(); told = true; continue }
                request = tunnel.accept() => request,
            };
            match request {
                Some(Ok(request)) if is_lane => self.clone().stream(request, peer).await,
                Some(Ok(request)) => drop(tokio::spawn(self.clone().stream(request, peer))),
                Some(Err(error)) => {
                    debug!(%peer, %error, reason = error.reason(), "tunnel ended");
                    return;
                }
                None => return,
            }
        }
    }

    async fn handshake(&self, tcp: TcpStream) -> Result<(Connection, SystemTime), (&'static str, String)> {
        let Config { handshake_timeout, trust_domains, transport, tunnel, .. } = &*self.config;
        // It fails only for a socket that is gone already, which the handshake will tell.
        let _ = tcp.set_nodelay(true);
        let credentials = self
            .own
            .certificate
            .ready(tokio::time::Instant::now() + *handshake_timeout)
            .await
            .map_err(|error| ("no_certificate", error.to_string()))?;
        let tls = tls::accept(tcp, &credentials, trust_domains, transport.alpn(), *handshake_timeout)
            .await
            .map_err(|error| (error.reason(), error.to_string()))?;
        let until = tls.peer_until().min(credentials.svid().not_after);
        let tunnel = Connection::handshake(tls, tunnel).await.map_err(|error| (error.reason(), error.to_string()))?;
        Ok((tunnel, until))
    }

    async fn stream(self, request: Request, peer: SocketAddr) {
        let Config { gateway, network, .. } = &*self.config;
        let world = self.world().await;
        let client = Client::new(&world.snapshot, network, &request, peer);
        let authority = request.head().authority.clone();
        let refuse = |reason, detail: String, status, request: Request| {
            self.shared.telemetry.stream_refused(reason, &detail, &client);
            request.refuse(status);
        };
        let asked = match asked::asked(&world.snapshot, network, gateway, &authority) {
            Ok(asked) => asked,
            Err(not) => return refuse(not.reason(), format!("{authority}: {not}"), Status::BadRequest, request),
        };
        let taken = self.shared.overload.party(&client.identity).stream();
        let _taken = match taken {
            Ok(taken) => taken,
            Err(shed) => {
                let detail = format!("{authority}: {shed}");
                return refuse("overload", detail, Status::Unavailable, request);
            }
        };
        let model = tokio::time::timeout(self.config.model_timeout, self.with_model(&asked)).await;
        let Ok(world) = model else {
            let detail = format!("{authority}: the control plane has not told what is to be done with it");
            return refuse("no_model", detail, Status::Unavailable, request);
        };
        if let Some(service) = asked.service(&world.snapshot)
            && service.port(asked.address.port()).is_none()
        {
            let detail = format!("{authority}: {} has no such port", service.key);
            return refuse("no_such_port", detail, Status::Unavailable, request);
        }
        match request.accept(None) {
            Ok(stream) => {
                Session::new(self.shared.clone(), client, asked).serve(Carried::from(stream)).await;
            }
            Err(error) => debug!(%peer, %error, "stream given up"),
        }
    }

    /// The newest state; waits for the first.
    async fn world(&self) -> Arc<World> {
        let mut world = self.shared.world.clone();
        let first = tokio::time::timeout(self.config.model_timeout, world.wait_for(Option::is_some)).await;
        first.ok().and_then(Result::ok).and_then(|world| world.clone()).unwrap_or_default()
    }

    async fn with_model(&self, asked: &asked::Asked) -> Arc<World> {
        let mut world = self.shared.world.clone();
        let target = asked.target();
        let has = |world: &Option<Arc<World>>| world.as_ref().is_some_and(|w| w.compiled(&target).is_some());
        let found = world.wait_for(has).await.map(|world| world.clone());
        match found {
            Ok(world) => world.unwrap_or_default(),
            // The process is about to end.
            Err(_) => std::future::pending().await,
        }
    }
}

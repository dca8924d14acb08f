//! Puts the parts together: source -> index -> store -> agents, each in a task of its own.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ::kube::Client;
use ::kube::client::ClientBuilder;
use mesh_net::admin;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tracing::{error, info, warn};

use crate::access::{Access, Carriers, Reviews};
use crate::admission::{self, Webhook};
use crate::ads::{Ads, Agents};
use crate::apiserver::{self, ConnectError};
use crate::authority::cluster::ShareError;
use crate::authority::service::{Certificates, Residence, Residents};
use crate::authority::serving::{self, ServingError};
use crate::authority::{self, Authority, FilesError, Telemetry};
use crate::debug::{self, LogLevel, Views};
use crate::distribution::exchange::Exchange;
use crate::distribution::{Marks, Seen, heads};
use crate::index::Index;
use crate::instances::{self, Reconciler};
use crate::leader::{Candidate, Leadership};
use crate::settings::{Callers, Settings, Source};
use crate::source::{Event, dir, kube};
use crate::status::{self, Writer};
use crate::store::World;

#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Serving(#[from] ServingError),
    #[error("credentials for the Kubernetes API: {0}")]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Share(#[from] ShareError),
    #[error("callers' tokens can be reviewed only with --source kube; otherwise --tokens is needed")]
    NoCluster,
    #[error("listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
}

/// Name of the Lease that the controller which writes holds.
const LEASE: &str = "weft-controller";
/// Batches of events that may wait for the index.
const EVENT_QUEUE: usize = 16;
/// Events that are worked on at once, if so many have come.
const MAX_BATCH: usize = 1000;
/// Streams that one connection may have open; an agent uses one, and one for each certificate under way.
const MAX_STREAMS: u32 = 128;
/// Bytes that one connection may send before they are read. Requests are small, but for those of agents that come all at once and name
/// everything that they hold.
const WINDOW: u32 = 64 << 10;

/// A controller that serves.
pub struct App {
    pub control: SocketAddr,
    pub monitoring: SocketAddr,
    drain: Duration,
    stopping: watch::Sender<bool>,
    server: tokio::task::JoinHandle<()>,
    /// Source, index, serving certificate, monitoring; they end with the app.
    tasks: JoinSet<()>,
    /// What ends by itself when the app stops, and is waited for.
    closing: JoinSet<()>,
    /// Shows the serving certificate, the current one at any time.
    tls: Arc<ServerConfig>,
    index: Arc<Mutex<Index>>,
    agents: Arc<Agents>,
    /// Where in the logs what was last said of objects is.
    marks: Arc<Mutex<Marks>>,
    /// Tells when what is told of objects may have changed.
    stirred: watch::Receiver<()>,
}

impl App {
    /// Starts with the source that the settings name.
    ///
    /// # Errors
    /// The authority's files are wrong, or an address is taken.
    pub async fn start(settings: Settings, log_level: LogLevel) -> Result<Self, StartError> {
        match settings.source.clone() {
            Source::Folder(path) => Self::start_in_folder(settings, path, log_level),
            Source::Kubernetes { kubeconfig } => {
                let server = apiserver::config(kubeconfig.as_deref()).await?;
                Self::start_in_cluster(settings, server, log_level).await
            }
        }
    }

    /// Starts with events from elsewhere.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(
        settings: Settings,
        events: mpsc::Receiver<Vec<Event>>,
        log_level: LogLevel,
    ) -> Result<Self, StartError> {
        let authority = Arc::new(Authority::open(settings.authority.clone(), SystemTime::now())?);
        Self::assemble(settings, authority, None, events, log_level, Registry::default())
    }

    fn start_in_folder(settings: Settings, path: PathBuf, log_level: LogLevel) -> Result<Self, StartError> {
        let (sender, events) = mpsc::channel(EVENT_QUEUE);
        let remember = Some(settings.authority.state_dir.join("last-good"));
        let authority = Arc::new(Authority::open(settings.authority.clone(), SystemTime::now())?);
        let mut app = Self::assemble(settings, authority.clone(), None, events, log_level, Registry::default())?;
        app.tasks.spawn(authority::reread(authority));
        app.tasks.spawn(async move {
            match dir::watch(dir::Config { remember, ..dir::Config::new(path) }, sender).await {
                Ok(()) => warn!("the source ended"),
                Err(error) => error!(%error, "the source failed; what was read stays in force"),
            }
        });
        Ok(app)
    }

    async fn start_in_cluster(
        settings: Settings,
        server: ::kube::Config,
        log_level: LogLevel,
    ) -> Result<Self, StartError> {
        let (sender, events) = mpsc::channel(EVENT_QUEUE);
        let mut registry = Registry::default();
        let (hearing, leadership) = (kube::Hearing::default(), Leadership::none());
        hearing.register(&mut registry);
        registry.register_collector(Box::new(leadership.clone()));
        let webhook = Webhook::default();
        webhook.register(&mut registry);
        let (instances, statuses) = (instances::Writes::default(), status::Writes::default());
        instances.register(&mut registry);
        statuses.register(&mut registry);
        let (waypoints, elsewhere) = (settings.waypoints.clone(), settings.elsewhere.clone());
        let client = Client::try_from(server.clone()).map_err(ConnectError::from)?;
        // For all that the leader writes: another one leads as soon as this one does not.
        let writing = ClientBuilder::try_from(server.clone()).map_err(ConnectError::from)?;
        let writing = writing.with_layer(&leadership).build();
        let (namespace, webhook_listen) = (settings.namespace.clone(), settings.webhook);
        let config = settings.authority.clone();
        // A plugged-in authority's files are the same for all replicas by themselves.
        let is_shared = config.plugged_in.is_none();
        let authority = Arc::new(match is_shared {
            true => authority::cluster::share(&client, &namespace, config).await?,
            false => Authority::open(config, SystemTime::now())?,
        });
        let mut app = Self::assemble(settings, authority.clone(), Some(client.clone()), events, log_level, registry)?;
        let source = kube::watch(server, kube::Pace::default(), hearing, sender).map_err(ConnectError::from)?;
        app.tasks.spawn(source);
        let reviews = listen(webhook_listen)?;
        info!(webhook = %local(&reviews, webhook_listen), "admission webhook started");
        let trusted = webhook.trusted();
        app.tasks.spawn(webhook.serve(reviews, app.tls.clone()));

        let (leads, led) = watch::channel(false);
        let identity = identity();
        let exchange = Exchange {
            client: client.clone(),
            namespace: namespace.clone(),
            identity: identity.clone(),
            marks: app.marks.clone(),
            agents: app.agents.clone(),
        };
        let candidate = Candidate::new(client.clone(), &namespace, LEASE, identity, leadership);
        app.closing.spawn(candidate.run(leads, app.stopping.subscribe()));
        app.tasks.spawn(admission::keep(writing.clone(), authority.roots(), trusted, led.clone()));
        let (home, roots) = (namespace.clone(), authority.roots());
        app.tasks.spawn(authority::cluster::publish(writing.clone(), home, roots, led.clone()));
        let roots = authority.roots();
        match is_shared {
            true => {
                let leads = led.clone();
                app.tasks.spawn(authority::cluster::follow(client, writing.clone(), namespace, authority, leads));
            }
            false => drop(app.tasks.spawn(authority::reread(authority))),
        }
        let (tell, told) = watch::channel(Arc::default());
        app.closing.spawn(exchange.run(led.clone(), tell, app.stopping.subscribe()));
        let (index, stirred) = (app.index.clone(), app.stirred.clone());
        let elsewhere = match elsewhere {
            Some(elsewhere) => {
                let (roots, follow) = authority::elsewhere::roots(elsewhere.roots.clone())?;
                app.tasks.spawn(follow);
                Some((elsewhere, roots))
            }
            None => None,
        };
        let reconciler = Reconciler::new(writing.clone(), index.clone(), waypoints, roots, elsewhere, instances);
        let writer = Writer::new(writing, index, reconciler.outcomes(), told, statuses);
        app.tasks.spawn(reconciler.run(led.clone(), stirred.clone()));
        app.tasks.spawn(writer.run(led, stirred));
        Ok(app)
    }

    fn assemble(
        settings: Settings,
        authority: Arc<Authority>,
        cluster: Option<Client>,
        events: mpsc::Receiver<Vec<Event>>,
        log_level: LogLevel,
        mut registry: Registry,
    ) -> Result<Self, StartError> {
        let index = Arc::new(Mutex::new(Index::new(settings.index)));
        let access = match (settings.access, cluster) {
            (Callers::Tokens(tokens), _) => Access::tokens(tokens),
            (Callers::Accounts(accounts), Some(cluster)) => {
                Access::reviews(Reviews::new(cluster, accounts), carriers(index.clone()))
            }
            (Callers::Accounts(_), None) => return Err(StartError::NoCluster),
        };
        let mut tasks = JoinSet::new();
        registry.register_collector(Box::new(Telemetry(authority.clone())));
        let (tls, renew) = serving::tls(authority.clone(), settings.server_names)?;
        let control = listen(settings.listen)?;
        let monitoring = listen(settings.monitoring)?;

        let (publish, worlds) = watch::channel(Arc::new(World::default()));
        let (stopping, stop) = watch::channel(false);
        let gauges = Gauges::register(&mut registry);
        let feeding = index.clone();
        let (stir, stirred) = watch::channel(());
        let marks = Arc::new(Mutex::new(Marks::default()));
        let marking = marks.clone();
        // On the blocking pool: the first batch of a large mesh is seconds of work.
        tasks.spawn_blocking(move || feed(events, &feeding, &publish, &stir, &gauges, &marking));

        let access = Arc::new(access);
        let agents = Arc::new(Agents::default());
        let ads = Ads::new(worlds.clone(), access.clone(), agents.clone(), stop.clone());
        let elsewhere = settings.elsewhere.as_ref().map(|elsewhere| &*elsewhere.address);
        let certificates = Certificates::new(authority.clone(), access.clone(), residents(index.clone()));
        let certificates = certificates.elsewhere(elsewhere);
        access.register(&mut registry);
        ads.register(&mut registry);
        certificates.register(&mut registry);

        tasks.spawn(renew);
        let addresses = (local(&control, settings.listen), local(&monitoring, settings.monitoring));
        let views = Views {
            worlds,
            stopping: stop.clone(),
            agents: agents.clone(),
            index: index.clone(),
            certificates: certificates.clone(),
            authority,
            registry,
            log_level,
        };
        let pages = admin::serve(monitoring, debug::router(views));
        tasks.spawn(async move {
            let never: Infallible = pages.await;
            match never {}
        });

        let (ready, connections) = mpsc::channel(16);
        tasks.spawn(serving::accept(control, tls.clone(), ready));
        let server = Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .add_service(ads.into_service())
            .add_service(certificates.into_service());
        let mut stop = stop;
        let server = tokio::spawn(async move {
            let stopped = async move {
                let _ = stop.wait_for(|stop| *stop).await;
            };
            if let Err(error) = server.serve_with_incoming_shutdown(ReceiverStream::new(connections), stopped).await {
                error!(%error, "the control server failed");
            }
        });
        let (control, monitoring) = addresses;
        info!(%control, %monitoring, "controller started");
        let (drain, closing) = (settings.drain, JoinSet::new());
        Ok(Self { control, monitoring, drain, stopping, server, tasks, closing, tls, index, agents, marks, stirred })
    }

    /// Serves until `stop`, then lets agents go: their streams end with a status that sends them elsewhere.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = stop => {}
            _ = &mut self.server => {
                error!("the control server ended");
                return;
            }
        }
        info!("stopping");
        self.stopping.send_replace(true);
        if tokio::time::timeout(self.drain, &mut self.server).await.is_err() {
            warn!(after = ?self.drain, "connections are still open");
            self.server.abort();
        }
        if tokio::time::timeout(self.drain, async { while self.closing.join_next().await.is_some() {} }).await.is_err()
        {
            warn!(after = ?self.drain, "the Lease is not given back");
        }
        self.tasks.abort_all();
    }
}

/// Applies each batch of events whole, and publishes what came of it.
fn feed(
    mut events: mpsc::Receiver<Vec<Event>>,
    index: &Mutex<Index>,
    publish: &watch::Sender<Arc<World>>,
    stir: &watch::Sender<()>,
    gauges: &Gauges,
    marks: &Mutex<Marks>,
) {
    let mut world = World::default();
    while let Some(mut batch) = events.blocking_recv() {
        // What came while the last one was worked on.
        while batch.len() < MAX_BATCH
            && let Ok(more) = events.try_recv()
        {
            batch.extend(more);
        }
        let seen = Seen::of(&batch);
        let (changes, synced, stirred, findings) = {
            let mut index = index.lock().unwrap_or_else(|e| e.into_inner());
            let changes = index.apply(batch);
            let stirred = index.take_stirred();
            // Findings never change without stirring, and to count them is to go through all of the mesh.
            (changes, index.is_synced(), stirred, stirred.then(|| index.findings().len()))
        };
        if stirred {
            stir.send_replace(());
        }
        let changed = world.apply(changes);
        // Before anybody can be told of it.
        marks.lock().unwrap_or_else(|e| e.into_inner()).note(seen, heads(&world));
        if let Some(findings) = findings {
            gauges.findings.set(i64::try_from(findings).unwrap_or(i64::MAX));
        }
        if changed || world.synced != synced {
            world.synced = synced;
            gauges.addresses.set(i64::try_from(world.of(mesh_net::control::Kind::Address).len()).unwrap_or(i64::MAX));
            gauges
                .policies
                .set(i64::try_from(world.of(mesh_net::control::Kind::Authorization).len()).unwrap_or(i64::MAX));
            publish.send_replace(Arc::new(world.clone()));
        }
    }
}

#[derive(Clone, Default)]
struct Gauges {
    findings: Gauge,
    addresses: Gauge,
    policies: Gauge,
}

impl Gauges {
    fn register(registry: &mut Registry) -> Self {
        let gauges = Self::default();
        registry.register("weft_findings", "What is wrong in the source", gauges.findings.clone());
        registry.register("weft_addresses", "Workloads and services", gauges.addresses.clone());
        registry.register("weft_policies", "Policies", gauges.policies.clone());
        gauges
    }
}

/// Another one in each process, also when a pod's container starts anew.
fn identity() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "controller".to_owned());
    format!("{host}_{:08x}", rand::random::<u32>())
}

fn carriers(index: Arc<Mutex<Index>>) -> Carriers {
    Arc::new(move |bearer| {
        let index = index.lock().unwrap_or_else(|e| e.into_inner());
        let account = &bearer.account;
        index.is_synced().then(|| index.is_waypoint(account.namespace(), &bearer.pod, &bearer.uid, account.name()))
    })
}

fn residents(index: Arc<Mutex<Index>>) -> Residents {
    Arc::new(move |node, identity| {
        let index = index.lock().unwrap_or_else(|e| e.into_inner());
        if !index.is_synced() {
            Residence::Unknown
        } else if index.identities_on_node(node).contains(identity) {
            Residence::Resident
        } else {
            Residence::Elsewhere
        }
    })
}

/// Listens; `[::]` takes IPv4 too, and where the machine has no IPv6 it is 0.0.0.0.
fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let open = |address: SocketAddr| -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        TcpListener::from_std(socket.into())
    };
    let opened = match open(address) {
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && no_ipv6(&error) => {
            open(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
        }
        opened => opened,
    };
    opened.map_err(|source| StartError::Listen { address, source })
}

fn no_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT, EADDRNOTAVAIL
    matches!(error.raw_os_error(), Some(97 | 99))
}

fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

#[cfg(test)]
mod tests;

//! The waypoint's library behind plain listeners and behind its tunnels: what `hop` is.
//!
//! Everything after `accept` is the product's, as [`mesh_waypoint::app`] puts it together. Plain listeners stand in for tunnels
//! whose cost is not to be measured; models come from a file in place of a control stream, anew at SIGHUP.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_core::addr::NetworkAddress;
use mesh_core::l7::Layer7;
use mesh_core::workload::Uid;
use mesh_net::logging::line::Form;
use mesh_net::pool::{self, Pool, Transport};
use mesh_net::tls::TrustDomains;
use mesh_net::tunnel;
use mesh_waypoint::asked::{Asked, Of};
use mesh_waypoint::client::Client;
use mesh_waypoint::dial::{Dialler, Own};
use mesh_waypoint::engine::experience::Experiences;
use mesh_waypoint::engine::limits::Breakers;
use mesh_waypoint::overload::{self, Bounds, Overload};
use mesh_waypoint::session::{Session, Shared};
use mesh_waypoint::telemetry::trace::Tracer;
use mesh_waypoint::telemetry::{AccessLog, Telemetry};
use mesh_waypoint::upstream::Upstreams;
use mesh_waypoint::worker::{self, Worker};
use mesh_waypoint::world::World;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::address::{CLIENT, Door, Role, SERVICE, TRUST_DOMAIN, TUNNEL};
use super::authority::Authority;
use super::model;

/// What `hop` is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Hop {
    /// The address of its own
    #[arg(long)]
    ip: IpAddr,
    /// A list of models, JSON; read again at SIGHUP
    #[arg(long)]
    models: PathBuf,
    /// Where the authority's files are
    #[arg(long)]
    certificates: PathBuf,
}

/// Serves until it is ended.
///
/// # Errors
/// When a file cannot be read or a port not be had.
pub async fn run(hop: Hop) -> Result<()> {
    let mut again = signal(SignalKind::hangup())?;
    let uid = Uid("".into());
    let (publish, world) = watch::channel(Some(Arc::new(read(&hop.models, &World::default(), &uid)?)));
    let (_drain, draining) = watch::channel(false);
    let lease = Authority::read(&hop.certificates)?.lease(Role::Proxy);
    let own = Arc::new(Own { identity: Role::Proxy.identity(), certificate: lease });
    let config = Arc::new(worker::Config {
        gateway: model::gateway(),
        network: "".into(),
        trust_domains: TrustDomains::only(TRUST_DOMAIN),
        transport: Transport::Any,
        tunnel: tunnel::Config::default(),
        handshake_timeout: Duration::from_secs(10),
        model_timeout: Duration::from_secs(2),
    });
    let telemetry = Telemetry::default();
    let access_log = AccessLog::start(Form::Text)?;
    let (experiences, breakers) = (Arc::new(Experiences::default()), Arc::new(Breakers::default()));
    let memory = overload::limit();
    let level = overload::follow(memory);
    let make = move || {
        let upstreams = Upstreams::new(Dialler { own: own.clone(), pool: Pool::new(pool::Config::default()) });
        let overload = Overload::new(Bounds::of(memory.unwrap_or(u64::MAX), 1));
        let shared = Shared {
            telemetry: telemetry.worker(Some(access_log.worker()), Tracer::default()),
            experiences: experiences.clone(),
            breakers: breakers.clone(),
            ..Shared::new(world.clone(), draining.clone(), upstreams, overload)
        };
        Worker { shared, config: config.clone(), own: own.clone(), level: level.clone() }
    };
    Worker::start(0, worker::listen(SocketAddr::new(hop.ip, TUNNEL))?, make.clone())?;
    for door in Door::ALL.into_iter().filter(|door| !door.tls) {
        let listener = worker::listen(SocketAddr::new(hop.ip, door.proxy()))?;
        plain(door, listener, make.clone())?;
    }
    while again.recv().await.is_some() {
        let before = publish.borrow().clone().unwrap_or_default();
        publish.send_replace(Some(Arc::new(read(&hop.models, &before, &uid)?)));
    }
    Ok(())
}

/// The next state, with what the file says.
fn read(models: &Path, before: &World, uid: &Uid) -> Result<World> {
    let text = fs::read(models).with_context(|| format!("read {}", models.display()))?;
    let models: Vec<Layer7> = serde_json::from_slice(&text)?;
    let mut snapshot = model::snapshot();
    models.into_iter().for_each(|model| snapshot.upsert_layer7(model));
    Ok(before.next(Arc::new(snapshot), uid))
}

/// A thread for a plain listener, as a worker's is for one of tunnels.
fn plain(door: Door, listener: std::net::TcpListener, make: impl FnOnce() -> Worker + Send + 'static) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let shared = make().shared;
            let listener = TcpListener::from_std(listener).expect("a listener of this process");
            let at = NetworkAddress::new("", CLIENT);
            let workload = model::snapshot().workload_at(&at).cloned();
            let service = SocketAddr::new(SERVICE, door.service());
            while let Ok((stream, address)) = listener.accept().await {
                // It fails only for a socket that is gone already.
                let _ = stream.set_nodelay(true);
                let client = Client { identity: Role::Client.identity(), address, workload: workload.clone() };
                let asked = Asked { address: service, of: Of::Service(model::service(door)) };
                tokio::spawn(Session::new(shared.clone(), client, asked).serve(stream));
            }
        });
    });
    Ok(())
}

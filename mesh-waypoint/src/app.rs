//! The waypoint put together: the one place that knows every part.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use mesh_core::l7::{Layer7, WaypointKey};
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::Uid;
use mesh_net::admin::{self, Router};
use mesh_net::ca::{self, CaClient};
use mesh_net::certificates::{self, CertificateStatus, Certificates};
use mesh_net::control::{self, ControlStatus, ControlView};
use mesh_net::grpc::{Backoff, Target};
use mesh_net::logging::Log;
use mesh_net::logging::line::Form;
use mesh_net::pool::{self, Pool, Transport};
use mesh_net::tls::TrustDomains;
use mesh_net::tunnel;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::dial::{Dialler, Own};
use crate::engine::experience::Experiences;
use crate::engine::limits::Breakers;
use crate::export::Exporter;
use crate::keys::Keys;

use crate::limits::Limits;
use crate::overload::{self, Bounds, Overload};
use crate::session::Shared;
use crate::settings::Settings;
use crate::telemetry::trace::{Counts, Origin, Tracer};
use crate::telemetry::{AccessLog, Telemetry};
use crate::upstream::Upstreams;
use crate::worker::{self, Worker};
use crate::world::World;

/// Runs the waypoint until it is told to stop and its requests have ended or may last no longer.
///
/// # Errors
/// Something that it cannot work without is missing; the text says what.
pub async fn run(settings: Settings, log: &Log) -> anyhow::Result<()> {
    let telemetry = Telemetry::default();
    let access_log = AccessLog::start(if settings.log_json { Form::Json } else { Form::Text });
    let access_log = access_log.context("start the access log")?;
    let status = ControlStatus::waypoint();
    let certificates = start_certificates(&settings)?;
    let own =
        Arc::new(Own { identity: settings.identity.clone(), certificate: certificates.lease(&settings.identity) });
    let (heard, hears) = watch::channel(Arc::new(Snapshot::default()));
    let (publish, world) = watch::channel(None);
    let (drain, draining) = watch::channel(false);
    tokio::spawn(control::run(control_config(&settings), heard, status.clone()));
    let own_uid = Uid::pod(&settings.cluster_id, &settings.gateway.namespace, &settings.pod_name);
    tokio::spawn(follow(hears, status.clone(), publish, own_uid));

    let config = Arc::new(worker::Config {
        gateway: settings.gateway.clone(),
        network: settings.network.as_str().into(),
        trust_domains: TrustDomains {
            own: settings.trust_domain.as_str().into(),
            aliases: settings.trust_domain_aliases.iter().map(|d| d.as_str().into()).collect(),
        },
        transport: settings.transport,
        tunnel: tunnel::Config::default(),
        handshake_timeout: Duration::from_secs(10),
        model_timeout: Duration::from_secs(2),
    });

    let (experiences, breakers) = (Arc::new(Experiences::default()), Arc::new(Breakers::default()));
    let keys = Keys::default();
    let spans = Counts::default();
    let (tracer, told) = Tracer::new(settings.tracing.clone(), origin(&settings), spans.clone());
    let exporter = Exporter {
        world: world.clone(),
        dialler: Dialler { own: own.clone(), pool: new_pool(settings.transport) },
        namespace: settings.gateway.namespace.clone(),
        counts: spans.clone(),
    };
    let exporter = exporter.start(told);
    let memory = overload::limit();
    let bounds = match settings.worker_requests {
        Some(requests) => Bounds::requests(requests),
        None => Bounds::of(memory.unwrap_or(u64::MAX), settings.workers),
    };
    let limits = Limits { stream_idle: settings.stream_idle, ..Limits::default() };
    let level = overload::follow(memory);
    for index in 0..settings.workers {
        let listener =
            worker::listen(settings.listen).with_context(|| format!("listen for tunnels at {}", settings.listen))?;
        let level = level.clone();
        let (config, own, world, telemetry, access_log, tracer, draining, experiences, breakers, keys) = (
            config.clone(),
            own.clone(),
            world.clone(),
            telemetry.clone(),
            access_log.clone(),
            tracer.clone(),
            draining.clone(),
            experiences.clone(),
            breakers.clone(),
            keys.clone(),
        );
        let make = move || {
            let upstreams = Upstreams::new(Dialler { own: own.clone(), pool: new_pool(config.transport) });
            let shared = Shared {
                telemetry: telemetry.worker(Some(access_log.worker()), tracer),
                limits,
                experiences,
                breakers,
                keys,
                network: config.network.clone(),
                ..Shared::new(world, draining, upstreams, Overload::new(bounds))
            };
            Worker { config, own, shared, level }
        };
        Worker::start(index, listener, make).with_context(|| format!("start worker {index}"))?;
    }

    let router = {
        let mut registry = Registry::default();
        telemetry.register(&mut registry);
        access_log.register(&mut registry);
        spans.register(&mut registry);
        registry.register_collector(Box::new(log.dropped.clone()));
        registry.register_collector(Box::new(status.clone()));
        registry.register_collector(Box::new(certificates.clone()));
        let gateway = settings.gateway.clone();
        let (ready_status, stopping, own) = (status.clone(), draining.clone(), own.clone());
        Router::new()
            .metrics(Arc::new(registry))
            .logging({
                let level = log.level.clone();
                move |filter| level.set(filter)
            })
            .ready(move || match () {
                () if *stopping.borrow() => Err("the waypoint is draining".to_owned()),
                () if !ready_status.is_synced() => Err("the control stream has not been read once".to_owned()),
                () if own.certificate.current().is_none() => Err("there is no certificate yet".to_owned()),
                () => Ok(()),
            })
            .json("/config", move || ConfigView {
                version: env!("CARGO_PKG_VERSION"),
                gateway: gateway.clone(),
                control: status.view(),
                certificates: certificates.status(),
                models: world.borrow().as_ref().map(|world| models(&world.snapshot)).unwrap_or_default(),
            })
    };
    let listener = TcpListener::bind(settings.admin_address)
        .await
        .with_context(|| format!("listen for the admin endpoint at {}", settings.admin_address))?;
    tokio::spawn(admin::serve(listener, router));
    info!(
        gateway = %settings.gateway,
        version = env!("CARGO_PKG_VERSION"),
        workers = settings.workers,
        memory,
        requests = bounds.requests,
        listen = %settings.listen,
        admin = %settings.admin_address,
        "waypoint running"
    );

    stopped().await;
    drain.send_replace(true);
    info!(requests = telemetry.live(), deadline = ?settings.drain, "draining");
    let emptied = tokio::time::timeout(settings.drain, async {
        // Peers need a moment to hear of it, and may ask until then.
        tokio::time::sleep(Duration::from_millis(200)).await;
        while telemetry.live() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    match emptied.await {
        Ok(()) => info!("drained"),
        Err(_) => warn!(requests = telemetry.live(), "deadline passed; what is left is cut"),
    }
    exporter.finish(Duration::from_secs(1)).await;
    access_log.finish();
    Ok(())
}

fn new_pool(transport: Transport) -> Pool {
    Pool::new(pool::Config { transport, ..pool::Config::default() })
}

/// Who this instance is in the spans that it tells.
fn origin(settings: &Settings) -> Origin {
    let WaypointKey { namespace, name } = settings.gateway.clone();
    Origin {
        service: format!("{name}.{namespace}"),
        gateway: name,
        namespace,
        cluster: settings.cluster_id.as_str().into(),
        mesh: settings.trust_domain.as_str().into(),
        pod: settings.pod_name.as_str().into(),
    }
}

/// `/config`
#[derive(Debug, Serialize)]
struct ConfigView {
    version: &'static str,
    gateway: WaypointKey,
    control: ControlView,
    certificates: Vec<CertificateStatus>,
    models: Vec<Arc<Layer7>>,
}

fn models(snapshot: &Snapshot) -> Vec<Arc<Layer7>> {
    let mut models: Vec<_> = snapshot.layer7s().cloned().collect();
    models.sort_by(|a, b| a.target.cmp(&b.target));
    models
}

/// Publishes what the control stream says, each model made ready before it is in force.
async fn follow(
    mut heard: watch::Receiver<Arc<Snapshot>>,
    status: ControlStatus,
    publish: watch::Sender<Option<Arc<World>>>,
    own: Uid,
) {
    status.synced().await;
    loop {
        let snapshot = heard.borrow_and_update().clone();
        let next = match &*publish.borrow() {
            Some(before) => before.next(snapshot, &own),
            None => World::default().next(snapshot, &own),
        };
        publish.send_replace(Some(Arc::new(next)));
        if heard.changed().await.is_err() {
            return;
        }
    }
}

fn target(settings: &Settings, address: &str, roots: &Path, server_name: &Option<String>) -> Target {
    Target {
        address: address.to_owned(),
        server_name: server_name.clone(),
        roots: roots.to_owned(),
        token: settings.token_file.clone(),
    }
}

fn control_config(settings: &Settings) -> control::Config {
    // The address in the node id is a hint for people; loopback says that it is not known.
    let ip = IpAddr::from([127, 0, 0, 1]);
    control::Config {
        controller: target(settings, &settings.xds_address, &settings.xds_root_ca, &settings.server_name),
        node_id: control::waypoint_id(ip, &settings.pod_name, &settings.gateway.namespace, "cluster.local"),
        node_name: settings.node_name.clone(),
        cluster_id: settings.cluster_id.clone(),
        network: settings.network.clone(),
        on_demand: None,
        waypoint: Some(settings.gateway.clone()),
        backoff: Backoff::default(),
    }
}

fn start_certificates(settings: &Settings) -> anyhow::Result<Certificates> {
    let authority = target(settings, &settings.ca_address, &settings.ca_root_ca, &settings.ca_server_name);
    // Another authority than the controller knows a waypoint by its token; the controller may know it by its node's.
    let impersonates = settings.ca_address == settings.xds_address;
    let asks = ca::Config { impersonates, ..ca::Config::new(authority, settings.cluster_id.clone()) };
    let client = CaClient::new(asks).context("certificate authority")?;
    let config = certificates::Config { ttl: settings.certificate_ttl, ..certificates::Config::default() };
    Ok(Certificates::start(config, client))
}

async fn stopped() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

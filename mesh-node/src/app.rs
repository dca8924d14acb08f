//! The agent put together: the one place that knows every part.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use mesh_core::snapshot::Snapshot;
use mesh_net::admin::Router;
use mesh_net::ca::{self, CaClient};
use mesh_net::certificates::{self, Certificates};
use mesh_net::control::{self, ControlStatus};
use mesh_net::grpc::{Backoff, Target};
use mesh_net::logging::Log;
use mesh_net::pool::{self, Pool};
use mesh_net::tls::TrustDomains;
use mesh_net::tunnel;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use crate::cni;
use crate::connection::End;
use crate::connections::Connections;
use crate::direct::{self, DirectPath};
use crate::ebpf::{self, Kernel};
use crate::handover;
use crate::inbound::{self, Inbound};
use crate::outbound::experience::Upstreams;
use crate::outbound::limits::Limits;
use crate::outbound::{self, Outbound};
use crate::outside::Outside;
use crate::pods::kubelet::{Kubelet, Roll};
use crate::pods::local::{self, Local};
use crate::pods::missing::Missing;
use crate::pods::{self, Manager, Pods, PodsView, Told};
use crate::settings::Settings;
use crate::telemetry::Telemetry;
use crate::views::{self, ConfigView, FacilityView};
use crate::worker::{Tasks, Worker};

/// Name of the agent's record of the pods that it was told of, in its run directory.
const RECORD: &str = "enrolled.json";

/// How long connections that outlived the drain may take to be reset: 10,000 of them need less than half of it.
const CUT: Duration = Duration::from_secs(2);

/// Runs the agent until it is told to stop and its connections have ended or may last no longer.
///
/// # Errors
/// Something that the agent cannot work without is missing; the text says what.
pub async fn run(settings: Settings, log: &Log) -> anyhow::Result<()> {
    let (kernel, facilities) = load_kernel(&settings)?;
    std::fs::create_dir_all(&settings.run_dir).with_context(|| format!("make {}", settings.run_dir.display()))?;

    let telemetry = Telemetry::writing(log.lines.clone());
    let connections = Connections::new(telemetry.clone());
    let status = ControlStatus::new();
    let certificates = start_certificates(&settings)?;
    let (heard, hears) = watch::channel(Arc::new(Snapshot::default()));
    let (publish, snapshot) = watch::channel(None);
    let (drain, draining) = watch::channel(false);

    tokio::spawn(control::run(control_config(&settings), heard, status.clone()));
    tokio::spawn(follow(hears, status.clone(), publish, connections.clone()));
    {
        let kernel = kernel.clone();
        tokio::spawn(async move {
            if let Err(error) = kernel.drain_logs().await {
                warn!(%error, "what the hooks report cannot be read");
            }
        });
    }

    let upstreams = Upstreams::default();
    let parts = Parts {
        telemetry: &telemetry,
        connections: &connections,
        snapshot: &snapshot,
        draining: &draining,
        upstreams: &upstreams,
    };
    let workers = start_workers(&settings, &parts, &kernel)?;
    let tasks = Tasks::of(&workers);
    let (outside, outside_ended) = Outside::start(kernel.clone(), connections.clone(), snapshot.clone())
        .context("start the thread for connections from before enrolment")?;
    let (direct, direct_ended) = DirectPath::start(
        direct::Config {
            network: settings.network.as_str().into(),
            enabled: settings.same_node,
            cgroup_root: settings.cgroup_root.clone(),
            age: settings.same_node_age,
            services_after: settings.same_node_services,
            release: settings.release,
        },
        kernel.clone(),
        telemetry.clone(),
        snapshot.clone(),
    )
    .context("start the thread for direct connections")?;
    let (commands, orders) = mpsc::channel(64);
    let mut managers = vec![Manager::Label];
    managers.extend(settings.inpod_uds.is_some().then_some(Manager::Zds));
    managers.extend(settings.find_pods.then_some(Manager::Kubelet));
    let (pods, pod_views) = Pods::new(
        pods::Config {
            cluster_id: settings.cluster_id.clone(),
            trust_domain: settings.trust_domain.clone(),
            release_deadline: settings.release,
            pace_from: settings.pace_from,
            managers,
        },
        kernel.clone(),
        certificates.clone(),
        connections.clone(),
        Told { workers, outside: outside.clone(), direct: direct.clone() },
        snapshot.clone(),
        tokio::runtime::Handle::current(),
    );
    let pods_ended = pods.start(orders).context("start the thread for the pods")?;
    if let Some(manager) = settings.inpod_uds.clone() {
        pods::zds::follow(manager, commands.clone()).context("start the thread for the pod manager")?;
    }
    let (roll, missing) = (Roll::default(), Missing::default());
    if settings.find_pods {
        let kubelet = Kubelet {
            cgroup_root: settings.cgroup_root.clone(),
            node: settings.node_name.as_str().into(),
            snapshot: snapshot.clone(),
            commands: commands.clone(),
            roll: roll.clone(),
            missing: missing.clone(),
        };
        tokio::spawn(kubelet.run());
    }
    let cni_requests = cni::server::Requests::default();
    let installed = settings.cni.clone().map(|config| {
        let server = cni::server::Server {
            socket: settings.run_dir.join(cni::SOCKET),
            cluster_id: settings.cluster_id.clone(),
            commands: commands.clone(),
            snapshot: snapshot.clone(),
            status: status.clone(),
            views: pod_views.clone(),
            connections: connections.clone(),
            roll,
            requests: cni_requests.clone(),
        };
        cni::start(config, server, &settings.run_dir)
    });
    let local = Local {
        socket: settings.run_dir.join(local::SOCKET),
        cgroup_root: settings.cgroup_root.clone(),
        record: settings.run_dir.join(RECORD),
        commands,
        views: pod_views.clone(),
        deadline: Duration::from_secs(10),
    };
    tokio::spawn(async move {
        let socket = local.socket.clone();
        if let Err(error) = local.run().await {
            error!(%error, socket = %socket.display(), "local socket; pods can only come from a pod manager");
        }
    });

    let successor = pod_views.clone();
    let (router, yielding) = {
        let mut registry = Registry::default();
        // Collectors come before the registries inside this one: the bytes of live connections are counted, then shown.
        telemetry.register(registry.sub_registry_with_labels(std::iter::empty()));
        upstreams.register(&mut registry);
        registry.register_collector(Box::new(BytesOfLive {
            telemetry: telemetry.clone(),
            connections: connections.clone(),
        }));
        registry.register_collector(Box::new(tasks));
        registry.register_collector(Box::new(outside.clone()));
        registry.register_collector(Box::new(direct.clone()));
        registry.register_collector(Box::new(log.dropped.clone()));
        registry.register_collector(Box::new(missing.clone()));
        registry.register_collector(Box::new(status.clone()));
        registry.register_collector(Box::new(certificates.clone()));
        if installed.is_some() {
            cni_requests.register(&mut registry);
        }
        let node = settings.node_name.clone();
        let lost = missing.clone();
        let (shown, views, ready_status, ready_pods, stopping) =
            (connections.clone(), pod_views.clone(), status.clone(), pod_views.clone(), draining.clone());
        let router = Router::new()
            .metrics(Arc::new(registry))
            .logging({
                let level = log.level.clone();
                move |filter| level.set(filter)
            })
            .ready(move || {
                ready(&ready_status, &ready_pods.borrow(), *stopping.borrow())?;
                lost.ready()?;
                let installed = installed.as_ref().map_or(Ok(()), |installed| installed.borrow().clone());
                installed.map_err(|why| format!("the CNI plugin is not in place: {why}"))
            })
            .json("/connections", move || views::connections(&shown, &direct, &outside))
            .json("/config", move || {
                ConfigView {
                    version: env!("CARGO_PKG_VERSION"),
                    node: node.clone(),
                    control: status.view(),
                    pods: views.borrow().pods.clone(),
                    missing: missing.views(),
                    certificates: certificates.status(),
                    workloads: Vec::new(),
                    services: Vec::new(),
                    policies: Vec::new(),
                    kernel: facilities.clone(),
                }
                .with_snapshot(snapshot.borrow().as_deref())
            });
        handover::pages(router, settings.instance.clone(), pod_views)
    };
    let listener = handover::listen(settings.admin_address)
        .await
        .with_context(|| format!("listen for the admin endpoint at {}", settings.admin_address))?;
    tokio::spawn(handover::serve(listener, router, yielding));
    info!(
        node = settings.node_name,
        version = env!("CARGO_PKG_VERSION"),
        workers = settings.workers,
        admin = %settings.admin_address,
        "agent running"
    );

    tokio::select! {
        () = stopped() => {}
        // It holds every command's receiver, so it only ends by a defect.
        _ = pods_ended => anyhow::bail!("the thread for the pods has ended"),
        // Nobody would end what policy forbids of them.
        _ = outside_ended => anyhow::bail!("the thread for connections from before enrolment has ended"),
        _ = direct_ended => anyhow::bail!("the thread for direct connections has ended"),
    }
    drain.send_replace(true);
    // What is new goes to a successor, if there is one: then nobody waits for this agent to end.
    let deadline = if successor.borrow().superseded { settings.handover } else { settings.drain };
    info!(connections = connections.len(), ?deadline, "draining");
    let emptied = tokio::time::timeout(deadline, async {
        while !connections.is_idle() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    match emptied.await {
        Ok(()) => info!("drained"),
        Err(_) => {
            warn!(connections = connections.len(), "deadline passed; what is left is cut");
            connections.end_where(|_| Some(End::agent_stopped()));
            // Each resets both its ends and writes its line; that takes milliseconds, or something is stuck.
            let cut = tokio::time::timeout(CUT, async {
                while !connections.is_empty() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            if cut.await.is_err() {
                warn!(connections = connections.len(), "not cut in time; they end with the process");
            }
        }
    }
    Ok(())
}

/// What workers share.
struct Parts<'a> {
    telemetry: &'a Telemetry,
    connections: &'a Connections,
    snapshot: &'a watch::Receiver<Option<Arc<Snapshot>>>,
    draining: &'a watch::Receiver<bool>,
    upstreams: &'a Upstreams,
}

fn start_workers(settings: &Settings, parts: &Parts<'_>, kernel: &Arc<Kernel>) -> anyhow::Result<Vec<Worker>> {
    let trust_domains = TrustDomains {
        own: settings.trust_domain.as_str().into(),
        aliases: settings.trust_domain_aliases.iter().map(|d| d.as_str().into()).collect(),
    };
    let limits = Limits::default();
    let outbound_config =
        Arc::new(outbound::Config::new(settings.network.as_str().into(), settings.unknown_destinations));
    let (transport, tunnel) =
        (settings.transport, tunnel::Config { key_records: settings.key_records, ..Default::default() });
    let inbound_config =
        Arc::new(inbound::Config { transport, tunnel: tunnel.clone(), ..inbound::Config::new(trust_domains) });
    (0..settings.workers)
        .map(|index| {
            let outbound = Outbound {
                config: outbound_config.clone(),
                snapshot: parts.snapshot.clone(),
                pool: Pool::new(pool::Config { transport, tunnel: tunnel.clone(), ..pool::Config::default() }),
                upstreams: parts.upstreams.clone(),
                limits: limits.clone(),
                connections: parts.connections.clone(),
                kernel: Some(kernel.clone()),
            };
            let inbound = Inbound {
                config: inbound_config.clone(),
                snapshot: parts.snapshot.clone(),
                connections: parts.connections.clone(),
                telemetry: parts.telemetry.clone(),
                draining: parts.draining.clone(),
            };
            Worker::start(index, settings.busy_poll, outbound, inbound, kernel.clone())
                .with_context(|| format!("start worker {index}"))
        })
        .collect()
}

/// Publishes what the control stream says, and ends the connections that it no longer allows.
async fn follow(
    mut heard: watch::Receiver<Arc<Snapshot>>,
    status: ControlStatus,
    publish: watch::Sender<Option<Arc<Snapshot>>>,
    connections: Connections,
) {
    status.synced().await;
    loop {
        let snapshot = heard.borrow_and_update().clone();
        publish.send_replace(Some(snapshot.clone()));
        let ended = connections.end_where(|live| inbound::revoked(&snapshot, &live.facts));
        if ended > 0 {
            info!(ended, "connections that policy no longer allows");
        }
        if heard.changed().await.is_err() {
            return;
        }
    }
}

fn ready(status: &ControlStatus, view: &PodsView, draining: bool) -> Result<(), String> {
    if draining {
        return Err("the agent is draining".to_owned());
    }
    if view.superseded {
        return Err("another agent has taken over this node's pods".to_owned());
    }
    if !status.is_synced() {
        return Err("the control stream has not been read once".to_owned());
    }
    if let Some(manager) = view.unsettled.first() {
        return Err(match manager {
            Manager::Zds => "the pod manager has not told of its pods".to_owned(),
            Manager::Kubelet => "the kubelet's pods have not been looked for".to_owned(),
            Manager::Label | Manager::Always => "the pods of the agent before this one have not been read".to_owned(),
        });
    }
    match view.pods.iter().find(|pod| pod.state == "waiting") {
        Some(pod) => Err(format!("pod {} waits for {}", pod.uid, pod.waiting_for.as_deref().unwrap_or("its turn"))),
        None => Ok(()),
    }
}

fn load_kernel(settings: &Settings) -> anyhow::Result<(Arc<Kernel>, Vec<FacilityView>)> {
    let debug = settings.log_level.contains("ebpf=debug") || settings.log_level.contains("trace");
    let config = ebpf::Config {
        pin_dir: settings.pin_dir.clone(),
        cgroup_root: settings.cgroup_root.clone(),
        agent_cgroup: settings.agent_cgroup.clone(),
        object: settings.ebpf_object.clone(),
        debug,
    };
    let facilities = ebpf::probe(&config);
    for missing in facilities.iter().filter(|f| !f.present) {
        warn!(facility = missing.name, since_kernel = missing.since, "this kernel lacks a facility: {}", missing.lost);
    }
    let kernel = Kernel::load(config).context("load the kernel's half")?;
    Ok((Arc::new(kernel), facilities.iter().map(Into::into).collect()))
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
        node_id: control::node_id(ip, &settings.node_name, "weft-system", "cluster.local"),
        node_name: settings.node_name.clone(),
        cluster_id: settings.cluster_id.clone(),
        network: settings.network.clone(),
        on_demand: None,
        waypoint: None,
        backoff: Backoff::default(),
    }
}

fn start_certificates(settings: &Settings) -> anyhow::Result<Certificates> {
    let authority = target(settings, &settings.ca_address, &settings.ca_root_ca, &settings.ca_server_name);
    let client =
        CaClient::new(ca::Config::new(authority, settings.cluster_id.clone())).context("certificate authority")?;
    let config = certificates::Config { ttl: settings.certificate_ttl, ..certificates::Config::default() };
    Ok(Certificates::start(config, client))
}

async fn stopped() {
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        return std::future::pending().await;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
            // Nothing is read again on SIGHUP: what changes comes over the control stream. It must not end the agent.
            _ = hangup.recv() => {}
        }
    }
}

/// Before each scrape, brings the byte counters of live connections up to date.
#[derive(Debug)]
struct BytesOfLive {
    telemetry: Telemetry,
    connections: Connections,
}

impl Collector for BytesOfLive {
    fn encode(&self, _: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for live in self.connections.all() {
            self.telemetry.report_bytes(&live);
        }
        Ok(())
    }
}

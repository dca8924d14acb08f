//! Weft's side: resources compiled as the controller does, carried out by the waypoint's own code behind plain listeners.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use mesh_core::addr::NetworkAddress;
use mesh_core::identity::SpiffeId;
use mesh_core::snapshot::Snapshot;
use mesh_core::wire::Address;
use mesh_core::workload::ServiceKey;
use mesh_ctrl::index::{Config, Index, Resource};
use mesh_ctrl::source::{Severity, manifest};
use mesh_net::ca::CaError;
use mesh_net::certificates::{self, Certificates, Signer};
use mesh_net::pool::{self, Pool};
use mesh_waypoint::asked::{Asked, Of};
use mesh_waypoint::client::Client;
use mesh_waypoint::dial::{Dialler, Own};
use mesh_waypoint::overload::{Bounds, Overload};
use mesh_waypoint::session::{Session, Shared};
use mesh_waypoint::upstream::Upstreams;
use mesh_waypoint::world::World;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::backends::{NAMES, PORT, at};

/// The network of its backends.
pub(crate) const SIDE: u8 = 1;

/// Carries `rules` out for the service `web`, at `address`.
pub(crate) async fn start(rules: &str, address: SocketAddr) -> Result<()> {
    let snapshot = snapshot(rules)?;
    let uid = snapshot.workload_at(&NetworkAddress::new("", GATE)).context("the waypoint itself")?.uid.clone();
    let identity = SpiffeId::new("cluster.local", "shop", "gate")?;
    let certificates = Certificates::start(certificates::Config::default(), Nobody);
    let own = Own { certificate: certificates.lease(&identity), identity };
    // Neither ends while anybody may ask.
    let (world, draining) =
        (watch::channel(Some(Arc::new(World::default().next(snapshot.into(), &uid)))), watch::channel(false));
    let upstreams = Upstreams::new(Dialler { own: Arc::new(own), pool: Pool::new(pool::Config::default()) });
    let shared = Shared::new(world.1, draining.1, upstreams, Overload::new(Bounds::requests(1 << 16)));
    let service = ServiceKey { namespace: "shop".into(), hostname: "web.shop.svc.cluster.local".into() };
    let asked = Asked { address: SERVICE, of: Of::Service(service) };
    let listener = TcpListener::bind(address).await?;
    tokio::task::spawn_local(async move {
        let _held = (world.0, draining.0);
        while let Ok((stream, address)) = listener.accept().await {
            // It fails only for a socket that is gone already.
            let _ = stream.set_nodelay(true);
            let identity = SpiffeId::new("cluster.local", "shop", "client").expect("names of an identity");
            let client = Client { identity, address, workload: None };
            tokio::task::spawn_local(Session::new(shared.clone(), client, asked.clone()).serve(stream));
        }
    });
    Ok(())
}

fn snapshot(rules: &str) -> Result<Snapshot> {
    let text = [world(), rules.to_owned()].concat();
    let mut index = Index::new(Config::default());
    let changes = index.apply(manifest("rules.yaml", &text));
    let wrong: Vec<String> =
        index.findings().iter().filter(|f| f.severity == Severity::Error).map(ToString::to_string).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mut snapshot = Snapshot::default();
    for change in changes {
        match change.resource {
            Resource::Address(Some(Address::Workload(workload))) => snapshot.upsert_workload(workload),
            Resource::Address(Some(Address::Service(service))) => snapshot.upsert_service(service),
            Resource::Layer7(Some(model)) => snapshot.upsert_layer7(model),
            // Agents' part.
            _ => {}
        }
    }
    snapshot.layer7s().next().context("no model")?;
    Ok(snapshot)
}

/// The services with their pods, all outside of the mesh, and the waypoint.
fn world() -> String {
    let services = ["web", "other", "pair", "dead"].into_iter().enumerate().map(|(number, name)| {
        let ip = format!("10.96.0.{}", number + 1);
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{clusterIP: {ip}, clusterIPs: \
             [{ip}], selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: {PORT}}}]}}}}\n---\n"
        )
    });
    let pods =
        NAMES.into_iter().map(|(name, _)| pod(name, name.split('-').next().unwrap_or(name), at(SIDE, name).ip()));
    let gate = "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/use-waypoint: gate}}}\n---\n\
                {apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: gate, namespace: shop}, spec: \
                {gatewayClassName: weft-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}\n---\n";
    [gate.to_owned()].into_iter().chain(services).chain(pods).chain([pod("gate", "gate", GATE)]).collect()
}

fn pod(name: &str, app: &str, ip: IpAddr) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}, spec: \
         {{serviceAccountName: {app}, nodeName: n, containers: [{{name: app}}]}}, status: {{phase: Running, podIP: {ip}, podIPs: \
         [{{ip: {ip}}}], conditions: [{{type: Ready, status: 'True'}}]}}}}\n---\n"
    )
}

/// No tunnel is opened here.
struct Nobody;

impl Signer for Nobody {
    async fn sign(&self, _: String, _: &SpiffeId, _: std::time::Duration) -> Result<Vec<String>, CaError> {
        std::future::pending().await
    }
}

/// The waypoint's own address, as Envoy takes it for its own on loopback.
const GATE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)), 80);

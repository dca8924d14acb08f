//! A waypoint's side of streams to a service, and servers on loopback that stand for everybody else. No tunnel, no root: a stream
//! of the tunnel is a pipe here, and each server a workload outside the mesh.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_core::addr::NetworkAddress;
use mesh_core::identity::SpiffeId;
use mesh_core::l7::{Layer7, PortRules, Protocol, Target, WaypointKey};
use mesh_core::service::{IpFamilies, LoadBalancing, Service};
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::{Health, Locality, PlaintextPorts, Port, ServiceKey, Tunnel, Uid, Workload, WorkloadKind};
use mesh_net::ca::CaError;
use mesh_net::certificates::{self, Certificates, Signer};
use mesh_net::pool::{self, Pool};
use mesh_waypoint::asked::{Asked, Of};
use mesh_waypoint::client::Client;
use mesh_waypoint::dial::{Dialler, Own};
use mesh_waypoint::export::Exporter;
use mesh_waypoint::keys::Keys;
use mesh_waypoint::limits::Limits;
use mesh_waypoint::overload::{Bounds, Overload};
use mesh_waypoint::session::{Session, Shared};
use mesh_waypoint::telemetry::trace::{Counts, Tracer};
use mesh_waypoint::upstream::Upstreams;
use mesh_waypoint::world::World;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Nobody here speaks for an identity.
struct Nobody;

impl Signer for Nobody {
    async fn sign(&self, _: String, _: &SpiffeId, _: Duration) -> Result<Vec<String>, CaError> {
        std::future::pending().await
    }
}

pub(crate) struct Bench {
    shared: Shared,
    asked: Asked,
    /// What the service's own endpoint was sent.
    pub(crate) backend: Server,
    drain: watch::Sender<bool>,
    world: watch::Sender<Option<Arc<World>>>,
}

impl Bench {
    /// `web` in `shop`, and services `name` in `shop` on port 80 besides. `model`: what is in force for it.
    pub(crate) async fn new(others: &[(&str, SocketAddr)], keys: Keys, model: impl FnOnce(&mut Layer7)) -> Bench {
        let backend = Server::start(|_| text(200, "ok")).await;
        Self::before(backend, others, keys, model)
    }

    /// As [`Bench::new`], with `backend` as the endpoint of `web`.
    pub(crate) fn before(
        backend: Server,
        others: &[(&str, SocketAddr)],
        keys: Keys,
        model: impl FnOnce(&mut Layer7),
    ) -> Bench {
        let mut snapshot = Snapshot::default();
        let all = others.iter().copied().chain([("web", backend.address)]);
        for (at, (name, address)) in all.enumerate() {
            snapshot.upsert_service(service(name, u8::try_from(at).unwrap()));
            snapshot.upsert_workload(workload(name, address));
        }
        let mut layer7 = Layer7 {
            waypoint: WaypointKey { namespace: "shop".into(), name: "gate".into() },
            target: Target::Service(key("web")),
            ports: [(80, PortRules { protocol: Protocol::Http, ..PortRules::default() })].into(),
            destinations: Default::default(),
            policies: Vec::new(),
            jwt: Vec::new(),
            rate_limits: Vec::new(),
            path_normalization: Default::default(),
            telemetry: Default::default(),
        };
        model(&mut layer7);
        let asked = match &layer7.target {
            Target::Service(key) => Asked { address: "10.96.0.7:80".parse().unwrap(), of: Of::Service(key.clone()) },
            Target::Workloads => Asked { address: backend.address, of: Of::Workload(Uid::pod("c", "shop", "web")) },
        };
        snapshot.upsert_layer7(layer7);
        let world = World::default().next(Arc::new(snapshot), &Uid("".into()));
        let identity = SpiffeId::new("td", "shop", "gate").unwrap();
        let certificates = Certificates::start(certificates::Config::default(), Nobody);
        let own = Own { certificate: certificates.lease(&identity), identity };
        let dialler = Dialler { own: Arc::new(own), pool: Pool::new(pool::Config::default()) };
        let (drain, draining) = watch::channel(false);
        let (publish, world) = watch::channel(Some(Arc::new(world)));
        let overload = Overload::new(Bounds::requests(1 << 16));
        let shared = Shared { keys, ..Shared::new(world, draining, Upstreams::new(dialler), overload) };
        Bench { shared, asked, backend, drain, world: publish }
    }

    /// Another model is in force from here on.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Layer7)) {
        let before = self.world.borrow().clone().unwrap();
        let mut snapshot = (*before.snapshot).clone();
        let mut model = snapshot.layer7s().next().unwrap().as_ref().clone();
        change(&mut model);
        snapshot.upsert_layer7(model);
        self.world.send_replace(Some(Arc::new(before.next(Arc::new(snapshot), &Uid("".into())))));
    }

    /// Requests from here on are told to `tracer` as well.
    pub(crate) fn trace(&mut self, tracer: Tracer) {
        self.shared.telemetry = self.shared.telemetry.worker(None, tracer);
    }

    /// What spans to services of this world go out by.
    pub(crate) fn exporter(&self, counts: Counts) -> Exporter {
        let (world, dialler) = (self.shared.world.clone(), self.shared.upstreams.dialler().clone());
        Exporter { world, dialler, namespace: "shop".into(), counts }
    }

    /// Streams from here on are held to other limits.
    pub(crate) fn limit(&mut self, change: impl FnOnce(&mut Limits)) {
        change(&mut self.shared.limits);
    }

    /// Streams from here on are counted anew, against other bounds.
    pub(crate) fn bound(&mut self, bounds: Bounds) -> Overload {
        self.shared.overload = Overload::new(bounds);
        self.shared.overload.clone()
    }

    /// What is told of all requests.
    pub(crate) fn metrics(&self) -> String {
        let mut registry = Registry::default();
        self.shared.telemetry.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    /// Tells all streams that this instance is to stop.
    pub(crate) fn drain(&self) {
        self.drain.send_replace(true);
    }

    /// A client's end of a stream, and the waypoint's work on it.
    pub(crate) fn stream(&self) -> (DuplexStream, JoinHandle<()>) {
        self.stream_of("client")
    }

    /// As [`Bench::stream`], of that service account.
    pub(crate) fn stream_of(&self, account: &str) -> (DuplexStream, JoinHandle<()>) {
        let client = Client {
            identity: SpiffeId::new("td", "shop", account).unwrap(),
            address: "10.0.0.9:4000".parse().unwrap(),
            workload: None,
        };
        let (near, far) = tokio::io::duplex(64 << 10);
        (near, tokio::spawn(Session::new(self.shared.clone(), client, self.asked.clone()).serve(far)))
    }

    /// What `web`, or its workload where the model is of workloads, answers, over a stream of its own.
    pub(crate) async fn ask(&self, request: Request<&str>) -> Response<String> {
        self.ask_as("client", request).await
    }

    /// As [`Bench::ask`], of that service account.
    pub(crate) async fn ask_as(&self, account: &str, request: Request<&str>) -> Response<String> {
        let (near, _) = self.stream_of(account);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
        tokio::spawn(connection);
        let (mut parts, body) = request.into_parts();
        parts.headers.entry("host").or_insert("web".parse().unwrap());
        let request = Request::from_parts(parts, Full::new(Bytes::copy_from_slice(body.as_bytes())));
        let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Response::from_parts(parts, String::from_utf8(body.into()).unwrap())
    }
}

pub(crate) type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

pub(crate) fn text(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    Response::builder().status(status).body(Full::new(body.into()).boxed_unsync()).unwrap()
}

/// Answers each request by a function, HTTP/1.1 or HTTP/2 as the client begins.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Request<Bytes>>>>,
}

impl Server {
    pub(crate) async fn start(answer: impl Fn(&Request<Bytes>) -> Response<Body> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::default());
        let (answer, kept) = (Arc::new(answer), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut first = [0; 3];
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&kept));
                tokio::spawn(async move {
                    stream.peek(&mut first).await.unwrap();
                    serve(stream, first == *b"PRI", answer, seen).await;
                });
            }
        });
        Self { address, seen }
    }

    /// One that somebody else runs, and whom nobody looks at here.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self { address, seen: Arc::default() }
    }

    /// Accepts, and says nothing.
    pub(crate) async fn silent() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push(stream);
            }
        });
        address
    }

    pub(crate) fn seen(&self) -> Vec<Request<Bytes>> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

pub(crate) async fn serve<F>(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    is_second: bool,
    answer: Arc<F>,
    seen: Arc<Mutex<Vec<Request<Bytes>>>>,
) where
    F: Fn(&Request<Bytes>) -> Response<Body> + Send + Sync + 'static,
{
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (answer, seen) = (answer.clone(), seen.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let request = Request::from_parts(parts, body);
            let response = answer(&request);
            seen.lock().unwrap().push(request);
            Ok::<_, hyper::Error>(response)
        }
    });
    let io = TokioIo::new(io);
    // It ends when the test does.
    let _ = match is_second {
        true => hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await,
        false => hyper::server::conn::http1::Builder::new().serve_connection(io, service).await,
    };
}

/// A port on which nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

pub(crate) fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "shop".into(), hostname: format!("{name}.shop.svc.cluster.local").into() }
}

fn service(name: &str, at: u8) -> Service {
    let address = if name == "web" { [10, 96, 0, 7] } else { [10, 96, 1, at] };
    Service {
        key: key(name),
        name: name.into(),
        addresses: vec![NetworkAddress::new("", address.into())],
        ports: vec![Port { service_port: 80, target_port: 1, app_protocol: 0 }],
        subject_alt_names: Vec::new(),
        waypoint: None,
        load_balancing: LoadBalancing::default(),
        ip_families: IpFamilies::Automatic,
        canonical: true,
        ingress_use_waypoint: false,
        traffic: Default::default(),
    }
}

fn workload(name: &str, at: SocketAddr) -> Workload {
    Workload {
        uid: Uid::pod("c", "shop", name),
        name: name.into(),
        namespace: "shop".into(),
        addresses: vec![at.ip()],
        hostname: "".into(),
        network: "".into(),
        tunnel: Tunnel::None,
        identity: SpiffeId::new("td", "shop", name).unwrap(),
        waypoint: None,
        network_gateway: None,
        node: "n1".into(),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
        kind: WorkloadKind::Pod,
        workload_name: name.into(),
        native_tunnel: false,
        policies: Vec::new(),
        health: Health::Healthy,
        cluster: "c".into(),
        services: [(key(name), vec![Port { service_port: 80, target_port: at.port(), app_protocol: 0 }])].into(),
        locality: Locality::default(),
        host_network: false,
        capacity: 1,
        plaintext: PlaintextPorts::default(),
        encrypt_always: false,
        pod_uid: "".into(),
    }
}

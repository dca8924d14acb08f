//! The controller as agents meet it: over TLS, from a folder of YAML.

mod authority;
mod stream;
mod waypoint;

use std::path::{Path, PathBuf};

use clap::Parser;
use mesh_core::l7::WaypointKey;
use mesh_core::snapshot::Snapshot;
use mesh_net::control::{self, ControlStatus};
use mesh_net::grpc::{Backoff, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::settings::Flags;

const PATIENCE: Duration = Duration::from_secs(10);
const TOKEN_A: &str = "token-of-node-a-0123456789";
const TOKEN_B: &str = "token-of-node-b-0123456789";

/// A folder that controllers, one after another, serve from.
struct Place {
    dir: tempfile::TempDir,
}

struct Running {
    control: SocketAddr,
    monitoring: SocketAddr,
    stop: oneshot::Sender<()>,
    app: JoinHandle<()>,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(place.path("source")).unwrap();
        std::fs::write(place.path("tokens"), format!("a: {TOKEN_A}\nb: {TOKEN_B}\n")).unwrap();
        std::fs::write(place.path("token-a"), format!("{TOKEN_A}\n")).unwrap();
        std::fs::write(place.path("token-b"), TOKEN_B).unwrap();
        place.put("ns", NAMESPACE);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file of objects as an editor would: aside, then renamed.
    fn put(&self, name: &str, yaml: &str) {
        let aside = self.path(&format!("{name}.aside"));
        std::fs::write(&aside, yaml).unwrap();
        std::fs::rename(aside, self.path("source").join(format!("{name}.yaml"))).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.path("source").join(format!("{name}.yaml"))).unwrap();
    }

    fn settings(&self, listen: &str) -> Settings {
        let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let args = [
            "mesh-ctrl".to_owned(),
            format!("--source=dir:{}", self.path("source").display()),
            format!("--listen={listen}"),
            "--monitoring=127.0.0.1:0".to_owned(),
            flag("state-dir", &self.path("state")),
            flag("tokens", &self.path("tokens")),
            "--drain=2s".to_owned(),
        ];
        Settings::read(Flags::try_parse_from(args).unwrap()).unwrap()
    }

    async fn start(&self) -> Running {
        self.start_at("127.0.0.1:0").await
    }

    async fn start_at(&self, listen: &str) -> Running {
        Running::of(App::start(self.settings(listen), level()).await.unwrap())
    }

    fn target(&self, control: SocketAddr, token: &str) -> Target {
        Target {
            address: control.to_string(),
            server_name: None,
            roots: self.path("state/root-cert.pem"),
            token: Some(self.path(token)),
        }
    }

    fn agent(&self, control: SocketAddr, token: &str) -> Agent {
        self.agent_with(control, token, None)
    }

    fn agent_with(&self, control: SocketAddr, token: &str, on_demand: Option<mpsc::Receiver<Arc<str>>>) -> Agent {
        self.follow(control::Config { on_demand, ..self.config(control, token) })
    }

    /// The waypoint `shop/name`, which signs in as its node.
    fn waypoint(&self, control: SocketAddr, token: &str, name: &str) -> Agent {
        let waypoint = Some(WaypointKey { namespace: "shop".into(), name: name.into() });
        self.follow(control::Config { waypoint, ..self.config(control, token) })
    }

    fn config(&self, control: SocketAddr, token: &str) -> control::Config {
        control::Config {
            controller: self.target(control, token),
            node_id: control::node_id("10.0.0.1".parse().unwrap(), "agent", "weft-system", "cluster.local"),
            node_name: "a".to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            network: String::new(),
            on_demand: None,
            waypoint: None,
            backoff: Backoff { min: Duration::from_millis(20), max: Duration::from_millis(100) },
        }
    }

    fn follow(&self, config: control::Config) -> Agent {
        let (publish, snapshots) = watch::channel(Arc::default());
        let status = ControlStatus::new();
        let task = tokio::spawn(control::run(config, publish, status.clone()));
        Agent { snapshots, status, task }
    }
}

impl Running {
    fn of(app: App) -> Self {
        let (control, monitoring) = (app.control, app.monitoring);
        let (stop, stopped) = oneshot::channel();
        let app = tokio::spawn(app.run(async move {
            let _ = stopped.await;
        }));
        Self { control, monitoring, stop, app }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        timeout(PATIENCE, self.app).await.expect("it stops").unwrap();
    }

    async fn page(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.monitoring).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    async fn json(&self, path: &str) -> serde_json::Value {
        serde_json::from_str(&self.page(path).await.1).unwrap()
    }

    /// Waits until a page shows what it should.
    async fn shows(&self, path: &str, test: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let mut last = serde_json::Value::Null;
        let wait = async {
            loop {
                last = self.json(path).await;
                if test(&last) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let seen = timeout(PATIENCE, wait).await.is_ok();
        assert!(seen, "{path} shows {last:#}");
        last
    }
}

struct Agent {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    status: ControlStatus,
    task: JoinHandle<()>,
}

impl Agent {
    async fn synced(&self) {
        let synced = timeout(PATIENCE, self.status.synced()).await;
        synced.unwrap_or_else(|_| panic!("not in sync: {:?}", self.status.view()));
    }

    async fn sees(&mut self, what: impl Fn(&Snapshot) -> bool) {
        let seen = timeout(PATIENCE, self.snapshots.wait_for(|snapshot| what(snapshot))).await.is_ok();
        assert!(seen, "sees {:?}, {:?}", names(&self.snapshots.borrow()), self.status.view());
    }

    fn names(&self) -> Vec<String> {
        names(&self.snapshots.borrow())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Without the policies that every mesh has.
fn names(snapshot: &Snapshot) -> Vec<String> {
    let workloads = snapshot.workloads().map(|w| w.name.to_string());
    let services = snapshot.services().map(|s| s.key.hostname.to_string());
    let policies = snapshot.policies().filter(|p| &*p.key.namespace != "istio-system");
    let policies = policies.map(|p| format!("policy {}", p.key));
    let mut all: Vec<_> = workloads.chain(services).chain(policies).collect();
    all.sort();
    all
}

fn has(snapshot: &Snapshot, name: &str) -> bool {
    names(snapshot).iter().any(|n| n == name)
}

fn level() -> LogLevel {
    Arc::new(|_| Ok("info".to_owned()))
}

const NAMESPACE: &str = "apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: weft}}
";

fn pod(name: &str, node: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}
spec: {{nodeName: {node}, serviceAccountName: {name}, containers: [{{name: c, image: i}}]}}
status:
  phase: Running
  podIP: {ip}
  podIPs: [{{ip: {ip}}}]
  conditions: [{{type: Ready, status: \"True\"}}]
"
    )
}

fn service(name: &str, vip: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{clusterIP: {vip}, clusterIPs: [{vip}], selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 8080}}]}}
"
    )
}

fn deny(name: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: shop}}
spec: {{action: DENY, rules: [{{from: [{{source: {{namespaces: [dev]}}}}]}}]}}
"
    )
}

//! The root is exchanged while pods talk and controllers come and go.

use std::fs;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener as Listener, TcpStream as Stream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_core::identity::SpiffeId;
use mesh_net::ca::{CaClient, Config as CaConfig};
use mesh_net::certificates::{Certificates, Config, Lease};
use mesh_net::grpc::Target;
use mesh_net::tls::raw::Raw;
use mesh_net::tls::{ALPN_WEFT, TrustDomains, accept, connect};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep, timeout};
use weft_tests::binaries;
use weft_tests::cluster::Cluster;
use weft_tests::cluster::api::Api;
use weft_tests::cluster::controller::{Controller, NAMESPACE};
use weft_tests::wait::{PATIENCE, until};

use crate::identity;

/// Longest lifetime of a leaf; a stage takes a tenth more.
const LIFETIME: Duration = Duration::from_secs(12);
/// A stage, with the time that a Lease counts before it.
const STAGE: Duration = Duration::from_secs(60);

#[test]
fn the_root_is_exchanged_in_stages_under_traffic_with_a_leader_killed_in_each() -> Result<()> {
    let cluster = Cluster::of_test(&binaries!())?;
    let api = cluster.api();
    let replicas = Replicas { cluster: &cluster, live: RwLock::default(), started: AtomicU64::new(0) };
    for _ in 0..3 {
        replicas.start()?;
    }
    identity::populate(api)?;
    api.apply(&identity::pod("db", "shop", "db", "b"))?;
    let listener = Listener::bind("127.0.0.1:0")?;
    let service = listener.local_addr()?;
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "weft-ca-root", "namespace": NAMESPACE}});
    let roots = || api.get(&map).ok()??["data"]["root-cert.pem"].as_str().map(str::to_owned);
    let old = until("the roots to be published", PATIENCE, roots)?;

    let traffic = Traffic::default();
    let file = cluster.dir().join("roots.pem");
    fs::write(&file, &old)?;
    thread::scope(|scope| -> Result<()> {
        // As a kubelet keeps a mounted ConfigMap.
        let kept = scope.spawn(|| keep(&cluster, &map, &file, &traffic.closed));
        let served = scope.spawn(|| replicas.serve(&listener, &traffic.closed));
        let talk = scope.spawn(|| talk(&cluster, service, &file, &traffic));
        let story = (|| {
            traffic.more(20).context("before anything changes")?;
            api.apply(&json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": "weft-ca", "namespace": NAMESPACE, "annotations": {"weft.io/rotate": "now"}},
            }))?;
            // Both are trusted, and the one that signs stands first.
            replicas.all_in("introducing", 2)?;
            let both = until("both roots to be published", PATIENCE, || roots().filter(|roots| *roots != old))?;
            ensure!(both.starts_with(&old) && both.len() > old.len(), "the old root does not sign");
            replicas.kill_leader()?;
            replicas.start()?;
            replicas.agree()?;
            traffic.more(20)?;

            replicas.all_in("retiring", 2)?;
            let turned = until("the order to turn", PATIENCE, || roots().filter(|roots| *roots != both))?;
            ensure!(turned.ends_with(&old) && turned.len() == both.len(), "the next root does not sign");
            replicas.kill_leader()?;
            replicas.start()?;
            replicas.agree()?;
            traffic.more(20)?;

            replicas.all_in("steady", 1)?;
            let new = until("the old root to go", PATIENCE, || roots().filter(|roots| *roots != turned))?;
            ensure!(turned == format!("{new}{old}"), "not the root that was introduced");
            replicas.kill_leader()?;
            replicas.agree()?;
            // By now no certificate of the old root is left.
            thread::sleep(LIFETIME);
            traffic.more(20).context("afterwards")
        })();
        traffic.stop.store(true, Ordering::Relaxed);
        let talk = talk.join().expect("no panic");
        traffic.closed.store(true, Ordering::Relaxed);
        let [kept, served] = [kept, served].map(|thread| thread.join().expect("no panic"));
        let failures = traffic.failures.lock().expect("no panic").clone();
        let story = story.with_context(|| replicas.logs());
        story.and(kept).and(served).and(talk)?;
        ensure!(failures.is_empty(), "{failures:?}\n{}", replicas.logs());
        println!("figure: {} connections made, none failed", traffic.made.load(Ordering::Relaxed));
        Ok(())
    })
}

struct Replicas<'a> {
    cluster: &'a Cluster,
    live: RwLock<Vec<Controller>>,
    started: AtomicU64,
}

impl Replicas<'_> {
    fn start(&self) -> Result<()> {
        let name = format!("replica-{}", self.started.fetch_add(1, Ordering::Relaxed));
        let ttl = format!("{}s", LIFETIME.as_secs());
        let flags = [format!("--leaf-ttl={ttl}"), format!("--max-leaf-ttl={ttl}")];
        let controller = Controller::start(self.cluster, &name, &flags.each_ref().map(String::as_str))?;
        controller.wait_ready()?;
        self.live.write().expect("no panic").push(controller);
        Ok(())
    }

    fn kill_leader(&self) -> Result<()> {
        let mut live = self.live.write().expect("no panic");
        let leads = |replica: &Controller| replica.metric("weft_leader", &[]).is_ok_and(|leads| leads == 1.0);
        let at = live.iter().position(leads).context("one of them leads")?;
        live.remove(at).signal(Signal::SIGKILL)
    }

    /// Waits until each says that this is the stage, and trusts as many roots.
    fn all_in(&self, stage: &str, roots: u8) -> Result<()> {
        let label = format!("stage=\"{stage}\"");
        let is = |replica: &Controller| -> Result<bool> {
            let trusted = fs::read_to_string(replica.state().join("root-cert.pem"))?.matches("BEGIN").count();
            Ok(replica.metric("weft_ca_stage", &[&label])? == 1.0
                && replica.metric("weft_ca_roots", &[])? == f64::from(roots)
                && trusted == usize::from(roots))
        };
        let all = || self.live.read().expect("no panic").iter().all(|r| is(r).unwrap_or(false)).then_some(());
        until(&format!("all replicas to be {stage}"), STAGE, all)
    }

    /// All have the same roots in the same order.
    fn agree(&self) -> Result<()> {
        let same = || {
            let live = self.live.read().expect("no panic");
            let roots = live.iter().map(|replica| fs::read(replica.state().join("root-cert.pem")).ok());
            let roots: Vec<_> = roots.collect::<Option<_>>()?;
            roots.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
        };
        until("replicas to agree on the roots", PATIENCE, same)
    }

    fn logs(&self) -> String {
        let log = |number| fs::read_to_string(self.cluster.dir().join(format!("replica-{number}.log")));
        let logs = (0..self.started.load(Ordering::Relaxed)).filter_map(|number| log(number).ok());
        let telling =
            |line: &&str| ["authority", "rotation", "leadership", "roots", "ERROR"].iter().any(|w| line.contains(w));
        logs.map(|log| log.lines().filter(telling).collect::<Vec<_>>().join("\n")).collect::<Vec<_>>().join("\n---\n")
    }

    /// Passes connections on to some replica that is there, as a Service does.
    fn serve(&self, service: &Listener, stop: &AtomicBool) -> Result<()> {
        service.set_nonblocking(true)?;
        while !stop.load(Ordering::Relaxed) {
            let Ok((client, _)) = service.accept() else {
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            client.set_nonblocking(false)?;
            let live: Vec<SocketAddr> = self.live.read().expect("no panic").iter().map(Controller::control).collect();
            if let Some(server) = live.iter().find_map(|address| Stream::connect(address).ok()) {
                for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
                    // Ends with either connection.
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        }
        Ok(())
    }
}

/// What goes on between web and db meanwhile.
#[derive(Default)]
struct Traffic {
    stop: AtomicBool,
    /// Nobody talks any more.
    closed: AtomicBool,
    made: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Traffic {
    /// Waits for `count` more connections.
    fn more(&self, count: u64) -> Result<()> {
        let goal = self.made.load(Ordering::Relaxed) + count;
        until("connections to be made", 2 * PATIENCE, || (self.made.load(Ordering::Relaxed) >= goal).then_some(()))
    }

    fn fail(&self, what: &str, error: &anyhow::Error) {
        let mut failures = self.failures.lock().expect("no panic");
        failures.push(format!("{what} after {} connections: {error:#}", self.made.load(Ordering::Relaxed)));
    }
}

/// Writes what the ConfigMap says into `file`, until told to stop.
fn keep(cluster: &Cluster, map: &Value, file: &Path, stop: &AtomicBool) -> Result<()> {
    let api = Api::connect(cluster.kubeconfig())?;
    while !stop.load(Ordering::Relaxed) {
        if let Some(roots) = api.get(map)?.and_then(|map| Some(map["data"]["root-cert.pem"].as_str()?.to_owned())) {
            let aside = file.with_extension("new");
            fs::write(&aside, roots)?;
            fs::rename(&aside, file)?;
        }
        thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// The agents of web and db, each with a certificate that it renews; one connection that stays, and ever new ones.
fn talk(cluster: &Cluster, service: SocketAddr, roots: &Path, traffic: &Traffic) -> Result<()> {
    for node in ["a", "b"] {
        let bound = format!("weft-node-{node}");
        let token = identity::token(cluster.api(), NAMESPACE, "weft-node", Some(("Pod", &bound)), "istio-ca")?;
        fs::write(token_file(cluster, node), token)?;
    }
    Runtime::new()?.block_on(async {
        let web = lease(cluster, service, roots, "a", "web")?;
        let db = lease(cluster, service, roots, "b", "db")?;
        let soon = Instant::now() + PATIENCE;
        web.ready(soon).await?;
        db.ready(soon).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let serving = tokio::spawn(answer(listener, db));
        let to = [identity("db")?];
        let mut held = open(&web, address, &to).await.context("the first connection")?;
        while !traffic.stop.load(Ordering::Relaxed) {
            match open(&web, address, &to).await {
                Ok(mut fresh) => {
                    if let Err(error) = echo(&mut fresh).await {
                        traffic.fail("a new connection", &error);
                    }
                }
                Err(error) => traffic.fail("a connection that was asked for", &error),
            }
            if let Err(error) = echo(&mut held).await {
                traffic.fail("the connection that stays", &error);
                break;
            }
            traffic.made.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(50)).await;
        }
        // An agent that has never heard of the old root.
        let fresh = lease(cluster, service, roots, "a", "web")?;
        let known = fresh.ready(Instant::now() + PATIENCE).await?.trust().roots().len();
        ensure!(known == 1, "{known} roots");
        echo(&mut open(&fresh, address, &to).await.context("db's certificate is of the new root")?).await?;
        serving.abort();
        Ok(())
    })
}

fn lease(cluster: &Cluster, service: SocketAddr, roots: &Path, node: &str, account: &str) -> Result<Lease> {
    let target = Target {
        address: service.to_string(),
        server_name: Some("localhost".to_owned()),
        roots: roots.to_owned(),
        token: Some(token_file(cluster, node)),
    };
    let config = Config { ttl: LIFETIME, ..Config::default() };
    let agent = Certificates::start(config, CaClient::new(CaConfig::new(target, "Kubernetes"))?);
    Ok(agent.lease(&identity(account)?))
}

fn token_file(cluster: &Cluster, node: &str) -> PathBuf {
    cluster.dir().join(format!("token-{node}"))
}

fn identity(account: &str) -> Result<SpiffeId> {
    Ok(SpiffeId::new("cluster.local", "shop", account)?)
}

async fn open(web: &Lease, to: SocketAddr, peer: &[SpiffeId]) -> Result<Raw> {
    let credentials = web.current().context("web has no certificate")?;
    let tcp = TcpStream::connect(to).await?;
    Ok(connect(tcp, &credentials, peer, &[ALPN_WEFT], PATIENCE).await?.into())
}

async fn echo(stream: &mut Raw) -> Result<()> {
    let mut back = [0; 4];
    stream.write_all(b"ping").await?;
    stream.flush().await?;
    timeout(PATIENCE, stream.read_exact(&mut back)).await??;
    ensure!(back == *b"ping");
    Ok(())
}

/// db's end.
async fn answer(listener: TcpListener, db: Lease) {
    while let Ok((tcp, _)) = listener.accept().await {
        let Some(credentials) = db.current() else { continue };
        tokio::spawn(async move {
            let domains = TrustDomains::only("cluster.local");
            // What goes wrong here, web sees.
            let Ok(tls) = accept(tcp, &credentials, &domains, &[ALPN_WEFT], PATIENCE).await else { return };
            let (mut stream, mut data) = (Raw::from(tls), [0; 4]);
            while stream.read_exact(&mut data).await.is_ok() {
                if stream.write_all(&data).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
        });
    }
}

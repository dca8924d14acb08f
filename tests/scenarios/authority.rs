//! Certificates from an authority that is not the controller: whoever speaks Istio's API for it, as istio-csr does.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_core::identity::SpiffeId;
use mesh_core::wire::ca::{IstioCertificateRequest, IstioCertificateResponse};
use mesh_net::grpc::server::{IstioCertificateService, IstioCertificateServiceServer};
use mesh_net::testing::{Leaf, TestCa};
use rcgen::{CertificateSigningRequestParams, SanType};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};
use weft_tests::apps;
use weft_tests::mesh::{Mesh, Setup};
use weft_tests::needs;
use weft_tests::outcome::Outcome::{Answered, Reset};
use weft_tests::outcome::ask;
use weft_tests::wait::until;
use weft_tests::waypoint::Waypoint;

const LIFETIME: Duration = Duration::from_secs(12);
const ECHO: u16 = 7000;
const PORT: u16 = 15443;
const NAME: &str = "csr.example";

/// What was asked: who the request is for, and whom it names beside that.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    identity: String,
    impersonated: Option<String>,
}

/// Signs for everybody who shows any token at all.
struct Signs {
    ca: TestCa,
    asked: Mutex<Vec<Asked>>,
}

#[tonic::async_trait]
impl IstioCertificateService for Signs {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let token = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if !token.is_some_and(|token| token.starts_with("Bearer ") && token.len() > "Bearer ".len()) {
            return Err(Status::unauthenticated("request authenticate failure"));
        }
        let request = request.into_inner();
        let wrong = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
        let csr = CertificateSigningRequestParams::from_pem(&request.csr).map_err(|error| wrong(&error))?;
        let [SanType::URI(uri)] = &csr.params.subject_alt_names[..] else {
            return Err(Status::unauthenticated("request authenticate failure"));
        };
        let named = request.metadata.and_then(|mut metadata| metadata.fields.remove("ImpersonatedIdentity")?.kind);
        let impersonated = match named {
            Some(prost_types::value::Kind::StringValue(text)) => Some(text),
            _ => None,
        };
        // What istio-csr compares.
        if impersonated.as_ref().is_some_and(|named| named != uri.as_str()) {
            return Err(Status::unauthenticated("request authenticate failure"));
        }
        let identity: SpiffeId = uri.as_str().parse().map_err(|error| wrong(&error))?;
        let lifetime = Duration::from_secs(request.validity_duration.try_into().unwrap_or(0));
        let chain = self.ca.sign(&request.csr, &identity, lifetime).map_err(|error| wrong(&error))?;
        self.asked.lock().expect("no panic").push(Asked { identity: uri.to_string(), impersonated });
        let (leaf, root) = chain.split_at(chain.len() - self.ca.root_pem().len());
        Ok(Response::new(IstioCertificateResponse { cert_chain: vec![leaf.to_owned(), root.to_owned()] }))
    }
}

/// A running authority.
struct Authority {
    end: oneshot::Sender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Authority {
    fn start(mesh: &Mesh, signs: &Arc<Signs>) -> Result<Authority> {
        let leaf = Leaf { uris: Vec::new(), dns: vec![NAME.to_owned()], ..Leaf::of(&"spiffe://td/ns/a/sa/a".parse()?) };
        let (cert, key) = signs.ca.issue_pem(&leaf);
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(cert, key));
        let service = IstioCertificateServiceServer::from_arc(signs.clone());
        let address = address(mesh);
        let (end, ended) = oneshot::channel::<()>();
        let (listens, ready) = mpsc::channel();
        let thread = mesh.world.wire().begin(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let listener = TcpListener::bind(address).await?;
                let _ = listens.send(());
                let server = Server::builder().tls_config(tls).map_err(io::Error::other)?.add_service(service);
                // Connections end with the runtime, as with a program that dies.
                tokio::select! {
                    served = server.serve_with_incoming(TcpListenerStream::new(listener)) => served.map_err(io::Error::other),
                    _ = ended => Ok(()),
                }
            })
        });
        ready.recv().context("the authority listens")?;
        Ok(Authority { end, thread })
    }

    fn stop(self) -> Result<()> {
        drop(self.end);
        Ok(self.thread.join().expect("no panic")?)
    }
}

fn address(mesh: &Mesh) -> SocketAddr {
    let [controller, _] = mesh.world.controller_ips();
    (controller, PORT).into()
}

/// Nodes a and b, whose agents know the roots of their authority by a file.
fn mesh(name: &str, signs: &Signs) -> Result<(Mesh, PathBuf)> {
    let mut mesh = Mesh::with_nodes(name, &["a", "b"])?;
    let roots = mesh.world.run().dir().join("authority.pem");
    fs::write(&roots, signs.ca.root_pem())?;
    let (address, file) = (address(&mesh).to_string(), roots.display().to_string());
    let known = [("CA_ADDRESS", &*address), ("CA_ROOT_CA", &*file), ("CA_SERVER_NAME", NAME)];
    let setup = known.iter().fold(Setup::default(), |setup, (key, value)| setup.agent(key, value).waypoint(key, value));
    let arguments = ["--ca-address", &*address, "--ca-root-ca", &*file, "--ca-server-name", NAME];
    mesh.setup = setup.controller(&arguments).agent("SECRET_TTL", &LIFETIME.as_secs().to_string());
    mesh.agents.clear();
    mesh.controller.terminate()?;
    mesh.restart_controller()?;
    for node in ["a", "b"] {
        let agent = mesh.start_agent(node)?;
        mesh.agents.push(agent);
    }
    Ok((mesh, roots))
}

/// The one certificate of `node`.
fn certificate(mesh: &Mesh, node: &str) -> Option<Value> {
    serde_json::from_str::<Value>(&mesh.admin(node, "/config").ok()?).ok()?["certificates"].get(0).cloned()
}

#[test]
fn pods_talk_by_certificates_of_an_authority_that_is_not_the_controller() -> Result<()> {
    needs!();
    let signs = Arc::new(Signs { ca: TestCa::new("theirs"), asked: Mutex::default() });
    let (mesh, roots) = mesh("elsewhere", &signs)?;
    let authority = Authority::start(&mesh, &signs)?;
    mesh.namespace("shop", true)?;
    let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
    let db = mesh.enrolled(mesh.pod("db").namespace("shop"), "b")?;
    let _echo = apps::probe(&db, "echo", ECHO, &[])?;
    for pod in [&web, &db] {
        mesh.until_captured(pod)?;
    }
    let to = db.everywhere(ECHO);
    for to in to {
        assert_eq!(ask(&web, to), Answered, "{to}");
    }
    mesh.agent("b").until_access(&["spiffe://cluster.local/ns/shop/sa/web"])?;
    let of = |account: &str| format!("spiffe://cluster.local/ns/shop/sa/{account}");
    for account in ["web", "db"] {
        let asked = Asked { identity: of(account), impersonated: Some(of(account)) };
        ensure!(signs.asked.lock().expect("no panic").contains(&asked), "{account}: {:?}", signs.asked);
    }
    // A waypoint asks for itself.
    let gate: IpAddr = "10.96.0.77".parse()?;
    let waypoint = Waypoint::start(&mesh, "shop", "gate", "a", "service", gate)?;
    let asked = signs.asked.lock().expect("no panic").clone();
    ensure!(asked.contains(&Asked { identity: of("gate"), impersonated: None }), "{asked:?}");
    drop(waypoint);
    // The controller has signed for nobody, and says who does.
    let issued: Value = serde_json::from_str(&mesh.controller_admin("/debug/certificates")?)?;
    ensure!(!issued.to_string().contains("shop/sa"), "{issued}");

    // Roots that are not the authority's: it is not spoken to, and what there is holds on.
    let node_says = |words: &str| {
        until(&format!("{words} at node a"), 2 * LIFETIME, || {
            assert_eq!(ask(&web, to[0]), Answered, "before the certificates have expired");
            let said = certificate(&mesh, "a")?;
            (said["state"] == "available" && said["last_error"].as_str()?.contains(words)).then_some(said)
        })
    };
    fs::write(&roots, TestCa::new("others").root_pem())?;
    let said = node_says("put the root of its certificate there (CA_ROOT_CA)")?;
    ensure!(said["last_error"].as_str().is_some_and(|text| text.contains("authority.pem")), "{said}");
    fs::write(&roots, signs.ca.root_pem())?;
    let renewed = || certificate(&mesh, "a").filter(|said| said["last_error"].is_null()).map(drop);
    until("a certificate after the roots are right again", 2 * LIFETIME, renewed)?;

    // Node a asks again within half of a lifetime, and node b's has a whole one then.
    let serial = || certificate(&mesh, "b").map(|said| said["serial"].clone());
    let before = serial();
    until("node b's next certificate", 2 * LIFETIME, || (serial()? != before.clone()?).then_some(()))?;
    authority.stop()?;
    node_says("ask the authority at")?;
    let expired = || {
        let both = ["a", "b"].map(|node| certificate(&mesh, node).is_some_and(|said| said["state"] == "expired"));
        (both == [true; 2]).then_some(())
    };
    until("certificates that have expired", 2 * LIFETIME, expired)?;
    assert_eq!(ask(&web, to[0]), Reset, "after the certificates have expired");
    let authority = Authority::start(&mesh, &signs)?;
    let back = || {
        let both = ["a", "b"].map(|node| certificate(&mesh, node).is_some_and(|said| said["state"] == "available"));
        (both == [true; 2]).then_some(())
    };
    until("certificates again", 4 * LIFETIME, back)?;
    assert_eq!(ask(&web, to[0]), Answered, "after the authority is back");
    authority.stop()
}

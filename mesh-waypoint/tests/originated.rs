//! TLS of the waypoint's own to an endpoint: whom it takes for the right one, what it shows, and what comes of a failure.

#[path = "support/bench.rs"]
#[allow(dead_code)]
mod bench;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bench::{Bench, key, serve, text};
use http::Request;
use mesh_core::l7::destination::{ClientCertificate, Destination, Originate, Policy, Pool, Roots, Tls};
use mesh_core::l7::route::{
    Action, Backend, BackendRef, Entry, Forward, HeaderOps, HttpRoutes, Match, Retries, Rewrite, Rule,
};
use mesh_core::l7::{Layer7, Protocol};
use mesh_waypoint::keys::Keys;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

struct Leaf {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    pem: (String, String),
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Self { pem, der, issuer: Issuer::new(params, key) }
    }

    fn leaf(&self, names: &[&str]) -> Leaf {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.starts_with("spiffe:") {
                true => SanType::URI((*name).try_into().unwrap()),
                false => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf {
            chain: vec![certificate.der().clone()],
            pem: (certificate.pem(), key.serialize_pem()),
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }
}

/// What a server saw of each handshake: name and protocol that it was asked for.
type Asked = Arc<Mutex<Vec<(Option<String>, Option<String>)>>>;

/// A server of TLS, which asks for a certificate of `clients`, if that is given.
async fn server(leaf: Leaf, clients: Option<&Authority>) -> (SocketAddr, Asked) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.der.clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(leaf.chain, leaf.key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Asked::default());
    let kept = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(io) = acceptor.accept(stream).await else { continue };
            let (_, session) = io.get_ref();
            let protocol = session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
            let is_second = protocol.as_deref() == Some("h2");
            kept.lock().unwrap().push((session.server_name().map(str::to_owned), protocol));
            tokio::spawn(serve(io, is_second, Arc::new(|_: &_| text(200, "by TLS")), Arc::default()));
        }
    });
    (address, asked)
}

/// Requests for `web` are led to `api`, which is spoken to like this.
fn led(model: &mut Layer7, tls: Tls, protocol: Protocol) {
    let to = BackendRef::Service { service: key("api"), port: 80, subset: None };
    let backend = Backend {
        weight: 1,
        to,
        request_headers: HeaderOps::default(),
        response_headers: HeaderOps::default(),
        rewrite: None,
    };
    let forward = Forward { backends: vec![backend], rewrite: Rewrite::default(), otherwise: 503 };
    let rule = Rule {
        origin: "r".into(),
        action: Action::Forward(forward),
        request_headers: HeaderOps::default(),
        response_headers: HeaderOps::default(),
        timeout: None,
        retries: Retries { attempts: 0, ..Retries::default() },
        fault: Default::default(),
        cors: None,
        mirrors: Vec::new(),
        session: None,
    };
    let entries = vec![Entry { matches: Match::default(), rule: 0 }];
    model.ports.get_mut(&80).unwrap().http = Some(HttpRoutes { entries, rules: vec![rule] });
    let general = Policy { tls, pool: Pool::default(), ..Policy::default() };
    let known = Destination { protocols: [(80, protocol)].into(), general, ..Destination::default() };
    model.destinations.insert(key("api"), known);
}

async fn asked(at: SocketAddr, tls: Tls, protocol: Protocol) -> (u16, String) {
    let bench = Bench::new(&[("api", at)], Keys::default(), |model| led(model, tls, protocol)).await;
    let response = bench.ask(Request::get("/").body("").unwrap()).await;
    (response.status().as_u16(), response.into_body())
}

const HOST: &str = "api.shop.svc.cluster.local";

fn originate(roots: &Authority) -> Originate {
    Originate { roots: Some(Roots::Text(roots.pem.as_str().into())), ..Originate::default() }
}

#[tokio::test]
async fn a_server_is_taken_for_the_right_one_by_its_root_and_its_name() {
    let (own, other) = (Authority::new(), Authority::new());
    let identity = "spiffe://td/ns/shop/sa/api";
    let (address, seen) = server(own.leaf(&[HOST, "api.example"]), None).await;
    let (by_identity, _) = server(own.leaf(&[identity]), None).await;
    let names = |names: &[&str]| names.iter().map(|name| (*name).into()).collect::<Vec<std::sync::Arc<str>>>();
    let sni = |name: &str| Some(name.into());
    let good = originate(&own);
    for (at, settings, passes) in [
        (address, good.clone(), true),
        (address, Originate { sni: sni("api.example"), ..good.clone() }, true),
        (address, Originate { sni: sni("else.example"), ..good.clone() }, false),
        (address, Originate { subject_alt_names: names(&["x", "api.example"]), ..good.clone() }, true),
        (address, Originate { subject_alt_names: names(&["x"]), ..good.clone() }, false),
        (address, originate(&other), false),
        // The system's roots do not have it.
        (address, Originate::default(), false),
        (address, Originate { insecure: true, ..originate(&other) }, true),
        (by_identity, good.clone(), false),
        (by_identity, Originate { subject_alt_names: names(&[identity]), ..good.clone() }, true),
        (by_identity, Originate { subject_alt_names: names(&["spiffe://td/ns/shop/sa/web"]), ..good.clone() }, false),
        (by_identity, Originate { roots: Some(Roots::Text("no PEM".into())), ..good }, false),
    ] {
        let (status, body) = asked(at, Tls::Originate(settings.clone()), Protocol::Http).await;
        match passes {
            true => assert_eq!((status, body.as_str()), (200, "by TLS"), "{settings:?}"),
            false => {
                assert_eq!(status, 503, "{settings:?}");
                assert!(body.ends_with("reset reason: remote connection failure"), "{body}");
            }
        }
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0], (Some(HOST.to_owned()), Some("http/1.1".to_owned())));
    assert_eq!(seen[1].0.as_deref(), Some("api.example"));
}

#[tokio::test]
async fn the_protocol_is_the_one_that_is_spoken() {
    let own = Authority::new();
    let (address, seen) = server(own.leaf(&[HOST]), None).await;
    assert_eq!(asked(address, Tls::Originate(originate(&own)), Protocol::Http2).await.0, 200);
    assert_eq!(seen.lock().unwrap()[0].1.as_deref(), Some("h2"));
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_there_is_one() {
    let (own, clients) = (Authority::new(), Authority::new());
    let (address, _) = server(own.leaf(&[HOST]), Some(&clients)).await;
    let place = std::env::temp_dir().join(format!("weft-originated-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    let file = |name: &str, text: &str| {
        let path: PathBuf = place.join(name);
        std::fs::write(&path, text).unwrap();
        Arc::<str>::from(path.to_str().unwrap())
    };
    let certificate = |name: &str, by: &Authority| {
        let leaf = by.leaf(&["gate"]);
        Some(ClientCertificate {
            chain: file(&format!("{name}.crt"), &leaf.pem.0),
            key: file(&format!("{name}.key"), &leaf.pem.1),
        })
    };
    let roots = Some(Roots::File(file("ca.crt", &own.pem)));
    let gone = Some(ClientCertificate { chain: "/nowhere.crt".into(), key: "/nowhere.key".into() });
    for (client, status) in
        [(certificate("good", &clients), 200), (certificate("bad", &own), 503), (None, 503), (gone, 503)]
    {
        let tls = Tls::Originate(Originate { client: client.clone(), roots: roots.clone(), ..Originate::default() });
        assert_eq!(asked(address, tls, Protocol::Http).await.0, status, "{client:?}");
    }
    std::fs::remove_dir_all(&place).unwrap();
}

#[tokio::test]
async fn what_cannot_be_had_is_not_gone_without() {
    let plain = bench::Server::start(|_| text(200, "plain")).await;
    for tls in [Tls::Refused("no Secret".into()), Tls::Originate(Originate { insecure: true, ..Originate::default() })]
    {
        assert_eq!(asked(plain.address, tls, Protocol::Http).await.0, 503);
    }
    assert_eq!(plain.count(), 0);
    assert_eq!(asked(plain.address, Tls::None, Protocol::Http).await.0, 200);
}

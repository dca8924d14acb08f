//! Peers that mean ill, at a pod's tunnel port and in a workload's stead. After each of them the agent serves a good one.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, Response};
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector, client};
use weft_tests::apps;
use weft_tests::mesh::Mesh;
use weft_tests::needs;
use weft_tests::objects;
use weft_tests::outcome::Outcome::{Answered, Reset};
use weft_tests::outcome::ask;
use weft_tests::place::Place;
use weft_tests::pod::Pod;
use weft_tests::program::Program;
use weft_tests::wait::{PATIENCE, until};

/// `web` on node a and `db` on node b, enrolled; `stranger` on node a, in no mesh.
struct World {
    web: Pod,
    db: Pod,
    stranger: Pod,
    ca: Ca,
    _echo: Program,
    /// The agent's memory before anybody was hostile, in KiB.
    memory: u64,
    mesh: Mesh,
}

impl World {
    fn open(name: &str) -> Result<World> {
        let mesh = Mesh::with_nodes(name, &["a", "b"])?;
        mesh.namespace("shop", true)?;
        let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
        let db = mesh.enrolled(mesh.pod("db").namespace("shop"), "b")?;
        let stranger = mesh.pod("stranger").namespace("elsewhere").on(mesh.world.node("a"))?;
        let echo = apps::probe(&db, "echo", ECHO, &[])?;
        for pod in [&web, &db] {
            mesh.until_captured(pod)?;
        }
        let ca = Ca::of(&mesh)?;
        let memory = memory(&mesh)?;
        Ok(World { web, db, stranger, ca, _echo: echo, memory, mesh })
    }

    /// Nothing of the agent has suffered.
    fn unharmed(&self, by: &str) -> Result<()> {
        for to in self.db.everywhere(ECHO) {
            ensure!(ask(&self.web, to) == Answered, "after {by} a good peer is not served");
        }
        let metrics = self.mesh.admin("b", "/metrics")?;
        ensure!(metrics.lines().any(|line| line == "weft_panics_total 0"), "after {by}: {metrics}");
        let grown = memory(&self.mesh)?.saturating_sub(self.memory);
        ensure!(grown < 64 << 10, "after {by} the agent has grown by {grown} KiB");
        Ok(())
    }

    /// Tunnels that the agent of node b refused, by reason.
    fn refused(&self) -> Result<BTreeMap<String, u64>> {
        let metrics = self.mesh.admin("b", "/metrics")?;
        let series = metrics.lines().filter_map(|line| {
            let (reason, count) = line
                .strip_prefix("weft_tunnel_handshakes_refused_total{direction=\"inbound\",reason=\"")?
                .split_once("\"} ")?;
            Some((reason.to_owned(), count.parse().ok()?))
        });
        Ok(series.collect())
    }

    /// What web's own agent would show: good credentials in the wrong hands.
    fn web_itself(&self) -> Result<Minted> {
        let now = SystemTime::now();
        self.ca.mint(&[&self.identity("web")], now - Duration::from_secs(60), now + Duration::from_secs(600))
    }

    fn identity(&self, name: &str) -> String {
        format!("spiffe://cluster.local/ns/shop/sa/{name}")
    }
}

#[test]
fn who_cannot_prove_an_identity_of_this_mesh_gets_no_tunnel() -> Result<()> {
    needs!();
    let world = World::open("no_identity")?;
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    let stranger_ca = Ca::new()?;
    let web = world.identity("web");
    let certificate = |ca: &Ca, uris: &[&str]| ca.mint(uris, now - hour, now + hour);
    let cases: [(&str, Option<Minted>, &str); 8] = [
        ("no certificate", None, "tls_no_certificate"),
        ("another authority's", Some(certificate(&stranger_ca, &[&web])?), "tls_unknown_issuer"),
        ("a self-signed one", Some(self_signed(&web)?), "tls_unknown_issuer"),
        (
            "another trust domain",
            Some(certificate(&world.ca, &["spiffe://evil.example/ns/shop/sa/web"])?),
            "tls_trust_domain",
        ),
        ("an expired one", Some(world.ca.mint(&[&web], now - 2 * hour, now - hour)?), "tls_expired"),
        ("one of tomorrow", Some(world.ca.mint(&[&web], now + hour, now + 2 * hour)?), "tls_not_yet_valid"),
        ("one without a workload", Some(certificate(&world.ca, &["https://example.com/"])?), "tls_invalid_san"),
        ("one with two workloads", Some(certificate(&world.ca, &[&web, &world.identity("db")])?), "tls_invalid_san"),
    ];
    let connect = |from: &Place, to: SocketAddr, who: Option<&Minted>| {
        block(async { request(tls(from, to, who).await?, Method::CONNECT, &world.db.at(ECHO).to_string()).await })
    };
    for from in [world.mesh.world.outside(), &*world.stranger] {
        for to in world.db.everywhere(TUNNEL) {
            for (what, who, reason) in &cases {
                let before = world.refused()?.get(*reason).copied().unwrap_or(0);
                let answer = connect(from, to, who.as_ref());
                ensure!(answer.is_err(), "{what}, from {} to {to}: {answer:?}", from.name());
                // The client may hear of it before it is counted.
                let counted = until(&format!("a refusal by {reason}"), PATIENCE, || {
                    let after = world.refused().ok()?.get(*reason).copied().unwrap_or(0);
                    (after == before + 1).then_some(())
                });
                counted.with_context(|| format!("{what}, from {} to {to}: {:?}", from.name(), world.refused()))?;
            }
        }
        world.unharmed(&format!("what came from {}", from.name()))?;
    }
    // The control: with a certificate of the mesh the same request is answered, wherever it comes from.
    for to in world.db.everywhere(TUNNEL) {
        let good = certificate(&world.ca, &[&web])?;
        assert_eq!(connect(world.mesh.world.outside(), to, Some(&good))?, "200, echoed");
    }
    Ok(())
}

#[test]
fn a_tunnel_leads_to_its_own_pod_and_only_by_connect() -> Result<()> {
    needs!();
    let world = World::open("authority")?;
    let web = world.web_itself()?;
    let outside = world.mesh.world.outside();
    let ask = |method: Method, authority: &str| {
        block(async { request(tls(outside, world.db.at(TUNNEL), Some(&web)).await?, method, authority).await })
    };
    let own = world.db.at(ECHO).to_string();
    assert_eq!(ask(Method::CONNECT, &own)?, "200, echoed");
    assert_eq!(ask(Method::CONNECT, &world.db.at6(ECHO).to_string())?, "200, echoed");
    let node = world.mesh.world.node("b").v4;
    for other in [
        world.web.at(ECHO).to_string(),
        world.web.at6(ECHO).to_string(),
        world.stranger.at(ECHO).to_string(),
        format!("{node}:15000"),
        "127.0.0.1:15000".to_owned(),
        format!("[::ffff:{}]:{ECHO}", world.web.v4),
        "db.shop.svc.cluster.local:7000".to_owned(),
        format!("{}:0", world.db.v4),
        "169.254.169.254:80".to_owned(),
    ] {
        assert_eq!(ask(Method::CONNECT, &other)?, "400", "{other}");
    }
    world.mesh.agent("b").until_access(&["wrong_authority", &world.web.at(ECHO).to_string()])?;
    for method in [Method::GET, Method::POST, Method::OPTIONS] {
        assert_eq!(ask(method.clone(), &own)?, "400", "{method}");
    }
    assert_eq!(ask(Method::CONNECT, &format!("{}:7999", world.db.v4))?, "503", "nobody listens there");
    world.unharmed("requests for what is not the pod's")
}

#[test]
fn a_peers_word_on_where_it_comes_from_is_not_taken() -> Result<()> {
    needs!();
    let world = World::open("forwarded")?;
    let web = world.web_itself()?;
    let outside = world.mesh.world.outside();
    let [outside_ip, _] = world.mesh.world.outside_ips();
    let claiming = |ip: IpAddr| {
        let fields = [("forwarded", format!("for=\"{ip}:40000\"")), ("x-forwarded-for", ip.to_string())];
        block(async {
            let tls = tls(outside, world.db.at(TUNNEL), Some(&web)).await?;
            request_with(tls, Method::CONNECT, &world.db.at(ECHO).to_string(), &fields).await
        })
    };
    let allow = |ip: IpAddr| -> Result<()> {
        let spec = format!("{{rules: [{{from: [{{source: {{ipBlocks: [{ip}]}}}}]}}]}}");
        world.mesh.apply("policy", &objects::security("AuthorizationPolicy", "shop", "from", &spec))?;
        world.mesh.settle()
    };
    allow(world.web.v4.into())?;
    assert_eq!(ask(&world.web, world.db.at(ECHO)), Answered, "who is at the address");
    assert_eq!(claiming(world.web.v4.into())?, "401", "who only says so");
    allow(outside_ip)?;
    assert_eq!(claiming(world.web.v4.into())?, "200, echoed", "the control: its own address counts, whatever it says");
    assert_eq!(ask(&world.web, world.db.at(ECHO)), Reset);
    world.mesh.source.delete("policy")?;
    world.mesh.settle()?;
    world.unharmed("a peer that lies about its address")
}

#[test]
fn bytes_that_are_no_tunnel_end_their_own_connection_only() -> Result<()> {
    needs!();
    let world = World::open("bytes")?;
    let web = world.web_itself()?;
    let outside = world.mesh.world.outside();
    let noise: Vec<u8> = (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();

    // Below TLS.
    for (what, bytes) in [
        ("noise", noise.clone()),
        ("plain HTTP", b"GET / HTTP/1.1\r\nhost: db\r\n\r\n".to_vec()),
        ("HTTP/2 without TLS", PREFACE.to_vec()),
        ("a TLS record without end", vec![0x16, 3, 1, 0xff, 0xff]),
        ("nothing", Vec::new()),
    ] {
        for to in world.db.everywhere(TUNNEL) {
            let stream = outside.dial(to)?;
            block(async {
                let mut stream = tokio_stream(stream)?;
                let _ = stream.write_all(&bytes).await;
                stream.shutdown().await.ok();
                drained(&mut stream).await
            })
            .with_context(|| format!("{what} to {to}"))?;
        }
        world.unharmed(what)?;
    }

    // Within TLS, from a peer that may connect.
    let settings = || [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let connect = connect_headers(&world.db.at(ECHO).to_string());
    for (what, bytes) in [
        ("noise for a preface", noise),
        ("a preface and DATA of no stream", [PREFACE, &frame(DATA, 0, 0, b"x")].concat()),
        ("SETTINGS of five bytes", [PREFACE, &frame(SETTINGS, 0, 0, &[0; 5])].concat()),
        ("a frame larger than allowed", [&settings()[..], &[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1]].concat()),
        ("broken HPACK", [&settings()[..], &frame(HEADERS, END_HEADERS, 1, &[0xff; 32])].concat()),
        ("a window of nothing", [&settings()[..], &frame(WINDOW_UPDATE, 0, 0, &[0; 4])].concat()),
        (
            "a window beyond 2^31",
            [&settings()[..], &frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).repeat(2)].concat(),
        ),
        ("a stream of the server's", [&settings()[..], &frame(HEADERS, END_HEADERS, 2, &connect)].concat()),
        ("a promise", [&settings()[..], &frame(5, END_HEADERS, 1, &[0, 0, 0, 2])].concat()),
        ("a continuation of nothing", [&settings()[..], &frame(CONTINUATION, END_HEADERS, 1, &connect)].concat()),
        ("DATA of a stream that never was", [&settings()[..], &frame(DATA, 0, 7, b"x")].concat()),
    ] {
        block(async {
            let mut stream = tls(outside, world.db.at(TUNNEL), Some(&web)).await?;
            let _ = stream.write_all(&bytes).await;
            let _ = stream.flush().await;
            drained(&mut stream).await
        })
        .with_context(|| what.to_owned())?;
        world.unharmed(what)?;
    }
    Ok(())
}

#[test]
fn floods_cost_the_flooder_its_connection() -> Result<()> {
    needs!();
    let world = World::open("floods")?;
    let web = world.web_itself()?;
    let outside = world.mesh.world.outside();
    let connect = connect_headers(&world.db.at(ECHO).to_string());
    let start = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    // A header field of 15 KiB, without an index: name `x`, value of zeros.
    let field = [&[0, 1, b'x', 0x7f, 0x99, 0x74][..], &[b'0'; 15_000]].concat();
    let first = frame(HEADERS, 0, 1, &connect);
    /// The bytes of a flood, piece by piece.
    type Piece<'a> = Box<dyn Fn(u32) -> Vec<u8> + 'a>;
    let floods: [(&str, Vec<u8>, Piece<'_>); 4] = [
        ("headers without end", first.clone(), Box::new(move |_| frame(CONTINUATION, 0, 1, &field))),
        ("empty continuations", first, Box::new(|_| frame(CONTINUATION, 0, 1, &[]).repeat(1000))),
        (
            "rapid resets",
            Vec::new(),
            Box::new(|n| {
                let stream = 2 * n + 1;
                [frame(HEADERS, END_HEADERS, stream, &connect), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
            }),
        ),
        ("bad requests", Vec::new(), Box::new(|n| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &[0x82, 0x82]))),
    ];
    for (what, before, each) in &floods {
        let sent = block(async {
            let mut stream = tls(outside, world.db.at(TUNNEL), Some(&web)).await?;
            stream.write_all(&start).await?;
            stream.write_all(before).await?;
            let (mut reads, mut writes) = tokio::io::split(stream);
            // What is answered is not read by somebody who floods; here it only tells the end.
            let ended = tokio::spawn(async move {
                let mut buffer = vec![0; 16 << 10];
                while reads.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
            });
            let mut sent = 0;
            for n in 0..FLOOD {
                if ended.is_finished() || writes.write_all(&each(n)).await.is_err() {
                    break;
                }
                sent = n + 1;
                // The connection's end has to have a chance to be seen.
                tokio::task::yield_now().await;
            }
            let _ = tokio::time::timeout(Duration::from_secs(10), ended).await;
            Ok(sent)
        })
        .with_context(|| (*what).to_owned())?;
        println!("figure: {what}: the connection ended after {sent} of {FLOOD} frames or batches");
        ensure!(sent < FLOOD, "{what} is taken for as long as it goes on");
        world.unharmed(what)?;
    }
    Ok(())
}

/// Frames that must be answered one by one cost the agent no more than they cost the peer, and nobody else anything.
#[test]
fn a_peer_that_keeps_the_agent_busy_harms_nobody_else() -> Result<()> {
    needs!();
    let world = World::open("busy")?;
    let web = world.web_itself()?;
    let outside = world.mesh.world.outside();
    for (what, each) in [("SETTINGS", frame(SETTINGS, 0, 0, &[])), ("PING", frame(PING, 0, 0, &[7; 8]))] {
        let stop = AtomicBool::new(false);
        let sent = AtomicU64::new(0);
        thread::scope(|scope| {
            let flood = scope.spawn(|| {
                block(async {
                    let mut stream = tls(outside, world.db.at(TUNNEL), Some(&web)).await?;
                    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await?;
                    let (many, mut at) = (each.repeat(100), 0);
                    while !stop.load(Ordering::Relaxed) {
                        // Answers are never read, so in the end the agent must stop reading rather than keep them.
                        match tokio::time::timeout(Duration::from_millis(100), stream.write(&many[at..])).await {
                            Ok(Ok(written)) => at += written,
                            Ok(Err(_)) => break,
                            Err(_) => {}
                        }
                        if at == many.len() {
                            sent.fetch_add(100, Ordering::Relaxed);
                            at = 0;
                        }
                    }
                    Ok(())
                })
            });
            let watched = until("a flood under way", PATIENCE, || (sent.load(Ordering::Relaxed) >= 1000).then_some(()))
                .and_then(|()| (0..10).try_for_each(|_| world.unharmed(what)));
            stop.store(true, Ordering::Relaxed);
            flood.join().expect("it panics in no case").and(watched)
        })?;
        println!("figure: {what}: {} frames were taken from a peer that reads no answer", sent.into_inner());
        world.unharmed(what)?;
    }
    Ok(())
}

#[test]
fn whoever_answers_in_a_workloads_stead_is_refused_by_name() -> Result<()> {
    needs!();
    let world = World::open("impostor")?;
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    // The mesh is told that `vault` is one of it; who answers there is somebody else.
    let vault = world.mesh.pod("vault").namespace("shop").on(world.mesh.world.node("b"))?;
    world.mesh.apply("pod-shop-vault", &objects::pod(&vault))?;
    world.mesh.settle()?;
    let (own, other) = (world.identity("vault"), world.identity("db"));
    let shown = Arc::new(Mutex::new(world.ca.mint(&[&other], now - hour, now + hour)?));
    let _impostor = impostor(vault.listen(TUNNEL)?, shown.clone());
    let agent = world.mesh.agent("a");
    let stranger_ca = Ca::new()?;
    for (what, certificate, facts) in [
        (
            "another workload",
            world.ca.mint(&[&other], now - hour, now + hour)?,
            vec!["tls_wrong_identity", &*own, &*other],
        ),
        (
            "another trust domain",
            world.ca.mint(&["spiffe://evil.example/ns/shop/sa/vault"], now - hour, now + hour)?,
            vec!["tls_wrong_identity", "evil.example"],
        ),
        ("another authority", stranger_ca.mint(&[&own], now - hour, now + hour)?, vec!["tls_unknown_issuer"]),
        ("an expired certificate", world.ca.mint(&[&own], now - 2 * hour, now - hour)?, vec!["tls_expired"]),
        ("no workload", world.ca.mint(&["https://vault.example/"], now - hour, now + hour)?, vec!["tls_invalid_san"]),
    ] {
        *shown.lock().expect("nobody panics while holding it") = certificate;
        for to in vault.everywhere(ECHO) {
            assert_eq!(ask(&world.web, to), Reset, "{what} at {to}");
        }
        agent.until_access(&facts).with_context(|| what.to_owned())?;
    }
    // The control: with the workload's own certificate the same server is spoken to.
    *shown.lock().expect("nobody panics while holding it") = world.ca.mint(&[&own], now - hour, now + hour)?;
    for to in vault.everywhere(ECHO) {
        assert_eq!(ask(&world.web, to), Answered, "{to}");
    }
    world.unharmed("an impostor")
}

/// An authority whose key the test has.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
}

struct Minted {
    chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Ca {
    /// The mesh's own.
    fn of(mesh: &Mesh) -> Result<Ca> {
        let state = mesh.world.wire().dir().join("ctrl");
        let key = KeyPair::from_pem(&fs::read_to_string(state.join("ca-key.pem"))?)?;
        let certificate = fs::read_to_string(state.join("ca-cert.pem"))?;
        Ok(Ca { issuer: Issuer::from_ca_cert_pem(&certificate, key)? })
    }

    /// One that nobody trusts.
    fn new() -> Result<Ca> {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Ok(Ca { issuer: Issuer::new(params, KeyPair::generate()?) })
    }

    fn mint(&self, uris: &[&str], from: SystemTime, until: SystemTime) -> Result<Minted> {
        let key = KeyPair::generate()?;
        let certificate = leaf(uris, from, until)?.signed_by(&key, &self.issuer)?;
        Ok(Minted { chain: vec![certificate.der().clone()], key: key.serialize_der().into() })
    }
}

fn self_signed(uri: &str) -> Result<Minted> {
    let key = KeyPair::generate()?;
    let now = SystemTime::now();
    let certificate = leaf(&[uri], now - Duration::from_secs(60), now + Duration::from_secs(60))?.self_signed(&key)?;
    Ok(Minted { chain: vec![certificate.der().clone()], key: key.serialize_der().into() })
}

fn leaf(uris: &[&str], from: SystemTime, until: SystemTime) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = uris.iter().map(|uri| Ok(SanType::URI((*uri).try_into()?))).collect::<Result<_>>()?;
    params.not_before = from.into();
    params.not_after = until.into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

impl Minted {
    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

fn block<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(LIMIT, future).await.context("it goes on and on")? })
}

fn tokio_stream(stream: TcpStream) -> Result<tokio::net::TcpStream> {
    stream.set_nonblocking(true)?;
    Ok(tokio::net::TcpStream::from_std(stream)?)
}

type Tls = client::TlsStream<tokio::net::TcpStream>;

/// A TLS client that takes any server, as `who` if that is anybody.
async fn tls(from: &Place, to: SocketAddr, who: Option<&Minted>) -> Result<Tls> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)));
    let mut config = match who {
        Some(who) => config.with_client_auth_cert(who.chain.clone(), who.key())?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = tokio_stream(from.dial(to)?)?;
    Ok(TlsConnector::from(Arc::new(config)).connect(ServerName::IpAddress(to.ip().into()), stream).await?)
}

/// Asks for `authority`; yields the status, and whether bytes came back when that is 200.
async fn request(tls: Tls, method: Method, authority: &str) -> Result<String> {
    request_with(tls, method, authority, &[]).await
}

async fn request_with(tls: Tls, method: Method, authority: &str, fields: &[(&'static str, String)]) -> Result<String> {
    let (client, connection) = h2::client::handshake(tls).await?;
    tokio::spawn(async move { connection.await.ok() });
    let uri = http::Uri::builder();
    let uri = match method {
        Method::CONNECT => uri.authority(authority).build()?,
        _ => uri.scheme("https").authority(authority).path_and_query("/").build()?,
    };
    let request = Request::builder().method(method).uri(uri).version(http::Version::HTTP_2);
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, value)).body(())?;
    let (response, mut send) = client.ready().await?.send_request(request, false)?;
    let response = response.await?;
    let status = response.status().as_u16();
    if status != 200 {
        return Ok(status.to_string());
    }
    send.send_data(Bytes::from_static(b"hello"), false)?;
    let mut body = response.into_body();
    let mut heard = Vec::new();
    while heard.len() < 5 {
        let Some(data) = body.data().await else { bail!("the stream ended after {} bytes", heard.len()) };
        heard.extend_from_slice(&data?);
    }
    ensure!(heard == b"hello", "another answer: {heard:?}");
    Ok("200, echoed".to_owned())
}

/// Reads until the other side closes, in whatever way.
async fn drained(stream: &mut (impl AsyncReadExt + Unpin)) -> Result<()> {
    let mut buffer = vec![0; 16 << 10];
    while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
    Ok(())
}

/// A server of tunnels that asks nobody who he is, echoes, and shows whatever certificate is in `shown` at the time.
fn impostor(listener: TcpListener, shown: Arc<Mutex<Minted>>) -> thread::JoinHandle<Result<()>> {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                let config = {
                    let shown = shown.lock().expect("nobody panics while holding it");
                    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                        .with_safe_default_protocol_versions()?
                        .with_no_client_auth()
                        .with_single_cert(shown.chain.clone(), shown.key())?;
                    config.alpn_protocols = vec![b"h2".to_vec()];
                    config
                };
                tokio::spawn(async move {
                    let tls = TlsAcceptor::from(Arc::new(config)).accept(stream).await?;
                    let mut connection = h2::server::handshake(tls).await?;
                    while let Some(request) = connection.accept().await {
                        let (request, mut respond) = request?;
                        let mut send = respond.send_response(Response::new(()), false)?;
                        let mut body = request.into_body();
                        tokio::spawn(async move {
                            while let Some(Ok(data)) = body.data().await {
                                let _ = body.flow_control().release_capacity(data.len());
                                if send.send_data(data, false).is_err() {
                                    return;
                                }
                            }
                            let _ = send.send_data(Bytes::new(), true);
                        });
                    }
                    anyhow::Ok(())
                });
            }
        })
    })
}

#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// RFC 9113, section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `:method CONNECT` and `:authority`, as literals without an index (RFC 7541, section 6.2.2).
fn connect_headers(authority: &str) -> Vec<u8> {
    let length = u8::try_from(authority.len()).expect("short");
    [&[0x02, 7][..], b"CONNECT", &[0x01, length], authority.as_bytes()].concat()
}

/// Resident memory of node b's agent, in KiB.
fn memory(mesh: &Mesh) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", mesh.agent("b").program.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

const ECHO: u16 = 7000;
const TUNNEL: u16 = 15008;
/// An agent gives a silent peer ten seconds for TLS and ten for HTTP/2.
const LIMIT: Duration = Duration::from_secs(40);
/// Frames, or batches of them, after which a flood was not stopped.
const FLOOD: u32 = 20_000;
/// RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

//! Peers that mean ill, at a pod's tunnel port and in a workload's stead. After each of them the agent serves a good one.

mod peer;
mod minted;
mod frame;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
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

use self::frame::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    connect_headers, frame,
};
use self::minted::{Ca, Minted, self_signed};
use self::peer::{block, drained, impostor, request, request_with, tls, tokio_stream};

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

/// Resident memory of node b's agent, in KiB.
fn memory(mesh: &Mesh) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", mesh.agent("b").program.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Over HBONE, whose end is announced a round trip ahead. Of lanes, `opt_in` asks the same under load.
#[test]
fn who_dialled_before_it_could_know_that_a_pod_leaves_is_served() -> Result<()> {
    needs!();
    let world = World::open("late")?;
    let web = world.web_itself()?;
    block(async {
        let tunnel = tls(world.mesh.world.outside(), world.db.at(TUNNEL), Some(&web)).await?;
        world.mesh.namespace("shop", false)?;
        world.mesh.until_config("b", "db to leave", |config| {
            let pods = config["pods"].as_array().into_iter().flatten();
            pods.filter(|pod| pod["name"] == "db").any(|pod| pod["state"] == "outside")
        })?;
        let answer = request(tunnel, Method::CONNECT, &world.db.at(ECHO).to_string()).await?;
        ensure!(answer == "200, echoed", "its first stream: {answer}");
        Ok(())
    })
}

const ECHO: u16 = 7000;
const TUNNEL: u16 = 15008;
/// Frames, or batches of them, after which a flood was not stopped.
const FLOOD: u32 = 20_000;

//! PeerAuthentication: who may come without an identity, and that nothing gets around it.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::Domain;
use weft_tests::apps;
use weft_tests::capture::Capture;
use weft_tests::mesh::Mesh;
use weft_tests::needs;
use weft_tests::objects::{peer_authentication, security};
use weft_tests::outcome::Outcome::{Answered, Refused, Reset};
use weft_tests::outcome::{Outcome, ask};
use weft_tests::place::Place;
use weft_tests::pod::Pod;
use weft_tests::program::{Program, built};

/// `web` on node a and `db` on node b, enrolled; `db` echoes on [`ECHO`] and [`OTHER`].
struct Shop {
    web: Pod,
    db: Pod,
    _echoes: [Program; 2],
    mesh: Mesh,
}

impl Shop {
    fn open(name: &str) -> Result<Shop> {
        let mesh = Mesh::with_nodes(name, &["a", "b"])?;
        mesh.namespace("shop", true)?;
        let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
        let db = mesh.enrolled(mesh.pod("db").namespace("shop"), "b")?;
        let echoes = [apps::probe(&db, "echo", ECHO, &[])?, apps::probe(&db, "echo", OTHER, &[])?];
        for pod in [&web, &db] {
            mesh.until_captured(pod)?;
        }
        Ok(Shop { web, db, _echoes: echoes, mesh })
    }

    fn peers(&self, yaml: &str) -> Result<()> {
        self.mesh.apply("peers", yaml)?;
        self.mesh.settle()
    }

    fn outside(&self) -> &Place {
        self.mesh.world.outside()
    }
}

#[track_caller]
fn all(from: &Place, to: &[SocketAddr], expected: Outcome) {
    for to in to {
        assert_eq!(ask(from, *to), expected, "from {} to {to}", from.name());
    }
}

#[test]
fn strict_refuses_plaintext_by_the_policys_name_and_admits_the_mesh() -> Result<()> {
    needs!();
    let shop = Shop::open("strict")?;
    let db = shop.db.everywhere(ECHO);
    // Without a PeerAuthentication, and with PERMISSIVE, both come in.
    all(shop.outside(), &db, Answered);
    all(&shop.web, &db, Answered);
    shop.peers(&peer_authentication("shop", "STRICT"))?;
    all(shop.outside(), &db, Reset);
    all(&shop.web, &db, Answered);
    for ip in shop.mesh.world.outside_ips() {
        let line = shop.mesh.agent("b").until_access(&["policy_denied", &ip.to_string()])?;
        ensure!(line.to_string().contains("istio-system/istio_converted_static_strict"), "{line}");
        ensure!(line.to_string().contains("\"security\":\"none\""), "{line}");
    }
    shop.peers(&peer_authentication("shop", "PERMISSIVE"))?;
    all(shop.outside(), &db, Answered);
    all(&shop.web, &db, Answered);
    Ok(())
}

#[test]
fn strictness_is_set_for_the_mesh_a_namespace_a_workload_or_a_port() -> Result<()> {
    needs!();
    let shop = Shop::open("levels")?;
    let mesh = &shop.mesh;
    mesh.namespace("docs", true)?;
    let cache = mesh.enrolled(mesh.pod("cache").namespace("shop"), "b")?;
    let wiki = mesh.enrolled(mesh.pod("wiki").namespace("docs"), "b")?;
    let _echoes = [apps::probe(&cache, "echo", ECHO, &[])?, apps::probe(&wiki, "echo", ECHO, &[])?];
    for pod in [&cache, &wiki] {
        mesh.until_captured(pod)?;
    }
    let to = [("db", &shop.db, ECHO), ("db:other", &shop.db, OTHER), ("cache", &cache, ECHO), ("wiki", &wiki, ECHO)];
    let peer = |namespace: &str, name: &str, spec: &str| security("PeerAuthentication", namespace, name, spec);
    let check = |what: &str, objects: &[String], open: &str| -> Result<()> {
        shop.peers(&objects.join("---\n"))?;
        for at in [Pod::at, Pod::at6] {
            let into: Vec<&str> = to
                .iter()
                .filter(|(_, pod, port)| match ask(shop.outside(), at(pod, *port)) {
                    Answered => true,
                    Reset => false,
                    other => panic!("{what}: {other:?}"),
                })
                .map(|(name, ..)| *name)
                .collect();
            assert_eq!(into.join(" "), open, "{what}: what the outside reaches");
        }
        for (name, pod, port) in &to {
            assert_eq!(ask(&shop.web, pod.at(*port)), Answered, "{what}: web to {name}");
        }
        Ok(())
    };
    let everything = "db db:other cache wiki";
    let strict_mesh = || peer("istio-system", "default", "{mtls: {mode: STRICT}}");
    check("nothing", &[], everything)?;
    check("the mesh is strict", &[strict_mesh()], "")?;
    check(
        "a namespace within a strict mesh is permissive",
        &[strict_mesh(), peer("docs", "default", "{mtls: {mode: PERMISSIVE}}")],
        "wiki",
    )?;
    check("a namespace is strict", &[peer("shop", "default", "{mtls: {mode: STRICT}}")], "wiki")?;
    check(
        "a workload is strict",
        &[peer("shop", "db", "{selector: {matchLabels: {app: db}}, mtls: {mode: STRICT}}")],
        "cache wiki",
    )?;
    check(
        "a workload of a strict namespace is permissive",
        &[
            peer("shop", "default", "{mtls: {mode: STRICT}}"),
            peer("shop", "db", "{selector: {matchLabels: {app: db}}, mtls: {mode: PERMISSIVE}}"),
        ],
        "db db:other wiki",
    )?;
    check(
        "a port is strict",
        &[peer(
            "shop",
            "db",
            "{selector: {matchLabels: {app: db}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {7000: {mode: STRICT}}}",
        )],
        "db:other cache wiki",
    )?;
    check(
        "a port of a strict workload is permissive",
        &[peer(
            "shop",
            "db",
            "{selector: {matchLabels: {app: db}}, mtls: {mode: STRICT}, portLevelMtls: {7001: {mode: PERMISSIVE}}}",
        )],
        "db:other cache wiki",
    )?;
    check(
        "a workload that says nothing is as its namespace",
        &[
            peer("shop", "default", "{mtls: {mode: STRICT}}"),
            peer("shop", "db", "{selector: {matchLabels: {app: db}}, mtls: {mode: UNSET}}"),
        ],
        "wiki",
    )?;
    check("nothing again", &[], everything)
}

#[test]
fn a_disabled_port_is_plaintext_on_the_wire_and_no_other() -> Result<()> {
    needs!("tcpdump");
    let shop = Shop::open("disabled")?;
    shop.peers(&security(
        "PeerAuthentication",
        "shop",
        "db",
        "{selector: {matchLabels: {app: db}}, mtls: {mode: STRICT}, portLevelMtls: {7001: {mode: DISABLE}}}",
    ))?;
    let say = |to: SocketAddr, marker: &str| -> Result<()> {
        let said = shop.web.command(&built("probe")?).args(["say", &to.to_string(), marker]).stdout()?;
        ensure!(said == marker, "{said}");
        Ok(())
    };
    let capture = Capture::start(&shop.mesh.world, shop.mesh.world.node("a"))?;
    say(shop.db.at(OTHER), "MARKER-OPEN-4")?;
    say(shop.db.at6(OTHER), "MARKER-OPEN-6")?;
    say(shop.db.at(ECHO), "MARKER-SHUT-4")?;
    say(shop.db.at6(ECHO), "MARKER-SHUT-6")?;
    let captured = capture.stop()?;
    for (marker, readable) in
        [("MARKER-OPEN-4", true), ("MARKER-OPEN-6", true), ("MARKER-SHUT-4", false), ("MARKER-SHUT-6", false)]
    {
        assert_eq!(captured.contains(marker.as_bytes()), readable, "{marker}");
    }
    all(shop.outside(), &shop.db.everywhere(OTHER), Answered);
    all(shop.outside(), &shop.db.everywhere(ECHO), Reset);
    Ok(())
}

#[test]
fn no_address_of_a_strict_pod_gets_around_it() -> Result<()> {
    needs!("tcpdump");
    let shop = Shop::open("dodges")?;
    let Shop { web, db, mesh, .. } = &shop;
    let second: [SocketAddr; 2] =
        [(SECOND_V4.parse::<std::net::Ipv4Addr>()?, ECHO).into(), (SECOND_V6.parse::<Ipv6Addr>()?, ECHO).into()];
    db.netns().ip(&format!("addr add {SECOND_V4}/32 dev eth0\naddr add {SECOND_V6}/128 dev eth0 nodad\n"))?;
    mesh.world
        .node("b")
        .netns()
        .ip(&format!("route add {SECOND_V4}/32 via {}\nroute add {SECOND_V6}/128 via {}\n", db.v4, db.v6))?;
    let mapped: SocketAddr = (db.v4.to_ipv6_mapped(), ECHO).into();
    let every = [db.at(ECHO), db.at6(ECHO), second[0], second[1], mapped];
    // The control: each of them is a way in while plaintext is welcome.
    all(shop.outside(), &every, Answered);
    shop.peers(&peer_authentication("shop", "STRICT"))?;
    all(shop.outside(), &every, Reset);

    // A client of the mesh that writes the address as IPv4-mapped is carried like any other.
    let capture = Capture::start(&mesh.world, mesh.world.node("a"))?;
    let socket = web.sockets().tcp(Domain::IPV6)?;
    socket.connect(&mapped.into())?;
    (&socket).write_all(b"MARKER-MAPPED")?;
    let mut answer = [0; 13];
    (&socket).read_exact(&mut answer)?;
    assert_eq!(&answer, b"MARKER-MAPPED");
    assert!(!capture.stop()?.contains(b"MARKER-MAPPED"));
    // Nobody told the mesh of the second addresses, so not even a client of the mesh can prove itself there.
    all(web, &second, Reset);
    Ok(())
}

#[test]
fn the_nodes_own_probes_pass_under_strict_and_no_one_elses() -> Result<()> {
    needs!("python3");
    let shop = Shop::open("probes")?;
    let Shop { db, mesh, .. } = &shop;
    let _http = apps::python_http(db, HTTP)?;
    let kubelet = |node: &str| {
        let node = mesh.world.node(node);
        let cgroup = format!("{}/kubelet", node.pods_cgroup());
        Place::new(mesh.world.run(), &format!("kubelet-{}", node.name), node.netns().clone(), &cgroup)
    };
    let (own, other) = (kubelet("b")?, kubelet("a")?);
    let stranger = mesh.pod("stranger").namespace("elsewhere").on(mesh.world.node("b"))?;
    let to = db.everywhere(HTTP);
    for from in [&own, &other, mesh.world.outside(), &stranger] {
        for to in to {
            let head = probe(from, to).with_context(|| format!("permissive, from {}", from.name()))?;
            ensure!(head.starts_with("HTTP/1.0 200"), "{head}");
        }
    }
    shop.peers(&peer_authentication("shop", "STRICT"))?;
    for to in to {
        let head = probe(&own, to).context("a probe of the pod's own node under STRICT")?;
        ensure!(head.starts_with("HTTP/1.0 200"), "{head}");
        for from in [&other, mesh.world.outside(), &stranger] {
            let refused = probe(from, to).expect_err("only the pod's own node may");
            ensure!(refused.to_string().contains("reset"), "from {}: {refused:#}", from.name());
        }
    }
    // What came from outside was forwarded by that very node; the log tells the node's own apart.
    mesh.agent("b").until_access(&["\"src.node\":true", "\"reason\":\"complete\""])?;
    Ok(())
}

#[test]
fn strict_holds_while_the_agent_is_dead() -> Result<()> {
    needs!();
    let mut shop = Shop::open("dead_agent")?;
    shop.peers(&peer_authentication("shop", "STRICT"))?;
    let db = shop.db.everywhere(ECHO);
    all(&shop.web, &db, Answered);
    all(shop.outside(), &db, Reset);
    let at = shop.mesh.agents.iter().position(|agent| agent.node == "b").context("an agent on b")?;
    shop.mesh.agents[at].program.kill()?;
    all(shop.outside(), &db, Refused);
    for to in db {
        let outcome = ask(&shop.web, to);
        ensure!(outcome != Answered, "carried without an agent");
    }
    shop.mesh.agents[at] = shop.mesh.start_agent("b")?;
    shop.mesh.until_captured(&shop.db)?;
    all(shop.outside(), &db, Reset);
    all(&shop.web, &db, Answered);
    Ok(())
}

/// What a kubelet does: an HTTP request, and the first line of the answer.
fn probe(from: &Place, to: SocketAddr) -> Result<String> {
    let mut stream = from.dial(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(8)))?;
    write!(stream, "GET / HTTP/1.0\r\nhost: pod\r\nuser-agent: kube-probe\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

const ECHO: u16 = 7000;
const OTHER: u16 = 7001;
const HTTP: u16 = 8080;
const SECOND_V4: &str = "10.42.2.200";
const SECOND_V6: &str = "fd42:2::200";

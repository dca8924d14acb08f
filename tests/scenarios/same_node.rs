//! Two pods of one node talk without the agent, which keeps every promise of the relay all the same.

mod policy;
mod agents;
mod services;

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use socket2::{Domain, SockRef};
use weft_tests::apps;
use weft_tests::dialogue;
use weft_tests::mesh::{Mesh, Setup};
use weft_tests::needs;
use weft_tests::objects::security;
use weft_tests::outcome::Outcome::{Answered, Refused};
use weft_tests::outcome::{ask, prove, resets};
use weft_tests::place::Place;
use weft_tests::pod::Pod;
use weft_tests::program::Program;
use weft_tests::wait::{PATIENCE, until};

/// `web` in `shop` and `db` in `prod` on node a, both in the mesh; an echo server in db.
struct World {
    mesh: Mesh,
    web: Pod,
    db: Pod,
    _echo: Program,
}

impl World {
    fn open(name: &str) -> Result<World> {
        World::with_setup(name, Setup::default())
    }

    fn with_setup(name: &str, setup: Setup) -> Result<World> {
        World::on(name, &["a"], setup)
    }

    /// The pods are on node a all the same.
    fn on(name: &str, nodes: &[&str], setup: Setup) -> Result<World> {
        let mesh = Mesh::with_setup(name, nodes, setup)?;
        mesh.namespace("shop", true)?;
        mesh.namespace("prod", true)?;
        let web = mesh.enrolled(mesh.pod("web").namespace("shop").service_account("front"), "a")?;
        let db = mesh.enrolled(mesh.pod("db").namespace("prod"), "a")?;
        let echo = apps::probe(&db, "echo", ECHO, &[])?;
        for pod in [&web, &db] {
            mesh.until_captured(pod)?;
        }
        Ok(World { mesh, web, db, _echo: echo })
    }

    /// Waits until so many verdicts let pods talk without the agent.
    fn until_verdicts(&self, count: usize) -> Result<()> {
        let mut last = String::new();
        let waited = until(&format!("{count} verdicts"), PATIENCE, || {
            last = self.mesh.admin("a", "/metrics").ok()?;
            last.lines().any(|line| *line == format!("weft_same_node_verdicts {count}")).then_some(())
        });
        waited.with_context(|| last)
    }

    /// Rows of `/connections` of that list.
    fn rows(&self, list: &str) -> Result<Vec<Value>> {
        self.mesh.connections("a", list)
    }

    /// Waits until so many rows of connections without the agent are listed.
    fn until_direct(&self, rows: usize) -> Result<Vec<Value>> {
        let mut last = Vec::new();
        let waited = until(&format!("{rows} rows of direct connections"), PATIENCE, || {
            last = self.rows("direct").ok()?;
            (last.len() == rows).then(|| last.clone())
        });
        waited.with_context(|| format!("{last:#?}"))
    }

    /// Puts `yaml` in force alone.
    fn policy(&self, yaml: &str) -> Result<()> {
        self.mesh.apply("policy", yaml)?;
        self.mesh.settle()
    }

    fn index(&self) -> usize {
        self.mesh.agents.iter().position(|agent| agent.node == "a").expect("there is one")
    }
}

/// Opens a connection to the pod's echo server and proves it.
fn hold(from: &Place, to: SocketAddr) -> Result<TcpStream> {
    let stream = from.dial(to).with_context(|| format!("from {} to {to}", from.name()))?;
    prove(&stream).with_context(|| format!("from {} to {to}", from.name()))?;
    Ok(stream)
}

fn deny_front() -> String {
    let deny = "{action: DENY, rules: [{from: [{source: {principals: [\"*/sa/front\"]}}]}]}";
    security("AuthorizationPolicy", "prod", "no", deny)
}

#[test]
fn the_first_connection_is_direct_and_on_record() -> Result<()> {
    needs!();
    let world = World::open("same_node")?;
    world.until_verdicts(4)?;
    let streams: Vec<TcpStream> =
        world.db.everywhere(ECHO).into_iter().map(|to| hold(&world.web, to)).collect::<Result<_>>()?;
    world.until_direct(4)?;
    let rows = world.rows("direct")?;
    ensure!(world.rows("carried")?.is_empty(), "the agent carries nothing");
    for stream in &streams {
        let client = stream.local_addr()?.to_string();
        for direction in ["outbound", "inbound"] {
            let row = rows.iter().find(|row| row["client"] == *client && row["direction"] == direction);
            let row = row.with_context(|| format!("{client} {direction}: {rows:#?}"))?;
            assert_eq!(row["security"], "kernel_attested");
            assert_eq!(row["source_identity"], *world.web.identity("cluster.local"));
            assert_eq!(row["destination_identity"], *world.db.identity("cluster.local"));
            assert_eq!((&row["bytes_recv"], &row["bytes_sent"]), (&14.into(), &14.into()));
        }
    }
    let metrics = world.mesh.admin("a", "/metrics")?;
    let counted = |name: &str, reporter: &str| {
        let lines = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(reporter));
        let lines = lines.filter(|line| line.contains("connection_security_policy=\"kernel_attested\""));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum::<u64>()
    };
    for reporter in ["reporter=\"source\"", "reporter=\"destination\""] {
        assert_eq!(counted("istio_tcp_connections_opened_total", reporter), 2, "{metrics}");
        assert_eq!(counted("istio_tcp_connections_closed_total", reporter), 0);
        assert_eq!(counted("istio_tcp_received_bytes_total", reporter), 28, "of live connections too");
        assert_eq!(counted("istio_tcp_sent_bytes_total", reporter), 28);
    }
    drop(streams);
    for direction in ["outbound", "inbound"] {
        let direction = format!("\"direction\":\"{direction}\"");
        let line = world.mesh.agent("a").until_access(&[&direction, "kernel_attested", "\"reason\":\"complete\""])?;
        assert_eq!((&line["bytes_recv"], &line["bytes_sent"]), (&14.into(), &14.into()), "{line:#}");
        assert_eq!((&line["src.workload"], &line["dst.workload"]), (&"web".into(), &"db".into()), "{line:#}");
    }
    world.until_direct(0)?;
    // No byte and no port is the agent's: who accepts sees the very socket that connects.
    let listener = world.db.listen(LATER)?;
    for to in world.db.everywhere(LATER) {
        let client = world.web.dial(to)?;
        let (server, peer) = listener.accept()?;
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        assert_eq!(peer, client.local_addr()?);
        assert_eq!(client.peer_addr()?, to);
        drop(server);
    }
    Ok(())
}

/// What both ends do, how it ended, and bytes from the client and to it.
const BOOKS: [(&str, &str, &str, u64, u64); 14] = [
    ("close", "read all, close", "complete", 0, 0),
    ("read all, close", "close", "complete", 0, 0),
    ("send 5, fin, read all", "read all, send 7, close", "complete", 5, 7),
    ("read all, send 5, close", "send 7, fin, read all, close", "complete", 5, 7),
    ("send 5, read 7, close", "read 5, send 7, read all, close", "complete", 5, 7),
    ("send 5, read 7, read all, close", "read 5, send 7, close", "complete", 5, 7),
    ("meet, fin, read all", "meet, fin, read all", "complete", 0, 0),
    ("send 2000000, close", "read all, close", "complete", 2_000_000, 0),
    ("read all, close", "send 2000000, close", "complete", 0, 2_000_000),
    ("send 50000, fin, read all", "send 50000, fin, read all", "complete", 50_000, 50_000),
    ("send 5, meet, reset", "read 5, meet, read all", "client_reset", 5, 0),
    ("read 5, meet, read all", "send 5, meet, reset", "destination_reset", 0, 5),
    ("send 5, fin, meet, read all", "read all, meet, reset", "destination_reset", 5, 0),
    ("read all, meet, reset", "send 5, fin, meet, read all", "client_reset", 0, 5),
];

#[test]
fn the_books_agree_with_what_both_ends_saw() -> Result<()> {
    needs!();
    let world = World::open("same_node_books")?;
    world.until_verdicts(4)?;
    let listener = world.db.listen(LATER)?;
    for (number, (near, far, reason, received, sent)) in BOOKS.into_iter().enumerate() {
        let client = world.web.dial(world.db.everywhere(LATER)[number % 2])?;
        let from = client.local_addr()?.to_string();
        let (server, _) = listener.accept()?;
        let seen = dialogue::play((client, near), (server, far))?;
        for direction in ["inbound", "outbound"] {
            let direction = format!("\"direction\":\"{direction}\"");
            let line = world.mesh.agent("a").until_access(&[&from, &direction, "kernel_attested"]);
            let line = line.with_context(|| format!("{near} | {far}"))?;
            let books = (&line["reason"], &line["bytes_recv"], &line["bytes_sent"]);
            assert_eq!(books, (&reason.into(), &received.into(), &sent.into()), "{near} | {far}\n{seen}\n{line:#}");
        }
    }
    drop(listener);
    for to in world.db.everywhere(LATER) {
        assert_eq!(ask(&world.web, to), Refused, "as in plain TCP");
        let to = format!("\"{to}\"");
        world.mesh.agent("a").until_access(&["connect_refused", "inbound", &to, "kernel_attested"])?;
        world.mesh.agent("a").until_access(&["connect_refused", "outbound", &to, "kernel_attested"])?;
    }
    Ok(())
}

#[test]
fn marks_and_own_addresses_change_nothing() -> Result<()> {
    needs!();
    let world = World::open("same_node_marks")?;
    let World { mesh, web, db, .. } = &world;
    world.until_verdicts(4)?;
    for (number, mark) in [1, 0x0056_0000, 0x0057_0000, 0x0058_0000, u32::MAX].into_iter().enumerate() {
        let to = db.everywhere(ECHO)[number % 2];
        let socket = web.sockets().tcp(Domain::for_address(to))?;
        socket.set_mark(mark)?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        assert_eq!(SockRef::from(&socket).mark()? & 0x00ff_0000, 0, "{mark:#x}");
        prove(&socket.into()).with_context(|| format!("{mark:#x}"))?;
    }
    world.until_direct(0)?;
    // A mark does not help past a policy either.
    world.policy(&deny_front())?;
    world.until_verdicts(2)?;
    for (number, mark) in [0, 0x0058_0000, 0x0059_0000].into_iter().enumerate() {
        let to = db.everywhere(ECHO)[number % 2];
        let socket = web.sockets().tcp(Domain::for_address(to))?;
        socket.set_mark(mark)?;
        // The reset may be there before connect has looked.
        let refused = socket.connect_timeout(&to.into(), PATIENCE).is_err() || prove(&socket.into()).is_err();
        ensure!(refused, "{mark:#x}");
    }
    let _echo = apps::probe(web, "echo", ECHO, &[])?;
    for to in web.everywhere(ECHO) {
        assert_eq!(ask(web, to), Answered, "its own address {to}");
    }
    ensure!(mesh.agent("a").accesses().iter().all(|line| line["dst.workload"] != "web"), "that is nobody's affair");
    Ok(())
}

#[test]
fn a_pod_that_leaves_begins_nothing_more_and_keeps_what_it_has_until_the_deadline() -> Result<()> {
    needs!();
    let world = World::with_setup("same_node_leave", Setup::default().agent("RELEASE_SECONDS", "3"))?;
    let World { mesh, web, db, .. } = &world;
    let cart = mesh.enrolled(mesh.pod("cart").namespace("shop"), "a")?;
    mesh.until_captured(&cart)?;
    world.until_verdicts(12)?;
    // The source leaves, and then a destination.
    for (leaves, count) in [(web, 4), (db, 0)] {
        let from = if leaves.name == "web" { web } else { &cart };
        let live = hold(from, db.at(ECHO))?;
        world.until_direct(2)?;
        let begun = Instant::now();
        mesh.withdraw(leaves)?;
        world.until_verdicts(count)?;
        prove(&live).context("while the pod is being released")?;
        let ended = resets(vec![live], PATIENCE)?;
        ensure!(ended.len() == 1 && ended[0] - begun > Duration::from_secs(2), "{:?}", begun.elapsed());
        mesh.agent("a").until_access(&["withdrawn", "kernel_attested", &from.identity("cluster.local")])?;
        world.until_direct(0)?;
        mesh.until_config("a", "gone", |config| {
            config["pods"].as_array().is_some_and(|pods| pods.iter().all(|pod| pod["name"] != *leaves.name))
        })?;
        if leaves.name == "web" {
            assert_eq!(ask(from, db.at(ECHO)), Answered, "plain, under PERMISSIVE");
        }
        world.until_direct(0)?;
    }
    Ok(())
}

#[test]
fn who_asks_for_encryption_gets_the_relay() -> Result<()> {
    needs!();
    let world = World::open("same_node_sealed")?;
    let World { mesh, web, db, .. } = &world;
    world.until_verdicts(4)?;
    let live = hold(web, db.at(ECHO))?;
    world.until_direct(2)?;
    let namespace = weft_tests::objects::namespace("prod", Some("weft"));
    let sealed = namespace.replacen("metadata:\n", "metadata:\n  annotations: {weft.io/encrypt: always}\n", 1);
    mesh.apply("namespace-prod", &sealed)?;
    ensure!(resets(vec![live], PATIENCE)?.len() == 1);
    mesh.agent("a").until_access(&["encryption_required", "kernel_attested", "inbound"])?;
    world.until_verdicts(2)?;
    for to in db.everywhere(ECHO) {
        let _live = hold(web, to)?;
        let rows =
            until("both ends to be carried", PATIENCE, || world.rows("carried").ok().filter(|rows| rows.len() == 2))?;
        ensure!(rows.iter().all(|row| row["security"] == "mutual_tls"), "{rows:#?}");
        drop(_live);
        until("both ends to be gone", PATIENCE, || world.rows("carried").ok()?.is_empty().then_some(()))?;
    }
    Ok(())
}

#[test]
fn where_the_node_drops_what_is_direct_the_relay_serves() -> Result<()> {
    needs!();
    let world = World::open("same_node_dropped")?;
    let World { mesh, web, db, .. } = &world;
    world.until_verdicts(4)?;
    // As a firewall would that lets tunnels through and nothing else.
    let rule = format!("rule add to {} ipproto tcp dport {ECHO} blackhole", db.v4);
    mesh.world.node("a").netns().ip(&rule)?;
    let first = web.sockets().dial_within(db.at(ECHO), Duration::from_secs(1));
    ensure!(first.is_err(), "{first:?}");
    mesh.agent("a").until_access(&["connect_timeout", "kernel_attested", "inbound"])?;
    world.until_verdicts(2)?;
    for to in db.everywhere(ECHO) {
        assert_eq!(ask(web, to), Answered);
    }
    mesh.agent("a").until_access(&["\"reason\":\"complete\"", "mutual_tls", "inbound"])?;
    Ok(())
}

#[test]
fn a_setting_turns_it_off() -> Result<()> {
    needs!();
    let world = World::with_setup("same_node_relay", Setup::default().agent("SAME_NODE", "relay"))?;
    let World { web, db, .. } = &world;
    for to in db.everywhere(ECHO) {
        let _live = hold(web, to)?;
        until("both ends to be carried", PATIENCE, || world.rows("carried").ok().filter(|rows| rows.len() >= 2))?;
    }
    ensure!(world.rows("direct")?.is_empty());
    world.until_verdicts(0)
}

const ECHO: u16 = 7000;
const LATER: u16 = 7001;

//! Two pods of one node talk without the agent, which keeps every promise of the relay all the same.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use socket2::{Domain, SockRef};
use weft_tests::apps;
use weft_tests::dialogue;
use weft_tests::mesh::{Mesh, Setup};
use weft_tests::needs;
use weft_tests::objects::security;
use weft_tests::outcome::Outcome::{Answered, Refused, Reset};
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
        let mesh = Mesh::with_setup(name, &["a"], setup)?;
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

#[test]
fn what_policy_denies_is_refused_as_ever_and_an_exception_for_a_port_holds() -> Result<()> {
    needs!();
    let world = World::open("same_node_deny")?;
    let World { mesh, web, db, .. } = &world;
    let _other = apps::probe(db, "echo", LATER, &[])?;
    world.until_verdicts(4)?;
    world.policy(&deny_front())?;
    world.until_verdicts(2)?;
    for to in db.everywhere(ECHO) {
        assert_eq!(ask(web, to), Reset);
        let facts = ["policy_denied", "\"policy\":\"prod/no\"", "\"direction\":\"inbound\"", &format!("\"{to}\"")];
        let line = mesh.agent("a").until_access(&facts)?;
        assert_eq!(line["src.identity"], *web.identity("cluster.local"), "{line:#}");
    }
    let port = format!("{{action: DENY, rules: [{{to: [{{operation: {{ports: [\"{LATER}\"]}}}}]}}]}}");
    world.policy(&security("AuthorizationPolicy", "prod", "port", &port))?;
    world.until_verdicts(4)?;
    for (to, other) in db.everywhere(ECHO).into_iter().zip(db.everywhere(LATER)) {
        let _live = hold(web, to)?;
        world.until_direct(2)?;
        assert_eq!(ask(web, other), Reset);
    }
    world.policy("")?;
    for to in db.everywhere(LATER) {
        assert_eq!(ask(web, to), Answered);
    }
    Ok(())
}

#[test]
fn a_deny_ends_a_thousand_and_no_other() -> Result<()> {
    needs!();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let world = World::open("same_node_revoked")?;
    let World { mesh, web, db, .. } = &world;
    let cart = mesh.enrolled(mesh.pod("cart").namespace("shop"), "a")?;
    mesh.until_captured(&cart)?;
    world.until_verdicts(12)?;
    let many = |from: &Pod, count: usize| -> Result<Vec<TcpStream>> {
        (0..count).map(|number| hold(from, db.everywhere(ECHO)[number % 2])).collect()
    };
    let (doomed, spared) = (many(web, 1000)?, many(&cart, 50)?);
    world.until_direct(2 * 1050)?;
    let written = Instant::now();
    mesh.apply("policy", &deny_front())?;
    let mut ended: Vec<Duration> = resets(doomed, PATIENCE)?.into_iter().map(|at| at - written).collect();
    ended.sort();
    ensure!(ended.len() == 1000, "{} of 1000 were reset", ended.len());
    println!(
        "figure: 1000 direct connections reset after a DENY was written: {:?} (p50), {:?} (last)",
        ended[500], ended[999]
    );
    // As in revocation.rs; the file's way to the agent included.
    let promised = if cfg!(debug_assertions) { Duration::from_millis(1500) } else { Duration::from_millis(500) };
    ensure!(ended[999] <= promised, "{:?}", ended[999]);
    for stream in &spared {
        prove(stream).context("a connection that the policy does not touch")?;
    }
    let agent = mesh.agent("a");
    for direction in ["inbound", "outbound"] {
        let facts = ["kernel_attested", "policy_denied", "\"policy\":\"prod/no\"", direction];
        let count = || {
            let lines = agent.accesses().into_iter().map(|line| line.to_string());
            lines.filter(|line| facts.iter().all(|fact| line.contains(fact))).count()
        };
        until("a line for every connection", PATIENCE, || (count() == 1000).then_some(()))
            .with_context(|| format!("{direction}: {}", count()))?;
    }
    let line = agent.until_access(&["kernel_attested", "policy_denied", "denied by prod/no"])?;
    assert_eq!((&line["bytes_recv"], &line["bytes_sent"]), (&14.into(), &14.into()), "{line:#}");
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
fn without_an_agent_verdicts_hold_and_with_the_next_all_is_accounted_for() -> Result<()> {
    needs!();
    let mut world = World::open("same_node_killed")?;
    let shell = world.mesh.enrolled(world.mesh.pod("shell").namespace("dev"), "a")?;
    world.mesh.namespace("dev", true)?;
    world.mesh.until_captured(&shell)?;
    let not_dev = "{action: DENY, rules: [{from: [{source: {namespaces: [dev]}}]}]}";
    world.policy(&security("AuthorizationPolicy", "prod", "no-dev", not_dev))?;
    world.until_verdicts(10)?;
    let before = hold(&world.web, world.db.at(ECHO))?;
    world.until_direct(2)?;
    let at = world.index();
    world.mesh.agents[at].program.kill()?;
    prove(&before).context("without an agent")?;
    let ends_meanwhile = hold(&world.web, world.db.at6(ECHO)).context("begun without an agent")?;
    let ended = ends_meanwhile.local_addr()?.to_string();
    drop(ends_meanwhile);
    let meanwhile = hold(&world.web, world.db.at6(ECHO)).context("begun without an agent")?;
    for to in world.db.everywhere(ECHO) {
        assert_eq!(ask(&shell, to), Refused, "it was not allowed before either");
    }
    world.mesh.agents[at] = world.mesh.start_agent("a")?;
    for pod in [&world.web, &world.db, &shell] {
        world.mesh.until_captured(pod)?;
    }
    world.until_verdicts(10)?;
    world.until_direct(4)?;
    let agent = world.mesh.agent("a");
    let line = agent.until_access(&[&ended, "inbound", "\"reason\":\"complete\""])?;
    assert_eq!((&line["bytes_recv"], &line["bytes_sent"]), (&14.into(), &14.into()), "{line:#}");
    assert_eq!(line["src.identity"], *world.web.identity("cluster.local"), "{line:#}");
    for (stream, bytes) in [(before, 42), (meanwhile, 28)] {
        prove(&stream).context("with the next agent")?;
        let client = stream.local_addr()?.to_string();
        drop(stream);
        let line = agent.until_access(&[&client, "inbound", "\"reason\":\"complete\""])?;
        assert_eq!((&line["bytes_recv"], &line["bytes_sent"]), (&bytes.into(), &bytes.into()), "{line:#}");
    }
    assert_eq!(ask(&shell, world.db.at(ECHO)), Reset);
    world.until_direct(0)?;
    ensure!(world.rows("outside")?.is_empty(), "they were never outside of the mesh");
    Ok(())
}

#[test]
fn an_agent_that_is_replaced_leaves_its_connections_to_the_next() -> Result<()> {
    needs!();
    let mut world = World::open("same_node_replaced")?;
    world.until_verdicts(4)?;
    let live = hold(&world.web, world.db.at(ECHO))?;
    let client = live.local_addr()?.to_string();
    world.until_direct(2)?;
    let at = world.index();
    let status = world.mesh.agents[at].program.terminate()?;
    ensure!(status.success(), "{status}: there is nothing to drain");
    let lines = world.mesh.agents[at].accesses();
    ensure!(lines.iter().all(|line| !line.to_string().contains(&client)), "it goes on: {lines:#?}");
    prove(&live).context("between two agents")?;
    world.mesh.agents[at] = world.mesh.start_agent("a")?;
    world.until_direct(2)?;
    prove(&live).context("with the next agent")?;
    drop(live);
    for direction in ["inbound", "outbound"] {
        let facts = [&*client, direction, "kernel_attested", "\"reason\":\"complete\""];
        let line = world.mesh.agent("a").until_access(&facts)?;
        assert_eq!((&line["bytes_recv"], &line["bytes_sent"]), (&42.into(), &42.into()), "{line:#}");
    }
    Ok(())
}

#[test]
fn verdicts_of_a_dead_agent_grow_too_old() -> Result<()> {
    needs!();
    let mut world = World::with_setup("same_node_old", Setup::default().agent("SAME_NODE_SECONDS", "3"))?;
    world.until_verdicts(4)?;
    let live = hold(&world.web, world.db.at(ECHO))?;
    let at = world.index();
    world.mesh.agents[at].program.kill()?;
    hold(&world.web, world.db.at6(ECHO)).context("at once")?;
    for to in world.db.everywhere(ECHO) {
        until("verdicts to be too old", PATIENCE, || (ask(&world.web, to) == Refused).then_some(()))?;
    }
    prove(&live).context("what is open goes on")?;
    Ok(())
}

#[test]
fn no_connection_slips_past_a_policy_that_comes_while_it_is_made() -> Result<()> {
    needs!();
    let world = World::open("same_node_race")?;
    let World { mesh, web, db, .. } = &world;
    world.until_verdicts(4)?;
    for round in 0..8 {
        let stop = AtomicBool::new(false);
        let (live, count) = thread::scope(|scope| -> Result<(Vec<TcpStream>, usize)> {
            let dialling: Vec<_> = db
                .everywhere(ECHO)
                .into_iter()
                .map(|to| {
                    let stop = &stop;
                    scope.spawn(move || {
                        let (mut live, mut begun) = (VecDeque::new(), 0);
                        while !stop.load(Ordering::Relaxed) {
                            if let Ok(stream) = web.dial(to) {
                                let _ = (&stream).write_all(b"x");
                                live.push_back(stream);
                                begun += 1;
                            }
                            if live.len() > 2000 {
                                live.pop_front();
                            }
                        }
                        (live, begun)
                    })
                })
                .collect();
            mesh.apply("policy", &deny_front())?;
            mesh.settle()?;
            // The agent has it; its hooks and sweeps are to be through by then.
            thread::sleep(Duration::from_millis(500));
            stop.store(true, Ordering::Relaxed);
            let dialled: Vec<_> = dialling.into_iter().map(|one| one.join().expect("it only dials")).collect();
            let count = dialled.iter().map(|(_, begun)| begun).sum();
            Ok((dialled.into_iter().flat_map(|(live, _)| live).collect(), count))
        })?;
        let mut survived = 0;
        for mut stream in live {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            loop {
                match stream.read(&mut [0; 16]) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        survived += 1;
                        break;
                    }
                    Err(_) => break,
                }
            }
        }
        println!("round {round}: {count} connections begun while the policy came, {survived} survived it");
        assert_eq!(survived, 0, "of {count} in round {round}");
        world.until_direct(0)?;
        mesh.apply("policy", "")?;
        mesh.settle()?;
        world.until_verdicts(4)?;
    }
    let plain =
        mesh.agent("a").accesses().into_iter().filter(|line| {
            line["direction"] == "inbound" && line["security"] == "none" && line["dst.workload"] == "db"
        });
    assert_eq!(plain.count(), 0, "none came as plaintext, past what policy says of its identity");
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

#[test]
fn an_agent_that_cannot_try_it_carries_everything_and_says_so() -> Result<()> {
    needs!();
    let mut world = World::open("same_node_untried")?;
    world.until_verdicts(4)?;
    let at = world.index();
    world.mesh.agents[at].program.kill()?;
    // No room for the cgroup of the trial's application.
    let pods = world.mesh.world.run().cgroup().child(&world.mesh.world.node("a").pods_cgroup())?;
    std::fs::write(pods.dir().join("cgroup.max.descendants"), "0")?;
    world.mesh.agents[at] = world.mesh.start_agent("a")?;
    for pod in [&world.web, &world.db] {
        world.mesh.until_captured(pod)?;
    }
    world.until_verdicts(0)?;
    ensure!(world.mesh.admin("a", "/metrics")?.contains("\nweft_same_node_active 0\n"));
    ensure!(world.mesh.agent("a").program.log().contains("did not pass their trial"));
    for to in world.db.everywhere(ECHO) {
        assert_eq!(ask(&world.web, to), Answered);
    }
    world.mesh.agent("a").until_access(&["mutual_tls", "\"reason\":\"complete\"", "inbound"])?;
    ensure!(world.rows("direct")?.is_empty());
    Ok(())
}

const ECHO: u16 = 7000;
const LATER: u16 = 7001;

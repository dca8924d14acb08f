//! Connections that were open before their pod came into the mesh.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use weft_tests::apps;
use weft_tests::mesh::Mesh;
use weft_tests::needs;
use weft_tests::objects::peer_authentication;
use weft_tests::outcome::{prove, resets};
use weft_tests::place::Place;
use weft_tests::pod::Pod;
use weft_tests::program::Program;
use weft_tests::wait::{PATIENCE, until};

#[test]
fn they_go_on_are_listed_and_end_where_strict_asks() -> Result<()> {
    needs!();
    let shop = Shop::open("before")?;
    let Shop { mesh, db, web, .. } = &shop;
    let mut old = shop.connect()?;
    mesh.namespace("shop", true)?;
    mesh.until_captured(db)?;
    mesh.until_captured(web)?;
    let meshed = shop.meshed()?;
    let carried = hold(mesh.world.outside(), &db.everywhere(ECHO))?;
    shop.until_listed("b", &old.at_db()?)?;
    let from_web = old.from_web.iter().map(|stream| row(stream, true, "outbound")).collect::<Result<_>>()?;
    shop.until_listed("a", &from_web)?;
    old.prove().context("under PERMISSIVE")?;
    let metrics = mesh.admin("b", "/metrics")?;
    for (direction, count) in [("inbound", 8), ("outbound", 2)] {
        let line = format!("weft_connections_outside{{direction=\"{direction}\"}} {count}");
        ensure!(metrics.contains(&line), "{line} is not in {metrics}");
    }
    for line in mesh.connections("b", "outside")? {
        assert_eq!((&line["namespace"], &line["pod"]), (&"shop".into(), &"db".into()), "{line:#}");
        ensure!(line["enrolled_unix"].as_u64() > Some(1_700_000_000), "{line:#}");
    }
    // One that ends leaves the list, and nobody counts it.
    drop(old.from_outside.pop());
    shop.until_listed("b", &old.at_db()?)?;

    let written = Instant::now();
    mesh.apply("peers", &peer_authentication("shop", "STRICT"))?;
    let plain = old.take_plain();
    let ends: BTreeSet<String> = plain.iter().map(|one| Ok(one.local_addr()?.to_string())).collect::<Result<_>>()?;
    let ended = resets(plain, PATIENCE)?;
    ensure!(ended.len() == ends.len(), "{} of {} were reset", ended.len(), ends.len());
    let last = ended.iter().max().map(|at| *at - written);
    println!("figure: connections from before were reset {last:?} after STRICT was written (last)");
    mesh.settle()?;
    old.prove().context("the node's own, and the pod's own outbound connections")?;
    ensure!(resets(carried, PATIENCE)?.len() == 2, "plain ones that the agent carries");
    for stream in &meshed {
        prove(stream).context("a connection of the mesh")?;
    }
    shop.until_listed("b", &old.at_db()?)?;
    shop.until_listed("a", &BTreeSet::new())?;
    // One line for each, in the same words as for any other that a policy ends.
    let agent = mesh.agent("b");
    agent.until_access(&[
        "\"reason\":\"policy_denied\"",
        "istio_converted_static_strict",
        "older than the pod's place",
    ])?;
    let told: Vec<_> = agent.accesses().into_iter().filter(|line| line.to_string().contains("older than")).collect();
    assert_eq!(told.len(), ends.len(), "{told:#?}");
    for line in &told {
        ensure!(line["src.addr"].as_str().is_some_and(|from| ends.contains(from)), "{line:#}");
        assert_eq!((&line["direction"], &line["security"]), (&"inbound".into(), &"none".into()), "{line:#}");
        assert_eq!((&line["dst.workload"], &line["dst.namespace"]), (&"db".into(), &"shop".into()), "{line:#}");
    }
    ensure!(told.iter().any(|line| line["src.workload"] == "web"), "{told:#?}");
    Ok(())
}

#[test]
fn a_pod_that_comes_while_strict_is_in_force_loses_its_plain_ones() -> Result<()> {
    needs!();
    let shop = Shop::open("before_strict")?;
    let mut old = shop.connect()?;
    shop.mesh.apply("peers", &peer_authentication("shop", "STRICT"))?;
    shop.mesh.settle()?;
    old.prove().context("STRICT is for pods in the mesh")?;
    shop.mesh.namespace("shop", true)?;
    let plain = old.take_plain();
    let count = plain.len();
    ensure!(resets(plain, PATIENCE)?.len() == count);
    for pod in [&shop.db, &shop.web] {
        shop.mesh.until_captured(pod)?;
    }
    old.prove().context("the node's own, and the pod's own outbound connections")?;
    for stream in shop.meshed()? {
        prove(&stream)?;
    }
    Ok(())
}

#[test]
fn the_next_agent_knows_them_too() -> Result<()> {
    needs!();
    let mut shop = Shop::open("before_restart")?;
    let mut old = shop.connect()?;
    shop.mesh.namespace("shop", true)?;
    shop.mesh.until_captured(&shop.db)?;
    shop.until_listed("b", &old.at_db()?)?;
    let at = shop.mesh.agents.iter().position(|agent| agent.node == "b").context("an agent on b")?;
    shop.mesh.agents[at].program.kill()?;
    old.prove().context("without an agent")?;
    shop.mesh.agents[at] = shop.mesh.start_agent("b")?;
    shop.mesh.until_captured(&shop.db)?;
    shop.until_listed("b", &old.at_db()?)?;
    old.prove().context("with the next agent")?;
    // Out of the mesh and in again.
    shop.mesh.namespace("shop", false)?;
    shop.until_listed("b", &BTreeSet::new())?;
    shop.mesh.namespace("shop", true)?;
    shop.until_listed("b", &old.at_db()?)?;
    shop.mesh.apply("peers", &peer_authentication("shop", "STRICT"))?;
    let plain = old.take_plain();
    let count = plain.len();
    ensure!(resets(plain, PATIENCE)?.len() == count);
    shop.mesh.settle()?;
    old.prove().context("the node's own, and the pod's own outbound connections")
}

/// web on node a and db on node b, not in the mesh yet; echo servers in db and outside.
struct Shop {
    mesh: Mesh,
    web: Pod,
    db: Pod,
    /// In no mesh, beside db.
    plain: Pod,
    _echoes: [Program; 2],
}

/// Connections to and from db; of each kind one over IPv4 and one over IPv6.
struct Old {
    from_outside: Vec<TcpStream>,
    from_web: Vec<TcpStream>,
    from_plain: Vec<TcpStream>,
    from_node: Vec<TcpStream>,
    to_outside: Vec<TcpStream>,
}

impl Shop {
    fn open(name: &str) -> Result<Shop> {
        let mesh = Mesh::with_nodes(name, &["a", "b"])?;
        mesh.namespace("shop", false)?;
        let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
        let db = mesh.enrolled(mesh.pod("db").namespace("shop"), "b")?;
        let plain = mesh.pod("plain").namespace("elsewhere").on(mesh.world.node("b"))?;
        let echoes = [apps::probe(&db, "echo", ECHO, &[])?, apps::probe(mesh.world.outside(), "echo", ECHO, &[])?];
        Ok(Shop { mesh, web, db, plain, _echoes: echoes })
    }

    fn connect(&self) -> Result<Old> {
        let to = self.db.everywhere(ECHO);
        let outside = self.mesh.world.outside_ips().map(|ip| SocketAddr::new(ip, ECHO));
        Ok(Old {
            from_outside: hold(self.mesh.world.outside(), &to)?,
            from_web: hold(&self.web, &to)?,
            from_plain: hold(&self.plain, &to)?,
            from_node: hold(self.mesh.world.node("b"), &to)?,
            to_outside: hold(&self.db, &outside)?,
        })
    }

    /// Connections of the mesh.
    fn meshed(&self) -> Result<Vec<TcpStream>> {
        hold(&self.web, &self.db.everywhere(ECHO))
    }

    /// Waits until the agent lists these and no others: ends of the pod, of the other side, and which way.
    fn until_listed(&self, node: &str, expected: &BTreeSet<Row>) -> Result<()> {
        let mut last = BTreeSet::new();
        let waited = until(&format!("node {node} to list {expected:#?}"), PATIENCE, || {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let rows = self.mesh.connections(node, "outside").ok()?;
            last =
                rows.iter().map(|row| (text(&row["local"]), text(&row["remote"]), text(&row["direction"]))).collect();
            (last == *expected).then_some(())
        });
        waited.with_context(|| format!("it lists {last:#?}"))
    }
}

impl Old {
    fn inbound(&self) -> impl Iterator<Item = &TcpStream> {
        [&self.from_outside, &self.from_web, &self.from_plain, &self.from_node].into_iter().flatten()
    }

    /// As node b should list them.
    fn at_db(&self) -> Result<BTreeSet<Row>> {
        let inbound = self.inbound().map(|stream| row(stream, false, "inbound"));
        inbound.chain(self.to_outside.iter().map(|stream| row(stream, true, "outbound"))).collect()
    }

    /// Those that STRICT forbids.
    fn take_plain(&mut self) -> Vec<TcpStream> {
        [&mut self.from_outside, &mut self.from_web, &mut self.from_plain]
            .into_iter()
            .flat_map(std::mem::take)
            .collect()
    }

    fn prove(&self) -> Result<()> {
        self.inbound().chain(&self.to_outside).try_for_each(|stream| Ok(prove(stream)?))
    }
}

type Row = (String, String, String);

/// The row of a connection, whose client's end the test has; `ours`: the pod is the client.
fn row(stream: &TcpStream, ours: bool, direction: &str) -> Result<Row> {
    let (client, server) = (stream.local_addr()?.to_string(), stream.peer_addr()?.to_string());
    let (local, remote) = if ours { (client, server) } else { (server, client) };
    Ok((local, remote, direction.to_owned()))
}

/// One connection to each echo server, proved.
fn hold(from: &Place, to: &[SocketAddr]) -> Result<Vec<TcpStream>> {
    to.iter()
        .map(|to| {
            let stream = from.dial(*to).with_context(|| format!("from {} to {to}", from.name()))?;
            prove(&stream).with_context(|| format!("from {} to {to}", from.name()))?;
            Ok(stream)
        })
        .collect()
}

const ECHO: u16 = 7000;

//! Two pods of one node talk without the agent, which keeps every promise of the relay all the same.

use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_tests::apps;
use weft_tests::mesh::{Mesh, Setup};
use weft_tests::needs;
use weft_tests::outcome::prove;
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

    /// Opens a connection to db's echo server and proves it.
    fn hold(&self, to: SocketAddr) -> Result<TcpStream> {
        let stream = self.web.dial(to).with_context(|| format!("to {to}"))?;
        prove(&stream).with_context(|| format!("to {to}"))?;
        Ok(stream)
    }
}

#[test]
fn the_first_connection_is_direct_and_on_record() -> Result<()> {
    needs!();
    let world = World::open("same_node")?;
    world.until_verdicts(4)?;
    let streams: Vec<TcpStream> = world.db.everywhere(ECHO).into_iter().map(|to| world.hold(to)).collect::<Result<_>>()?;
    let rows = until("both ends of both connections to be listed", PATIENCE, || {
        world.rows("direct").ok().filter(|rows| rows.len() == 4)
    })?;
    ensure!(world.rows("carried")?.is_empty(), "the agent carries nothing");
    println!("{rows:#?}");
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
    drop(streams);
    for direction in ["outbound", "inbound"] {
        let line = world.mesh.agent("a").until_access(&[
            &format!("\"direction\":\"{direction}\""),
            "kernel_attested",
            "\"reason\":\"complete\"",
        ])?;
        println!("{line:#}");
        assert_eq!((&line["bytes_recv"], &line["bytes_sent"]), (&14.into(), &14.into()), "{line:#}");
    }
    Ok(())
}

const ECHO: u16 = 7000;

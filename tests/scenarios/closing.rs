//! Ways to end a connection: both ends see through the mesh what plain TCP shows them.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::thread;

use anyhow::{Context, Result, ensure};
use weft_tests::dialogue::{self, Seen};
use weft_tests::mesh::Mesh;
use weft_tests::needs;
use weft_tests::outcome::{Outcome, ask};
use weft_tests::place::Place;
use weft_tests::pod::Pod;
use weft_tests::wait::{PATIENCE, accepted, until};

/// What happens; what the client does and what the server does, from connect or accept on; see [`dialogue`].
///
/// Each is one of those whose outcome plain TCP leaves to no race: what is sent before a reset has been read, or is small
/// enough to have arrived. Urgent data is not among them: it is no byte stream, and the agent does not carry it apart.
const CASES: [(&str, &str, &str); 36] = [
    ("client closes, nothing said", "close", "read all, close"),
    ("server closes, nothing said", "read all, close", "close"),
    ("both close at once, nothing said", "meet, close", "meet, close"),
    ("both half-close at once", "meet, fin, read all", "meet, fin, read all"),
    ("both half-close after 50,000 bytes", "send 50000, fin, read all", "send 50000, fin, read all"),
    ("client closes last", "send 5, read 7, read all, close", "read 5, send 7, close"),
    ("server closes last", "send 5, read 7, close", "read 5, send 7, read all, close"),
    ("client half-closes, server answers", "send 5, fin, read all", "read all, send 7, close"),
    ("server half-closes, client answers", "read all, send 5, close", "send 7, fin, read all, close"),
    ("client half-closes at once, server speaks", "fin, read all", "read all, send 7, close"),
    ("server half-closes at once, client speaks", "read all, send 5, close", "fin, read all, close"),
    ("client half-closes, server streams", "send 5, fin, read all", "read all, send 2000000, close"),
    ("server half-closes, client streams", "read all, send 2000000, close", "fin, read all, close"),
    (
        "client half-closes, server speaks in turns",
        "fin, read 3, meet, read 4, meet, read all",
        "send 3, meet, send 4, meet, close",
    ),
    (
        "client half-closes before the server speaks, both wait",
        "fin, meet, read 1, close",
        "read all, meet, send 1, close",
    ),
    ("client sends and closes at once", "send 7, close", "read all, close"),
    ("server sends and closes at once", "read all, close", "send 7, close"),
    ("client sends much and closes at once", "send 2000000, close", "read all, close"),
    ("server sends much and closes at once", "read all, close", "send 2000000, close"),
    (
        "a byte in turns",
        "send 1, read 1, send 1, read 1, send 1, read 1, close",
        "read 1, send 1, read 1, send 1, read 1, send 1, read all",
    ),
    ("client speaks after its own half-close", "fin, send 5, read all", "read all, send 3, close"),
    ("server speaks after its own half-close", "read all, send 3, close", "fin, send 5, read all"),
    ("client resets, nothing said", "reset", "read all"),
    ("server resets, nothing said", "read all", "reset"),
    ("client resets after its words were read", "send 5, meet, reset", "read 5, meet, read all"),
    ("server resets after its words were read", "read 5, meet, read all", "send 5, meet, reset"),
    ("client sends and resets at once", "send 5, reset", "read all"),
    ("server sends and resets at once", "read all", "send 7, reset"),
    ("client closes with bytes unread", "read 1, meet, close", "send 9, meet, read all"),
    ("server closes with bytes unread", "send 9, meet, read all", "read 1, meet, close"),
    ("client half-closes, server resets", "send 5, fin, meet, read all", "read all, meet, reset"),
    ("server half-closes, client resets", "read all, meet, reset", "send 5, fin, meet, read all"),
    ("client half-closes, then resets", "fin, meet, reset", "read all, meet, send until refused"),
    ("server half-closes, then resets", "read all, meet, send until refused", "fin, meet, reset"),
    ("client closes while the server speaks", "read 1000, close", "send until refused"),
    ("server closes while the client speaks", "send until refused", "read 1000, close"),
];

/// Pods whose connections go every way that there is.
struct Shop {
    mesh: Mesh,
    /// On node a, as is `near`; `db` is on node b.
    web: Pod,
    near: Pod,
    db: Pod,
}

struct Way<'a> {
    name: &'static str,
    client: &'a Place,
    server: &'a Place,
    to: SocketAddr,
    security: &'static str,
}

impl Shop {
    /// Out of the mesh.
    fn open(name: &str) -> Result<Shop> {
        let mesh = Mesh::with_nodes(name, &["a", "b"])?;
        mesh.namespace("shop", false)?;
        let pod = |name, node| mesh.enrolled(mesh.pod(name).namespace("shop"), node);
        let (web, near, db) = (pod("web", "a")?, pod("near", "a")?, pod("db", "b")?);
        Ok(Shop { mesh, web, near, db })
    }

    fn until_in_the_mesh(&self) -> Result<()> {
        [&self.web, &self.near, &self.db].into_iter().try_for_each(|pod| self.mesh.until_captured(pod))
    }

    fn ways(&self) -> [Way<'_>; 5] {
        let Shop { mesh, web, near, db } = self;
        let (outside, [outside4, _]) = (mesh.world.outside(), mesh.world.outside_ips());
        let way = |name, client, server, to, security| Way { name, client, server, to, security };
        [
            way("between nodes", web, db, db.at(7000), "mutual_tls"),
            way("between nodes, IPv6", web, db, db.at6(7000), "mutual_tls"),
            way("on one node", web, near, near.at(7000), "kernel_attested"),
            way("out of the mesh", web, outside, (outside4, 7000).into(), "none"),
            way("into the mesh", outside, db, db.at(7000), "none"),
        ]
    }
}

/// Plays every case between `client` and `server`, all at once.
fn play_all(client: &Place, server: &Place, to: SocketAddr) -> Result<Vec<Seen>> {
    let listener = server.listen(to.port())?;
    let mut playing = Vec::new();
    for (what, near, far) in CASES {
        let client = client.dial(to)?;
        let (server, _) = accepted(&listener).context(what)?;
        playing.push(thread::spawn(move || dialogue::play((client, near), (server, far)).context(what)));
    }
    playing.into_iter().map(|playing| playing.join().expect("a dialogue does not panic")).collect()
}

fn differences(way: &str, plain: &[Seen], mesh: &[Seen]) -> Vec<String> {
    let both = CASES.iter().zip(plain.iter().zip(mesh));
    both.filter(|(_, (plain, mesh))| plain != mesh)
        .map(|((what, ..), (plain, mesh))| {
            format!("{way}: {what}\n  plain {plain}\n  mesh  {mesh}").replace("\nserver", "\n        server")
        })
        .collect()
}

#[test]
fn every_way_to_close_looks_as_in_plain_tcp() -> Result<()> {
    needs!();
    let shop = Shop::open("closing")?;
    let Shop { mesh, web, db, .. } = &shop;
    let plain = play_all(web, db, db.at(7000))?;
    let again = play_all(web, db, db.at(7000))?;
    assert_eq!(differences("twice", &plain, &again), [""; 0], "plain TCP itself leaves these open");
    for ((what, ..), seen) in CASES.iter().zip(&plain) {
        println!("{what}\n  {}", seen.to_string().replace('\n', "\n  "));
    }

    mesh.namespace("shop", true)?;
    shop.until_in_the_mesh()?;
    let mut different = Vec::new();
    for Way { name: way, client, server, to, security } in shop.ways() {
        different.extend(differences(way, &plain, &play_all(client, server, to)?));
        let node = if way == "into the mesh" { "b" } else { "a" };
        mesh.agent(node).until_access(&[&format!("\"{to}\""), &format!("\"{security}\"")])?;
    }
    ensure!(different.is_empty(), "{}", different.join("\n"));
    for node in ["a", "b"] {
        until("no connection left", PATIENCE, || mesh.connections(node, "carried").ok()?.is_empty().then_some(()))?;
    }
    Ok(())
}

/// A side that speaks and resets in the moment that the connection is open has often gone before its agent knows of the
/// connection at all.
#[test]
fn words_before_a_reset_arrive_however_short_the_connection() -> Result<()> {
    needs!();
    let shop = Shop::open("brief")?;
    let mesh = &shop.mesh;
    let brief = |Way { name: way, client, server, to, .. }: Way<'_>| -> Result<()> {
        for (by_server, saying, hearing) in [(true, "send 7, reset", "read all"), (false, "send 5, reset", "read all")]
        {
            let listener = server.listen(to.port())?;
            let far = thread::spawn(move || -> Result<Vec<String>> {
                let script = if by_server { saying } else { hearing };
                let one = |number| {
                    let taken = accepted(&listener)
                        .with_context(|| format!("connection {number} of {BRIEF}, server speaks: {by_server}"));
                    dialogue::speak(taken?.0, script)
                };
                (0..BRIEF).map(one).collect()
            });
            let script = if by_server { hearing } else { saying };
            let near = (0..BRIEF).map(|_| match client.dial(to) {
                // Reset before the client was told of the connection, which happens in plain TCP as well.
                Err(error) if by_server && error.kind() == ErrorKind::ConnectionReset => Ok(None),
                dialled => dialogue::speak(dialled?, script).map(Some),
            });
            let near: Vec<String> = near.filter_map(Result::transpose).collect::<Result<_>>()?;
            let far = far.join().expect("a dialogue does not panic").with_context(|| way.to_owned())?;
            let (heard, words) = if by_server { (near, "read 7, then reset") } else { (far, "read 5, then reset") };
            let wrong: Vec<&String> = heard.iter().filter(|heard| *heard != words).collect();
            ensure!(wrong.is_empty(), "{way}, server speaks: {by_server}: {} of {BRIEF}: {wrong:?}", wrong.len());
        }
        Ok(())
    };
    shop.ways().into_iter().try_for_each(brief).context("plain TCP")?;
    mesh.namespace("shop", true)?;
    shop.until_in_the_mesh()?;
    shop.ways().into_iter().try_for_each(brief).with_context(|| {
        let lines = ["a", "b"].into_iter().flat_map(|node| mesh.agent(node).accesses());
        let others = lines.map(|line| line.to_string()).filter(|line| !line.contains("_reset\""));
        others.collect::<Vec<_>>().join("\n")
    })
}

/// How often each.
const BRIEF: usize = 100;

/// The one difference there is. The agent accepts before it knows whether the other end does: a client that waits for
/// `connect` alone learns from its first read or write what plain TCP tells it at once.
#[test]
fn a_port_where_nobody_listens_is_refused_at_connect_without_the_mesh_and_reset_after_it_with_it() -> Result<()> {
    needs!();
    let mesh = Mesh::with_nodes("refused", &["a", "b"])?;
    mesh.namespace("shop", false)?;
    let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
    let db = mesh.enrolled(mesh.pod("db").namespace("shop"), "b")?;
    let [outside4, outside6] = mesh.world.outside_ips();
    let [own4, own6] = db.everywhere(7000);
    let all = [own4, own6, (outside4, 7000).into(), (outside6, 7000).into()];
    for to in all {
        assert_eq!(ask(&web, to), Outcome::Refused, "{to} in plain TCP");
    }
    mesh.namespace("shop", true)?;
    for pod in [&web, &db] {
        mesh.until_captured(pod)?;
    }
    for to in all {
        assert_eq!(ask(&web, to), Outcome::Reset, "{to} in the mesh");
    }
    // The reason is on both sides' record.
    mesh.agent("b").until_access(&["inbound", "connect_refused", &own4.to_string()])?;
    mesh.agent("a").until_access(&["outbound", "tunnel_unavailable", &own4.to_string()])?;
    Ok(())
}

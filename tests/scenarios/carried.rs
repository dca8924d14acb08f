//! A connection between two enrolled pods on different nodes.

use anyhow::Result;
use weft_tests::apps;
use weft_tests::capture::Capture;
use weft_tests::mesh::Mesh;
use weft_tests::needs;
use weft_tests::program::built;

#[test]
fn a_labelled_namespace_is_unreadable_on_the_wire_and_seen_with_both_identities() -> Result<()> {
    needs!("tcpdump");
    let mesh = Mesh::with_nodes("carried", &["a", "b"])?;
    mesh.namespace("shop", false)?;
    let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
    let db = mesh.enrolled(mesh.pod("db").namespace("shop"), "b")?;
    let _echo = apps::probe(&db, "echo", 7000, &[])?;
    let say = |address: std::net::SocketAddr, marker: &str| {
        web.command(&built("probe")?).args(["say", &address.to_string(), marker]).stdout()
    };

    // The positive control: before the label, the same connection is plain.
    let capture = Capture::start(&mesh.world, mesh.world.node("a"))?;
    assert_eq!(say(db.at(7000), "MARKER-PLAIN-4")?, "MARKER-PLAIN-4");
    assert_eq!(say(db.at6(7000), "MARKER-PLAIN-6")?, "MARKER-PLAIN-6");
    let captured = capture.stop()?;
    assert!(captured.contains(b"MARKER-PLAIN-4") && captured.contains(b"MARKER-PLAIN-6"));

    mesh.namespace("shop", true)?;
    for pod in [&web, &db] {
        mesh.until_captured(pod)?;
    }
    let capture = Capture::start(&mesh.world, mesh.world.node("a"))?;
    for (address, marker) in [(db.at(7000), "MARKER-MESH-4"), (db.at6(7000), "MARKER-MESH-6")] {
        assert_eq!(say(address, marker)?, marker);
    }
    let captured = capture.stop()?;
    for marker in ["MARKER-MESH-4", "MARKER-MESH-6"] {
        assert!(!captured.contains(marker.as_bytes()), "{}", captured.print(mesh.world.wire())?);
    }
    for node in ["a", "b"] {
        mesh.agent(node).until_access(&[&web.identity("cluster.local"), &db.identity("cluster.local")])?;
    }
    Ok(())
}

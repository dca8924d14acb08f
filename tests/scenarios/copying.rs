//! Bytes are read from one socket into the place from which they are written to the other.

use std::env;
use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use weft_tests::bulk::{Manner, between};
use weft_tests::copies::Copies;
use weft_tests::mesh::Setup;
use weft_tests::needs;
use weft_tests::pair::Pair;
use weft_tests::wait::{PATIENCE, accepted};

/// What an agent may move for each byte that it carries: handshakes, log lines and the like.
const ALLOWED: f64 = 0.005;
const BYTES: u64 = 64 << 20;

/// How many bytes each of the two agents moved in user space while `BYTES` went each way.
fn moved(name: &str, setup: Setup) -> Result<[f64; 2]> {
    let dir = env::temp_dir().join(format!("weft-copies-{}-{name}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let copies = Copies::new(&dir)?;
    let mut setup = setup;
    for node in ["a", "b"] {
        for (variable, value) in copies.environment(node)? {
            setup = setup.agent_of(node, &variable, &value);
        }
    }
    let pair = Pair::with_setup(name, setup)?;
    let listener = pair.db.listen(7000)?;
    let pass = |bytes: u64| -> Result<()> {
        let client = pair.web.dial(pair.db.at(7000))?;
        let (server, _) = accepted(&listener)?;
        client.set_read_timeout(Some(PATIENCE))?;
        let [near, far] = between(Manner::Steady, [&client, &server], [bytes; 2], Duration::ZERO)?;
        ensure!(near.received_sha256 == far.sent_sha256);
        Ok(())
    };
    // Handshake, caches and scratch memory are made.
    pass(1 << 20)?;
    let before = [copies.of("a")?, copies.of("b")?];
    ensure!(before.iter().all(|count| *count > 0), "nothing is counted: {before:?}");
    pass(BYTES)?;
    let after = [copies.of("a")?, copies.of("b")?];
    let each = |i: usize| (after[i] - before[i]) as f64 / (2 * BYTES) as f64;
    println!("figure: {name}: bytes moved by memcpy for each byte carried: {:.5} and {:.5}", each(0), each(1));
    let moved = [each(0), each(1)];
    fs::remove_dir_all(&dir)?;
    Ok(moved)
}

#[test]
fn agents_copy_nothing_on_the_way() -> Result<()> {
    needs!("cc");
    for (name, transport) in [("copies_lanes", "auto"), ("copies_hbone", "hbone")] {
        let moved = moved(name, Setup::default().agent("TRANSPORT", transport))?;
        ensure!(moved.iter().all(|each| *each < ALLOWED), "{name}: {moved:?}");
    }
    Ok(())
}

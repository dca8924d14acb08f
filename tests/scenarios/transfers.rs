//! Many bytes, and none for long.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use weft_tests::apps;
use weft_tests::bulk::{Exchanged, Manner, between};
use weft_tests::mesh::Setup;
use weft_tests::needs;
use weft_tests::outcome::prove;
use weft_tests::pair::Pair;
use weft_tests::wait::{PATIENCE, accepted};

/// Exchanges `bytes` each way over one connection and yields what client and server saw.
fn both_ways(client: &TcpStream, server: &TcpStream, bytes: u64) -> Result<[Exchanged; 2]> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let begun = Instant::now();
    let seen = between(Manner::Steady, [client, server], [bytes; 2], Duration::ZERO)?;
    println!("{} MiB each way in {:?}", bytes >> 20, begun.elapsed());
    Ok(seen)
}

fn assert_equal([near, far]: &[Exchanged; 2], bytes: u64) {
    assert_eq!([near.sent, near.received, far.sent, far.received], [bytes; 4]);
    assert_eq!(near.sent_sha256, far.received_sha256);
    assert_eq!(near.received_sha256, far.sent_sha256);
    assert_ne!(near.sent_sha256, far.sent_sha256, "two different streams");
}

#[test]
fn a_gibibyte_each_way_at_once_arrives_whole() -> Result<()> {
    needs!();
    let pair = Pair::open("gibibyte")?;
    let listener = pair.db.listen(7000)?;
    let client = pair.web.dial(pair.db.at(7000))?;
    let (server, _) = accepted(&listener)?;
    let seen = both_ways(&client, &server, 1 << 30)?;
    assert_equal(&seen, 1 << 30);
    drop((client, server));
    let bytes = (1_u64 << 30).to_string();
    let (nodes, security) = pair.nodes();
    for node in nodes {
        let access = pair.mesh.agent(node).until_access(&["complete", security])?;
        ensure!(access.to_string().matches(&bytes).count() == 2, "{node} counted {access:#}");
    }
    Ok(())
}

#[test]
fn many_bytes_arrive_whole_over_ipv6_and_by_a_service() -> Result<()> {
    needs!();
    let pair = Pair::open("mebibytes")?;
    pair.service("db", "db", &[(7000, 7000)])?;
    let listener = pair.db.listen(7000)?;
    for to in pair.ways(7000) {
        let client = pair.web.dial(to)?;
        let (server, _) = accepted(&listener)?;
        assert_equal(&both_ways(&client, &server, 64 << 20)?, 64 << 20);
    }
    Ok(())
}

#[test]
fn every_manner_of_writing_arrives_whole_while_keys_are_renewed() -> Result<()> {
    needs!();
    // A key for each MiB. Minutes of it, with 20 GiB for each path: `cargo xtask soak`.
    let pair = Pair::with_setup("manners", Setup::default().agent("KEY_RECORDS", "64"))?;
    let listener = pair.db.listen(7000)?;
    for manner in Manner::ALL {
        let client = pair.web.dial(pair.db.at(7000))?;
        let (server, _) = accepted(&listener)?;
        let bytes = 24 << 20;
        assert_equal(&between(manner, [&client, &server], [bytes; 2], Duration::ZERO)?, bytes);
    }
    Ok(())
}

#[test]
fn a_connection_that_says_nothing_for_long_lives_on() -> Result<()> {
    needs!();
    let pair = Pair::open("idle")?;
    pair.service("db", "db", &[(7000, 7000)])?;
    let _echo = apps::probe(&pair.db, "echo", 7000, &[])?;
    let silent: Vec<TcpStream> = pair.ways(7000).into_iter().map(|to| pair.web.dial(to)).collect::<Result<_, _>>()?;
    let spoke: Vec<TcpStream> = pair.ways(7000).into_iter().map(|to| pair.web.dial(to)).collect::<Result<_, _>>()?;
    for stream in &spoke {
        prove(stream)?;
    }
    // The silence is the subject. It exceeds the time after which a tunnel's peer is asked for a sign of life, and that at
    // which tunnels without connections are looked for.
    thread::sleep(Duration::from_secs(35));
    for stream in silent.iter().chain(&spoke) {
        prove(stream)?;
        stream.shutdown(Shutdown::Write)?;
        assert_eq!((&*stream).read(&mut [0])?, 0);
    }
    Ok(())
}

#[test]
fn writes_of_any_size_arrive_in_order() -> Result<()> {
    needs!();
    let pair = Pair::open("sizes")?;
    let _echo = apps::probe(&pair.db, "echo", 7000, &[])?;
    for to in pair.db.everywhere(7000) {
        let stream = pair.web.dial(to)?;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        // Small ones and large ones in turn: 1 to 100 bytes, 1 to 300,000.
        let sizes: Vec<usize> = (0..400)
            .map(|n| 1 + usize::try_from(draw() % if n % 2 == 0 { 100 } else { 300_000 }).unwrap_or(0))
            .collect();
        let said: Vec<u8> = (0..sizes.iter().sum::<usize>().div_ceil(8)).flat_map(|_| draw().to_le_bytes()).collect();
        let said = &said[..sizes.iter().sum()];
        let heard = thread::scope(|scope| {
            let (stream, sizes) = (&stream, &sizes);
            scope.spawn(move || -> std::io::Result<()> {
                let mut left = said;
                for size in sizes {
                    let (piece, rest) = left.split_at(*size);
                    (&*stream).write_all(piece)?;
                    left = rest;
                }
                stream.shutdown(Shutdown::Write)
            });
            let mut heard = Vec::with_capacity(said.len());
            stream.set_read_timeout(Some(Duration::from_secs(15)))?;
            (&*stream).read_to_end(&mut heard).map(|_| heard)
        })?;
        assert_eq!(heard.len(), said.len(), "by {to}");
        assert!(heard == said, "by {to}: other bytes");
    }
    Ok(())
}

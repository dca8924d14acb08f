//! What policy forbids is not begun directly, and ends where it was.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use weft_tests::apps;
use weft_tests::needs;
use weft_tests::objects::security;
use weft_tests::outcome::Outcome::{Answered, Reset};
use weft_tests::outcome::{ask, prove, resets};
use weft_tests::pod::Pod;
use weft_tests::wait::{PATIENCE, until};

use super::{ECHO, LATER, World, deny_front, hold};

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

//! A label put on and taken off, while everything goes on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use weft_tests::apps;
use weft_tests::capture::Capture;
use weft_tests::footprint::footprint;
use weft_tests::knock::{Knocking, ask};
use weft_tests::mesh::Mesh;
use weft_tests::needs;
use weft_tests::objects;
use weft_tests::pod::Pod;
use weft_tests::wait::{PATIENCE, until};

#[test]
fn no_request_fails_while_a_label_comes_goes_and_comes_again() -> Result<()> {
    needs!();
    let mesh = Mesh::with_nodes("opt_in_loop", &["a", "b"])?;
    mesh.namespace("shop", false)?;
    let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
    let near = mesh.enrolled(mesh.pod("near").namespace("shop"), "a")?;
    let db = mesh.enrolled(mesh.pod("db").namespace("shop"), "b")?;
    let plain = mesh.enrolled(mesh.pod("plain").namespace("elsewhere"), "b")?;
    mesh.namespace("elsewhere", false)?;
    let pods = [&web, &near, &db];
    let _servers = [&web, &near, &db, &plain].map(|pod| apps::probe(pod, "echo", 7000, &[]));
    for pod in pods {
        until_outside(&mesh, pod)?;
    }
    let loops = [
        Knocking::begin(&web, &db.everywhere(7000)),
        Knocking::begin(&db, &web.everywhere(7000)),
        Knocking::begin(&web, &near.everywhere(7000)),
        Knocking::begin(&near, &plain.everywhere(7000)),
        Knocking::begin(&plain, &web.everywhere(7000)),
        Knocking::begin(mesh.world.outside(), &db.everywhere(7000)),
        Knocking::begin(mesh.world.node("b"), &db.everywhere(7000)),
    ];
    let all_go_on = || loops.iter().try_for_each(|knocking| knocking.until_answered(10));
    for round in 0..4 {
        all_go_on()?;
        mesh.namespace("shop", true)?;
        for pod in pods {
            mesh.until_captured(pod)?;
        }
        all_go_on()?;
        mesh.agent("b").until_access(&[&web.identity("cluster.local"), &db.identity("cluster.local")])?;
        mesh.namespace("shop", false)?;
        for pod in pods {
            until_outside(&mesh, pod).with_context(|| format!("round {round}"))?;
        }
    }
    // And without waiting for anything in between.
    for _ in 0..6 {
        for label in [true, false] {
            mesh.namespace("shop", label)?;
            loops[0].until_answered(3)?;
        }
    }
    all_go_on()?;
    mesh.none_failed(loops)
}

#[test]
fn a_transfer_from_before_the_label_goes_on_outside_the_mesh() -> Result<()> {
    needs!("tcpdump");
    let mesh = Mesh::with_nodes("opt_in_before", &["a", "b"])?;
    mesh.namespace("shop", false)?;
    let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
    let db = mesh.enrolled(mesh.pod("db").namespace("shop"), "b")?;
    let _echo = apps::probe(&db, "echo", 7000, &[])?;
    for address in db.everywhere(7000) {
        let before = PingPong::begin(web.dial(address)?, b"FROM-BEFORE-THE-LABEL")?;
        before.until_more()?;
        mesh.namespace("shop", true)?;
        for pod in [&web, &db] {
            mesh.until_captured(pod)?;
        }
        let capture = Capture::start(&mesh.world, mesh.world.node("a"))?;
        before.until_more()?;
        let after = PingPong::begin(web.dial(address)?, b"FROM-AFTER-THE-LABEL")?;
        after.until_more()?;
        let captured = capture.stop()?;
        assert!(captured.contains(b"FROM-BEFORE-THE-LABEL"), "{}", captured.print(mesh.world.wire())?);
        assert!(!captured.contains(b"FROM-AFTER-THE-LABEL"), "{}", captured.print(mesh.world.wire())?);
        // The agent carries one of the two.
        let carried = mesh.connections("a", "carried")?;
        assert_eq!(carried.len(), 1, "{carried:#?}");

        // Off again: both live, one through the agent until its end, and the pod is clean only then.
        mesh.namespace("shop", false)?;
        until_state(&mesh, &web, "releasing")?;
        until_state(&mesh, &db, "releasing")?;
        before.until_more()?;
        after.until_more()?;
        let capture = Capture::start(&mesh.world, mesh.world.node("a"))?;
        after.until_more()?;
        assert!(!capture.stop()?.contains(b"FROM-AFTER-THE-LABEL"), "what began encrypted stays encrypted");
        after.end()?;
        until_outside(&mesh, &web)?;
        until_outside(&mesh, &db)?;
        before.until_more()?;
        before.end()?;
    }
    Ok(())
}

#[test]
fn nothing_is_left_in_a_pod_once_its_label_is_gone() -> Result<()> {
    needs!();
    let mesh = Mesh::with_nodes("opt_in_clean", &["a", "b"])?;
    mesh.namespace("shop", false)?;
    let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
    let db = mesh.enrolled(mesh.pod("db").namespace("shop"), "b")?;
    let _echo = apps::probe(&db, "echo", 7000, &[])?;
    until_outside(&mesh, &web)?;
    until_outside(&mesh, &db)?;
    ask(&web, db.at(7000), "plain")?;
    let before = [footprint(&web)?, footprint(&db)?];
    for _ in 0..2 {
        mesh.namespace("shop", true)?;
        for pod in [&web, &db] {
            mesh.until_captured(pod)?;
        }
        for address in db.everywhere(7000) {
            ask(&web, address, "in the mesh")?;
        }
        for (pod, before) in [&web, &db].into_iter().zip(&before) {
            assert_ne!(footprint(pod)?, *before, "the test sees what enrolment does");
        }
        mesh.namespace("shop", false)?;
        for (pod, before) in [&web, &db].into_iter().zip(&before) {
            until_outside(&mesh, pod)?;
            let now = footprint(pod)?;
            assert_eq!(now, *before, "{:?}", now.symmetric_difference(before));
        }
    }
    // The same by hand, and for a pod that is in the mesh whatever its label says.
    mesh.namespace("shop", true)?;
    mesh.until_captured(&db)?;
    mesh.withdraw(&db)?;
    until("the pod to be clean", PATIENCE, || footprint(&db).is_ok_and(|now| now == before[1]).then_some(()))?;
    Ok(())
}

#[test]
fn a_pods_own_label_wins_over_its_namespaces() -> Result<()> {
    needs!();
    let mesh = Mesh::with_nodes("opt_in_labels", &["a"])?;
    mesh.namespace("outside", false)?;
    mesh.namespace("shop", true)?;
    let mode = "istio.io/dataplane-mode";
    let in_anyway = mesh.enrolled(mesh.pod("in-anyway").namespace("outside").label(mode, "weft"), "a")?;
    let out_anyway = mesh.enrolled(mesh.pod("out-anyway").namespace("shop").label(mode, "none"), "a")?;
    let usual = mesh.enrolled(mesh.pod("usual").namespace("shop"), "a")?;
    let other = mesh.enrolled(mesh.pod("other").namespace("outside"), "a")?;
    mesh.until_captured(&in_anyway)?;
    mesh.until_captured(&usual)?;
    until_outside(&mesh, &out_anyway)?;
    until_outside(&mesh, &other)?;
    // A label that changes is followed, both ways.
    let mut relabelled = out_anyway.clone();
    relabelled.labels.retain(|(key, _)| key != mode);
    mesh.apply("pod-shop-out-anyway", &objects::pod(&relabelled))?;
    mesh.until_captured(&out_anyway)?;
    let mut relabelled = usual.clone();
    relabelled.labels.push((mode.to_owned(), "none".to_owned()));
    mesh.apply("pod-shop-usual", &objects::pod(&relabelled))?;
    until_outside(&mesh, &usual)
}

#[test]
fn a_pod_that_is_in_no_mesh_is_untouched_with_and_without_an_agent() -> Result<()> {
    needs!();
    let mut mesh = Mesh::with_nodes("opt_in_others", &["a", "b"])?;
    mesh.namespace("shop", false)?;
    mesh.namespace("elsewhere", false)?;
    let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
    let db = mesh.enrolled(mesh.pod("db").namespace("shop"), "b")?;
    let known = mesh.enrolled(mesh.pod("known").namespace("elsewhere"), "a")?;
    // One that no agent was ever told of.
    let stranger = mesh.pod("stranger").namespace("elsewhere").on(mesh.world.node("b"))?;
    let _servers = [&web, &db, &known, &stranger].map(|pod| apps::probe(pod, "echo", 7000, &[]));
    let footprints = || -> Result<_> { Ok([footprint(&known)?, footprint(&stranger)?]) };
    let before = footprints()?;
    let loops =
        [Knocking::begin(&known, &stranger.everywhere(7000)), Knocking::begin(&stranger, &known.everywhere(7000))];
    let all_go_on = || loops.iter().try_for_each(|knocking| knocking.until_answered(20));
    all_go_on()?;
    mesh.namespace("shop", true)?;
    mesh.until_captured(&web)?;
    mesh.until_captured(&db)?;
    all_go_on()?;
    assert_eq!(footprints()?, before);
    for agent in &mut mesh.agents {
        agent.program.kill()?;
    }
    assert!(ask(&web, db.at(7000), "nobody carries it").is_err(), "the positive control: an enrolled pod does notice");
    all_go_on()?;
    assert_eq!(footprints()?, before);
    mesh.none_failed(loops)
}

/// A connection that carries a text to and fro until it is ended.
struct PingPong {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<std::io::Result<()>>,
}

impl PingPong {
    fn begin(mut stream: TcpStream, text: &'static [u8]) -> Result<PingPong> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (stop.clone(), rounds.clone());
        let thread = std::thread::spawn(move || {
            let mut heard = vec![0; text.len()];
            while !told.load(Ordering::Relaxed) {
                stream.write_all(text)?;
                stream.read_exact(&mut heard)?;
                if heard != text {
                    return Err(std::io::Error::other("heard something else"));
                }
                count.fetch_add(1, Ordering::Relaxed);
                // As many as there are at full speed, tcpdump loses on a busy machine.
                std::thread::sleep(Duration::from_micros(200));
            }
            Ok(())
        });
        Ok(PingPong { stop, rounds, thread })
    }

    /// Waits until 20 more have come back.
    fn until_more(&self) -> Result<()> {
        let goal = self.rounds.load(Ordering::Relaxed) + 20;
        until("more to come back", PATIENCE, || (self.rounds.load(Ordering::Relaxed) >= goal).then_some(()))
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().expect("it does not panic")?)
    }
}

/// Waits until the pod is out of the mesh, with nothing of its own in the agent's hands.
fn until_outside(mesh: &Mesh, pod: &Pod) -> Result<()> {
    until_state(mesh, pod, "outside")
}

/// Waits until everything that the pod's agent shows of it is in `state`.
fn until_state(mesh: &Mesh, pod: &Pod, state: &str) -> Result<()> {
    mesh.until_config(&pod.node, &format!("{} {state}", pod.name), |config| {
        let entries = config["pods"].as_array().into_iter().flatten();
        let mine: Vec<&str> = entries
            .filter(|entry| entry["name"] == *pod.name && entry["namespace"] == *pod.namespace)
            .filter_map(|entry| entry["state"].as_str())
            .collect();
        if state == "outside" { mine == ["outside"] } else { mine.contains(&state) }
    })
}

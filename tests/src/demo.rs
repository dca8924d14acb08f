//! `cargo xtask demo`: a mesh of two nodes on this machine, shown step by step with real programs.
//!
//! Every claim is looked up where it can be seen from outside: the payload on the wire between the nodes, the client's
//! address in the applications' own logs, rules and routes in the pods' namespaces. Each step ends with a verdict.

mod steps;
mod requests;
mod keep;
mod stage;
mod traces;
mod screen;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::demo::requests::Requests;
use crate::demo::screen::{Screen, put};
use crate::demo::stage::Stage;
use crate::demo::steps::Steps;
use crate::needs::lacking;
use crate::run::take_down_on_signals;

/// Plays all steps, and stays until Ctrl-C if told to. Fails unless every step held.
///
/// # Errors
/// When the machine lacks something, or the mesh does not come up.
pub fn play(stay: bool) -> Result<ExitCode> {
    take_down_on_signals();
    if let Some(lacking) = lacking(&PROGRAMS) {
        bail!("{lacking}");
    }
    let mut screen = Screen::begin();
    let begun = Instant::now();
    put("Weft: two nodes, one controller on a folder of Kubernetes YAML, five pods that know nothing of a mesh");
    let stage = Stage::set()?;
    introduce(&stage, begun);

    let mut steps = Steps::new(&stage)?;
    screen.step("Plain TCP before opt-in: the payload is readable between the nodes", |screen| steps.plain(screen));
    screen.step("The namespace is labelled: its pods join, nothing restarts", |screen| steps.label(screen));
    screen.step("The same connection: unreadable, both identities proven", |screen| steps.carried(screen));
    screen.step("A policy ends a live connection and refuses the next", |screen| steps.deny(screen));
    screen.step("STRICT: plaintext from outside the mesh is refused", |screen| steps.strict(screen));
    screen.step("The label is removed: everything as before", |screen| steps.unlabel(screen));
    put("\nSecond act, in a mesh of its own: three versions of `reviews` with a waypoint, and Istio's YAML");
    let requests = Requests::set()?;
    screen.step("A canary: 90 to 10 over 1,000 requests, and one user sees v3", |screen| requests.canary(screen));
    screen.step("A timeout, a fault, and tries that the client does not see", |screen| requests.fault(screen));
    screen.step("An endpoint that fails is ejected, and comes back", |screen| requests.ejection(screen));
    screen.step("A token is asked for: none, an old one, a good one", |screen| requests.token(screen));
    drop(requests);
    let held = screen.conclude();
    if !held {
        put("   logs are kept in target/weft-logs/demo");
    }
    if stay {
        keep::stay(&stage)?;
    }
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn introduce(stage: &Stage, begun: Instant) {
    let world = &stage.mesh.world;
    let line = |place: &str, address: &str, what: &str| put(&format!("   {place:<11} {address:<13} {what}"));
    put(&format!("run {}, up in {:.1} s\n", world.run().id(), begun.elapsed().as_secs_f64()));
    line(
        "controller",
        &world.controller_ips()[0].to_string(),
        &format!("reads {}/*.yaml", stage.mesh.source.dir().display()),
    );
    for node in world.nodes() {
        line(&format!("node {}", node.name), &node.v4.to_string(), "mesh-node, and these pods:");
        for (pod, runs) in stage.pods().into_iter().filter(|(pod, _)| pod.node == node.name) {
            line(&format!("  {}", pod.name), &pod.v4.to_string(), &runs);
        }
    }
    line("outside", &world.outside_ips()[0].to_string(), "a machine that is in no mesh");
}

const PROGRAMS: [&str; 8] = ["tcpdump", "redis-server", "redis-cli", "nginx", "curl", "python3", "iperf3", "ip"];

//! A connection in progress is watched: when it would no longer be permitted, it ends.

use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use weft_tests::apps;
use weft_tests::mesh::{Mesh, Setup};
use weft_tests::needs;
use weft_tests::objects::{peer_authentication, security};
use weft_tests::outcome::Outcome::{Answered, Reset};
use weft_tests::outcome::{ask, prove, resets};
use weft_tests::place::Place;
use weft_tests::pod::Pod;
use weft_tests::wait::{PATIENCE, until};

#[test]
fn a_deny_ends_a_thousand_live_connections_and_no_other() -> Result<()> {
    needs!();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let setup = Setup::default().agent("LOG_LEVEL", "info,mesh_node=debug,mesh_net=debug");
    let mesh = Mesh::with_setup("revoked", &["a", "b"], setup)?;
    mesh.namespace("prod", true)?;
    mesh.namespace("dev", true)?;
    let web = mesh.enrolled(mesh.pod("web").namespace("prod").service_account("front"), "a")?;
    let near = mesh.enrolled(mesh.pod("near").namespace("prod").service_account("front"), "b")?;
    let shell = mesh.enrolled(mesh.pod("shell").namespace("dev"), "a")?;
    let db = mesh.enrolled(mesh.pod("db").namespace("prod"), "b")?;
    let _echo = apps::probe(&db, "echo", ECHO, &[])?;
    for pod in [&web, &near, &shell, &db] {
        mesh.until_captured(pod)?;
    }
    let mut doomed = hold(&web, &db, 900)?;
    doomed.extend(hold(&near, &db, 100)?);
    let mut spared = hold(&shell, &db, 50)?;
    spared.extend(hold(mesh.world.outside(), &db, 50)?);
    let thousand = doomed.len();

    let deny = "{action: DENY, rules: [{from: [{source: {principals: [\"*/sa/front\"]}}]}]}";
    let (written, written_at) = (Instant::now(), SystemTime::now());
    mesh.apply("policy", &security("AuthorizationPolicy", "prod", "no", deny))?;
    let mut ended: Vec<Duration> = resets(doomed, PATIENCE)?.into_iter().map(|at| at - written).collect();
    ended.sort();
    ensure!(ended.len() == thousand, "{} of {thousand} were reset", ended.len());
    let heard = heard(&mesh, "b", written_at)?;
    let at = |percent: usize| ended[(thousand - 1) * percent / 100];
    let (p50, p99, worst) = (at(50), at(99), at(100));
    println!(
        "figure: {thousand} live connections reset after a DENY was written: {p50:?} (p50), {p99:?} (p99), {worst:?} (last); \
         the agent had it after {heard:?}"
    );
    // A release build is held to what is promised. Unoptimised, a thousand ends and their lines are 0.2 s of processor time
    // at each of two agents, and how long that takes says only how busy the machine is.
    if !cfg!(debug_assertions) {
        ensure!(p99.saturating_sub(heard) <= PROMISED, "p99 {p99:?}, of which {heard:?} to the agent");
    }

    for stream in &spared {
        prove(stream).context("a connection that the policy does not touch")?;
    }
    let lines = |node: &str, facts: [&str; 3]| {
        let agent = mesh.agent(node);
        let all = agent.accesses();
        all.iter().map(Value::to_string).filter(|line| facts.iter().all(|fact| line.contains(fact))).count()
    };
    let denied = ["\"reason\":\"policy_denied\"", "\"policy\":\"prod/no\"", "\"direction\":\"inbound\""];
    until("a line for every connection", PATIENCE, || (lines("b", denied) == thousand).then_some(()))
        .with_context(|| format!("there are {}", lines("b", denied)))?;
    for to in db.everywhere(ECHO) {
        assert_eq!(ask(&web, to), Reset);
        assert_eq!(ask(&shell, to), Answered);
    }
    mesh.apply("policy", "")?;
    mesh.settle()?;
    for to in db.everywhere(ECHO) {
        assert_eq!(ask(&web, to), Answered, "after the policy is gone");
    }
    Ok(())
}

#[test]
fn strict_ends_live_plaintext_connections_and_spares_the_mesh() -> Result<()> {
    needs!();
    let mesh = Mesh::with_nodes("late_strict", &["a", "b"])?;
    mesh.namespace("shop", true)?;
    let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
    let db = mesh.enrolled(mesh.pod("db").namespace("shop"), "b")?;
    let _echo = apps::probe(&db, "echo", ECHO, &[])?;
    for pod in [&web, &db] {
        mesh.until_captured(pod)?;
    }
    let plain = hold(mesh.world.outside(), &db, 20)?;
    let meshed = hold(&web, &db, 20)?;
    mesh.apply("peers", &peer_authentication("shop", "STRICT"))?;
    ensure!(resets(plain, PATIENCE)?.len() == 20);
    mesh.settle()?;
    for stream in &meshed {
        prove(stream).context("a connection of the mesh")?;
    }
    let line = mesh.agent("b").until_access(&["policy_denied", "istio_converted_static_strict"])?;
    ensure!(
        line["bytes_recv"].as_u64() > Some(0) || line.to_string().contains("\"bytes_recv\":1"),
        "a live one: {line}"
    );
    Ok(())
}

#[test]
fn an_allow_that_goes_takes_its_connections_along() -> Result<()> {
    needs!();
    let mesh = Mesh::with_nodes("late_allow", &["a", "b"])?;
    mesh.namespace("shop", true)?;
    let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
    let cart = mesh.enrolled(mesh.pod("cart").namespace("shop"), "a")?;
    let db = mesh.enrolled(mesh.pod("db").namespace("shop"), "b")?;
    let _echo = apps::probe(&db, "echo", ECHO, &[])?;
    for pod in [&web, &cart, &db] {
        mesh.until_captured(pod)?;
    }
    let allow = |principals: &str| {
        let spec = format!(
            "{{selector: {{matchLabels: {{app: db}}}}, rules: [{{from: [{{source: {{principals: [{principals}]}}}}]}}]}}"
        );
        security("AuthorizationPolicy", "shop", "only", &spec)
    };
    mesh.apply("policy", &allow("\"*/sa/web\", \"*/sa/cart\""))?;
    mesh.settle()?;
    let (going, staying) = (hold(&web, &db, 10)?, hold(&cart, &db, 10)?);
    mesh.apply("policy", &allow("\"*/sa/cart\""))?;
    ensure!(resets(going, PATIENCE)?.len() == 10);
    for stream in &staying {
        prove(stream).context("a connection that is still allowed")?;
    }
    mesh.agent("b").until_access(&["no_allow_matched", &web.identity("cluster.local")])?;
    Ok(())
}

#[test]
fn a_withdrawn_pods_connections_end_at_the_deadline_and_not_before() -> Result<()> {
    needs!();
    let mesh = Mesh::with_setup("withdrawn", &["a", "b"], Setup::default().agent("RELEASE_SECONDS", "3"))?;
    mesh.namespace("shop", true)?;
    let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
    let db = mesh.enrolled(mesh.pod("db").namespace("shop"), "b")?;
    let kept = mesh.enrolled(mesh.pod("kept").namespace("shop"), "b")?;
    let _echoes = [apps::probe(&db, "echo", ECHO, &[])?, apps::probe(&kept, "echo", ECHO, &[])?];
    for pod in [&web, &db, &kept] {
        mesh.until_captured(pod)?;
    }
    let live = hold(&web, &db, 10)?;
    let beside = hold(&web, &kept, 10)?;
    mesh.source.delete("pod-shop-db")?;
    mesh.settle()?;
    for stream in &live {
        prove(stream).context("a deleted pod's connections live on while it terminates")?;
    }
    let begun = Instant::now();
    mesh.withdraw(&db)?;
    for stream in &live {
        prove(stream).context("and while it is being released")?;
    }
    let ended = resets(live, PATIENCE)?;
    ensure!(ended.len() == 10, "{} of 10 were reset", ended.len());
    let first = ended.iter().map(|at| *at - begun).min().context("ten of them")?;
    ensure!(first > Duration::from_secs(2), "the first one ended after {first:?}");
    mesh.agent("b").until_access(&["\"reason\":\"withdrawn\""])?;
    for stream in &beside {
        prove(stream).context("another pod's connection")?;
    }
    mesh.until_config("b", "db gone", |config| !config["pods"].to_string().contains("\"db\""))?;
    Ok(())
}

/// Opens connections to the pod's echo server, half of them over IPv6, and proves each.
fn hold(from: &Place, to: &Pod, count: usize) -> Result<Vec<TcpStream>> {
    (0..count)
        .map(|number| {
            let to = to.everywhere(ECHO)[number % 2];
            let stream = from.dial(to).with_context(|| format!("connection {number} from {} to {to}", from.name()))?;
            prove(&stream).with_context(|| format!("connection {number} from {} to {to}", from.name()))?;
            Ok(stream)
        })
        .collect()
}

/// How long after `written` the agent of `node` heard of a policy.
fn heard(mesh: &Mesh, node: &str, written: SystemTime) -> Result<Duration> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let written = written.duration_since(SystemTime::UNIX_EPOCH)?;
    let written = Duration::from_nanos(u64::try_from(written.as_nanos() % DAY.as_nanos())?);
    let log = mesh.agent(node).program.log();
    let times = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).filter(|line| {
        line.to_string().contains("control stream update") && line.to_string().contains("Authorization")
    });
    let since: Option<Duration> = times
        .filter_map(|line| {
            // 2026-01-02T03:04:05.678901Z
            let text = line["timestamp"].as_str()?.split_once('T')?.1.trim_end_matches('Z').to_owned();
            let mut parts = text.split(':');
            let (hours, minutes) = (parts.next()?.parse::<u64>().ok()?, parts.next()?.parse::<u64>().ok()?);
            let seconds = parts.next()?.parse::<f64>().ok()?;
            let at = Duration::from_secs(hours * 3600 + minutes * 60) + Duration::from_secs_f64(seconds);
            at.checked_sub(written)
        })
        .next();
    since.context("no line of the agent says when it heard of the policy")
}

const ECHO: u16 = 7000;
/// Within this time of an agent hearing of a policy, what it forbids has ended: 99 of 100 connections.
const PROMISED: Duration = Duration::from_millis(250);

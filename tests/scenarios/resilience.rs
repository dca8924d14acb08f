//! A DestinationRule's limits, ejections, balance and places, at the client's agent and without a waypoint.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weft_tests::apps;
use weft_tests::held::Held;
use weft_tests::mesh::{Mesh, Setup};
use weft_tests::needs;
use weft_tests::objects;
use weft_tests::outcome::Outcome::{Answered, Reset};
use weft_tests::outcome::ask;
use weft_tests::pair::{CLUSTER_IPS, Pair};
use weft_tests::pod::Pod;
use weft_tests::program::Program;
use weft_tests::wait::{PATIENCE, until};

fn rule(policy: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: db, namespace: shop}}, \
         spec: {{host: db, trafficPolicy: {{{policy}}}}}}}"
    )
}

/// `web` on node a asks the Service `db`, port 80, which is several pods on node b; each greets with its own name.
/// A name may say another node: `db1@a`.
struct Shop {
    web: Pod,
    dbs: Vec<Pod>,
    greeters: Vec<Program>,
    mesh: Mesh,
}

impl Shop {
    fn open(name: &str, names: &[&str]) -> Result<Shop> {
        let mesh = Mesh::with_setup(name, &["a", "b"], Setup::default().agent("WORKER_THREADS", "1"))?;
        mesh.namespace("shop", true)?;
        mesh.apply("service", &objects::service("shop", "db", &CLUSTER_IPS, "db", &[(80, 7000)]))?;
        let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
        let dbs = names.iter().map(|name| {
            let (name, node) = name.split_once('@').unwrap_or((name, "b"));
            mesh.enrolled(mesh.pod(name).namespace("shop").label("app", "db"), node)
        });
        let dbs: Vec<Pod> = dbs.collect::<Result<_>>()?;
        let greeters = dbs.iter().map(|db| apps::probe(db, "greet", 7000, &["--greeting", &db.name]));
        let greeters = greeters.collect::<Result<_>>()?;
        for pod in dbs.iter().chain([&web]) {
            mesh.until_captured(pod)?;
        }
        mesh.settle()?;
        Ok(Shop { web, dbs, greeters, mesh })
    }

    fn apply(&self, policy: &str) -> Result<()> {
        self.mesh.apply("rule", &rule(policy))?;
        self.mesh.settle()
    }

    /// Who answers a connection.
    fn greeted(&self) -> Result<String> {
        let mut stream = self.web.dial(SocketAddr::new(CLUSTER_IPS[0], 80))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut greeting = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte)?;
            greeting.push(byte[0]);
        }
        stream.write_all(b"QUIT\r\n")?;
        stream.read_to_end(&mut Vec::new())?;
        Ok(String::from_utf8(greeting)?.trim_end().to_owned())
    }

    /// Who answers how many of `count` connections, one after the other.
    fn answers(&self, count: usize) -> Result<BTreeMap<String, usize>> {
        let mut answers = BTreeMap::new();
        for _ in 0..count {
            *answers.entry(self.greeted()?).or_default() += 1;
        }
        Ok(answers)
    }
}

#[test]
fn a_pod_gets_as_many_connections_as_the_rule_says_and_places_come_back() -> Result<()> {
    needs!();
    let pair = Pair::open("limit")?;
    pair.service("db", "db", &[(80, 7000)])?;
    let _echo = apps::probe(&pair.db, "echo", 7000, &[])?;
    pair.mesh.apply("rule", &rule("connectionPool: {tcp: {maxConnections: 3}}"))?;
    pair.mesh.settle()?;
    let to = SocketAddr::new(CLUSTER_IPS[0], 80);
    let mut held = (0..3).map(|_| Held::begin(&pair.web, to)).collect::<Result<Vec<_>>>()?;
    assert_eq!(ask(&pair.web, to), Reset, "the fourth");
    pair.mesh.agent("a").until_access(&["\"reason\":\"max_connections\"", "outbound"])?;
    // The limit is the service's: the pod's own address is reached as ever.
    assert_eq!(ask(&pair.web, pair.db.at(7000)), Answered);
    held.pop();
    until("the place comes back", PATIENCE, || (ask(&pair.web, to) == Answered).then_some(()))?;
    held.iter().try_for_each(Held::check)?;
    pair.mesh.source.delete("rule")?;
    pair.mesh.settle()?;
    for _ in 0..3 {
        held.push(Held::begin(&pair.web, to)?);
    }
    Ok(())
}

#[test]
fn idle_and_old_connections_end_when_the_rule_says_so() -> Result<()> {
    needs!();
    let pair = Pair::open("lifetime")?;
    pair.service("db", "db", &[(80, 7000), (81, 7000)])?;
    let _echo = apps::probe(&pair.db, "echo", 7000, &[])?;
    let policy = "connectionPool: {tcp: {idleTimeout: 1s}}, \
                  portLevelSettings: [{port: {number: 81}, connectionPool: {tcp: {maxConnectionDuration: 2s}}}]";
    pair.mesh.apply("rule", &rule(policy))?;
    pair.mesh.settle()?;
    let [idle, busy] = [(); 2].map(|()| Held::begin(&pair.web, SocketAddr::new(CLUSTER_IPS[0], 80)));
    let (idle, busy) = (idle?, busy?);
    let old = Held::begin(&pair.web, SocketAddr::new(CLUSTER_IPS[0], 81))?;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2500) {
        busy.check().context("a connection that speaks")?;
        if begun.elapsed() < Duration::from_millis(1500) {
            old.check().context("a connection that is not old enough")?;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(idle.check().is_err() && old.check().is_err());
    for reason in ["idle_timeout", "max_connection_duration"] {
        let line = pair.mesh.agent("a").until_access(&[&format!("\"reason\":\"{reason}\""), "outbound"])?;
        ensure!(line["bytes_sent"].as_u64() > Some(0), "{line}");
    }
    busy.check()
}

#[test]
fn an_endpoint_that_cannot_be_reached_in_time_gives_way_to_another() -> Result<()> {
    needs!();
    let shop = Shop::open("in_time", &["db1", "db2"])?;
    shop.apply("connectionPool: {tcp: {connectTimeout: 300ms}}, loadBalancer: {simple: ROUND_ROBIN}")?;
    ensure!(shop.answers(4)?.len() == 2);
    // Its node drops what comes: no refusal, nothing.
    let drop = shop.dbs[0].command("ip").args(["route", "add", "blackhole", &format!("{}/32", shop.web.v4)]);
    drop.stdout()?;
    shop.mesh
        .world
        .node("b")
        .command("ip")
        .args(["route", "replace", "blackhole", &format!("{}/32", shop.dbs[0].v4)])
        .stdout()?;
    let begun = Instant::now();
    let answers = shop.answers(4)?;
    ensure!(answers.get("db2") == Some(&4), "{answers:?}");
    ensure!(begun.elapsed() < Duration::from_secs(6), "four answers took {:?}", begun.elapsed());
    Ok(())
}

#[test]
fn an_endpoint_that_fails_is_ejected_and_comes_back() -> Result<()> {
    needs!();
    let mut shop = Shop::open("ejected", &["db1", "db2", "db3"])?;
    shop.apply(
        "loadBalancer: {simple: ROUND_ROBIN}, \
         outlierDetection: {consecutive5xxErrors: 2, interval: 1s, baseEjectionTime: 4s, maxEjectionPercent: 50}",
    )?;
    ensure!(shop.answers(6)?.values().all(|count| *count == 2));
    shop.greeters[0].kill()?;
    // Every connection is answered: by another endpoint until the dead one is ejected, without a detour afterwards.
    let answers = shop.answers(12)?;
    ensure!(!answers.contains_key("db1") && answers.values().sum::<usize>() == 12, "{answers:?}");
    let metrics = shop.mesh.admin("a", "/metrics")?;
    let ejections = metrics.lines().find(|line| line.starts_with("weft_outlier_ejections_total{"));
    ensure!(
        ejections.is_some_and(|line| line.contains("db.shop.svc.cluster.local") && line.ends_with(" 1")),
        "{ejections:?}"
    );
    // Of three, half is one: the second that fails is tried again and again, and no answer is lost by it.
    shop.greeters[1].kill()?;
    let answers = shop.answers(8)?;
    ensure!(answers.get("db3") == Some(&8), "{answers:?}");
    shop.greeters[0] = apps::probe(&shop.dbs[0], "greet", 7000, &["--greeting", "db1"])?;
    until("the ejected one is asked again", PATIENCE, || {
        let answers = shop.answers(3).ok()?;
        answers.contains_key("db1").then_some(())
    })
}

#[test]
fn the_rule_says_who_is_chosen() -> Result<()> {
    needs!();
    let shop = Shop::open("chosen", &["db1", "db2", "db3"])?;
    shop.apply("loadBalancer: {simple: ROUND_ROBIN}")?;
    let answers = shop.answers(9)?;
    ensure!(answers.len() == 3 && answers.values().all(|count| *count == 3), "round robin: {answers:?}");
    shop.apply("loadBalancer: {consistentHash: {useSourceIp: true}}")?;
    let answers = shop.answers(9)?;
    ensure!(answers.len() == 1, "one client, one endpoint: {answers:?}");
    let chosen = answers.keys().next().context("one")?.clone();
    shop.mesh.source.delete(&format!("pod-shop-{chosen}"))?;
    shop.mesh.settle()?;
    let answers = shop.answers(5)?;
    ensure!(answers.len() == 1 && !answers.contains_key(&chosen), "another one, and always that: {answers:?}");
    shop.apply("loadBalancer: {simple: RANDOM}")?;
    let answers = shop.answers(30)?;
    ensure!(answers.len() == 2, "random: {answers:?}");
    Ok(())
}

#[test]
fn connections_go_to_the_places_that_the_rule_names() -> Result<()> {
    needs!();
    let mut shop = Shop::open("places", &["db1@a", "db2"])?;
    let node = |name: &str, region: &str| {
        format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: {name}, labels: {{topology.kubernetes.io/region: {region}}}}}}}\n"
        )
    };
    for (name, region) in [("a", "eu"), ("b", "us")] {
        shop.mesh.apply(&format!("node-{name}"), &node(name, region))?;
    }
    shop.apply("loadBalancer: {localityLbSetting: {distribute: [{from: 'eu/*', to: {eu: 80, us: 20}}]}}")?;
    let answers = shop.answers(100)?;
    let near = answers.get("db1").copied().unwrap_or(0);
    ensure!((60..=95).contains(&near), "about 80 of 100: {answers:?}");
    shop.apply("outlierDetection: {consecutive5xxErrors: 1, baseEjectionTime: 60s, maxEjectionPercent: 100}")?;
    let answers = shop.answers(20)?;
    ensure!(answers.get("db1") == Some(&20), "the own region serves alone: {answers:?}");
    shop.greeters[0].kill()?;
    let answers = shop.answers(20)?;
    ensure!(answers.get("db2") == Some(&20), "and the other takes over: {answers:?}");
    Ok(())
}

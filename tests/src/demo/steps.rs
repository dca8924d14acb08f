//! The six steps. Each yields its verdict in words, or fails with why not.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::screen::Screen;
use super::stage::{NAMESPACE, PYTHON, Stage, all, expect, run};
use super::traces;
use crate::apps::{HTTP, REDIS};
use crate::capture::{Capture, Captured};
use crate::mesh::Agent;
use crate::objects;
use crate::pod::Pod;
use crate::wait::{PATIENCE, until};

/// What later steps compare with.
pub(super) struct Steps<'s> {
    stage: &'s Stage,
    /// Each pod's namespace before its pod was in the mesh.
    namespaces: Vec<BTreeSet<String>>,
    pins: Vec<BTreeSet<String>>,
}

impl<'s> Steps<'s> {
    pub(super) fn new(stage: &'s Stage) -> Result<Steps<'s>> {
        let mut steps = Steps { stage, namespaces: Vec::new(), pins: Vec::new() };
        [steps.namespaces, steps.pins] = steps.traces()?;
        Ok(steps)
    }

    /// 1
    pub(super) fn plain(&mut self, screen: &Screen) -> Result<String> {
        let (captured, _) = self.order(screen, BEFORE)?;
        self.read_on_the_wire(screen, &captured, BEFORE)?;
        Ok("whoever taps the wire reads the card number".to_owned())
    }

    /// 2
    pub(super) fn label(&mut self, screen: &Screen) -> Result<String> {
        let Stage { mesh, web, .. } = self.stage;
        let begun = Instant::now();
        self.stage.label(screen, true)?;
        for (pod, _) in self.stage.pods() {
            mesh.until_captured(pod)?;
        }
        let took = begun.elapsed();
        screen.say(&format!("log of node {}'s agent, {}:", web.node, log_of(self.agent_of(web)).display()));
        let enrolled = agent_says(self.agent_of(web), "pod enrolled")?;
        screen.quote(
            [format!(
                "{}  pod={} identity={}",
                text(&enrolled, "message"),
                text(&enrolled, "pod"),
                text(&enrolled, "identity")
            )]
            .iter()
            .map(String::as_str),
        );
        let shown = |line: &str| line.contains("fwmark");
        expect(screen, web, &["ip", "rule"], shown, "fwmark")?;
        Ok(format!("5 pods on 2 nodes enrolled in {} ms, the label's file to the last agent", took.as_millis()))
    }

    /// 3
    pub(super) fn carried(&mut self, screen: &Screen) -> Result<String> {
        let Stage { web, db, .. } = self.stage;
        let (captured, bytes) = self.order(screen, AFTER)?;
        let wire = self.stage.mesh.world.wire();
        let tunnelled = captured.frames_of(wire, HBONE)?;
        screen.say("searched the capture for the card number: not there; between the nodes it is TLS:");
        screen.quote(tunnelled.iter().filter(|line| !line.ends_with("tcp 0")).take(1).map(String::as_str));
        ensure!(!tunnelled.is_empty(), "nothing went to port {HBONE}: where did the connection go?");
        ensure!(captured.frames_of(wire, REDIS)?.is_empty(), "frames of port {REDIS} are on the wire");

        let (source, destination) = (web.identity(TRUST_DOMAIN), db.identity(TRUST_DOMAIN));
        let agent = self.agent_of(db);
        let access = agent.until_access(&["inbound", &source, &destination])?;
        self.show_access(screen, agent, &access, &["src.identity", "dst.identity", "security"]);
        let client = web.v4.to_string();
        self.programs(screen, &client)?;
        Ok(format!("{bytes} captured bytes hold no card number; four programs work, and see {client} as their client"))
    }

    /// 4
    pub(super) fn deny(&mut self, screen: &Screen) -> Result<String> {
        let Stage { mesh, web, db, site, .. } = self.stage;
        let redis = db.v4.to_string();
        let words = ["redis-cli", "-h", &redis, "SUBSCRIBE", "news"];
        screen.command("web", &[&words[..], &["&"]].concat());
        let mut live = web.command(words[0]).args(&words[1..]).start()?;
        live.wait_logs("subscribe")?;
        expect(screen, web, &["redis-cli", "-h", &redis, "PUBLISH", "news", "still-here"], all, "1")?;
        live.wait_logs("still-here")?;
        screen.say("the subscriber got it; its connection stays open, while this is applied:");

        let denial = objects::deny(NAMESPACE, POLICY, "db", &[&format!("{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/web")]);
        let begun = Instant::now();
        self.stage.apply(screen, POLICY, &denial)?;
        let ended = live.wait_exit(PATIENCE);
        let took = begun.elapsed();
        let outcome = ended.context("the subscriber's connection was to end").and_then(|_| {
            screen.say(&format!("the subscriber, {} ms later:", took.as_millis()));
            screen.quote(live.log().lines().rev().take(1));
            let said = run(screen, web, &["redis-cli", "-h", &redis, "PING"], all)?;
            ensure!(!said.text.contains("PONG"), "the next connection was let in");
            let agent = self.agent_of(db);
            let policy = format!("{NAMESPACE}/{POLICY}");
            let access = agent.until_access(&["inbound", &policy])?;
            self.show_access(screen, agent, &access, &["reason", "policy", "error"]);
            expect(screen, web, &["curl", "-sS", &url(site.at(HTTP), "/")], all, "hello from nginx")?;
            Ok(())
        });
        mesh.source.delete(POLICY)?;
        screen.command("controller", &["rm", &format!("{POLICY}.yaml")]);
        let begun = Instant::now();
        let again = until("redis to answer again", PATIENCE, || {
            let said = web.command("redis-cli").args(["-h", &redis, "PING"]).output().ok()?;
            said.stdout.starts_with(b"PONG").then(|| begun.elapsed())
        });
        outcome?;
        expect(screen, web, &["redis-cli", "-h", &redis, "PING"], all, "PONG")?;
        let (took, again) = (took.as_millis(), again?.as_millis());
        Ok(format!(
            "the live connection ended {took} ms after the file appeared, the log names the policy; redis \
             answered again {again} ms after the file was gone"
        ))
    }

    /// 5
    pub(super) fn strict(&mut self, screen: &Screen) -> Result<String> {
        let Stage { mesh, web, site, .. } = self.stage;
        let outside = mesh.world.outside();
        let page = url(site.at(HTTP), "/");
        let get = ["curl", "-sS", "--max-time", "5", &page];
        screen.say("permissive, as long as no policy says otherwise:");
        expect(screen, outside, &get, all, "hello from nginx")?;
        self.stage.apply(screen, STRICT, &objects::peer_authentication(NAMESPACE, "STRICT"))?;
        let outcome = self.until_strict(site, true).and_then(|()| {
            let said = run(screen, outside, &get, all)?;
            ensure!(!said.succeeded, "plaintext was let in: {:?}", said.text);
            let agent = self.agent_of(site);
            let client = mesh.world.outside_ips()[0].to_string();
            let access = agent.until_access(&[&client, "inbound", "\"policy\":"])?;
            self.show_access(screen, agent, &access, &["src.addr", "security", "reason", "policy"]);
            expect(screen, web, &get, all, "hello from nginx")?;
            let node = mesh.world.node(&site.node);
            expect(screen, node, &get, all, "hello from nginx").context("as a kubelet probes")
        });
        mesh.source.delete(STRICT)?;
        screen.command("controller", &["rm", &format!("{STRICT}.yaml")]);
        self.until_strict(site, false)?;
        outcome?;
        expect(screen, outside, &get, all, "hello from nginx")?;
        Ok("outside was refused; the meshed client and the node's own probe passed".to_owned())
    }

    /// 6
    pub(super) fn unlabel(&mut self, screen: &Screen) -> Result<String> {
        let Stage { mesh, web, .. } = self.stage;
        let begun = Instant::now();
        self.stage.label(screen, false)?;
        let mut left = Vec::new();
        let gone = until("every trace to be gone", PATIENCE, || {
            left = self.left().unwrap_or_else(|error| vec![format!("{error:#}")]);
            left.is_empty().then_some(())
        });
        gone.with_context(|| left.join("; "))?;
        for agent in &mesh.agents {
            let tunnelled = |config: &Value| {
                config["workloads"].as_array().is_some_and(|all| all.iter().all(|entry| entry["tunnel"] != "hbone"))
            };
            mesh.until_config(&agent.node, "no pod in the mesh", tunnelled)?;
        }
        let took = begun.elapsed();
        screen.say(&format!("log of node {}'s agent:", web.node));
        let withdrawn = agent_says(self.agent_of(web), "pod withdrawn")?;
        screen.quote(
            [format!("{}  pod={}", text(&withdrawn, "message"), text(&withdrawn, "pod"))].iter().map(String::as_str),
        );
        expect(screen, web, &["ip", "rule"], all, "lookup main")?;
        let (captured, _) = self.order(screen, AGAIN)?;
        self.read_on_the_wire(screen, &captured, AGAIN)?;
        let looked_at: usize = self.namespaces.iter().chain(&self.pins).map(BTreeSet::len).sum();
        Ok(format!(
            "gone after {} ms; {looked_at} rules, routes, sysctls, listeners and pins are as they were before",
            took.as_millis()
        ))
    }

    /// Stores a card number in redis from the other node, while the wire is watched. Yields the capture, which has to be
    /// without the number if and only if it is [`AFTER`] the label, and its size.
    fn order(&self, screen: &Screen, card: &str) -> Result<(Captured, usize)> {
        let Stage { mesh, web, db, .. } = self.stage;
        let capture = Capture::start(&mesh.world, mesh.world.node("a"))?;
        let redis = db.v4.to_string();
        expect(screen, web, &["redis-cli", "-h", &redis, "SET", "card", card], all, "OK")?;
        let captured = capture.stop()?;
        let readable = captured.contains(card.as_bytes());
        ensure!(
            readable == (card != AFTER),
            "the payload was {}readable on the wire",
            if readable { "" } else { "not " }
        );
        let bytes = captured.len();
        Ok((captured, bytes))
    }

    fn read_on_the_wire(&self, screen: &Screen, captured: &Captured, card: &str) -> Result<()> {
        let file = captured.file().display().to_string();
        screen.command("wire", &["tcpdump", "-n", "-A", "-r", &file]);
        let quoted = captured.quote(self.stage.mesh.world.wire(), card)?.context("tcpdump prints no such line")?;
        screen.quote(quoted.iter().map(String::as_str));
        Ok(())
    }

    /// Redis, nginx, Python and iperf3, each asked whom it takes for its client.
    fn programs(&self, screen: &Screen, client: &str) -> Result<()> {
        let Stage { web, db, site, files, bulk, python, iperf3, .. } = self.stage;
        let redis = db.v4.to_string();
        expect(screen, web, &["redis-cli", "-h", &redis, "GET", "card"], all, AFTER)?;
        expect(screen, web, &["redis-cli", "-h", &redis, "CLIENT", "INFO"], all, &format!("addr={client}:"))?;

        let shown = |line: &str| line.starts_with("HTTP/") || line.starts_with("client:") || line.starts_with("hello");
        let get = ["curl", "-sS", "-i", &url(site.at(HTTP), "/")];
        let said = expect(screen, web, &get, shown, "hello from nginx")?;
        ensure!(said.contains(&format!("client: {client}")), "nginx takes another for its client: {said}");

        let get = ["curl", "-sS", &url(files.at6(PYTHON), "/hello")];
        expect(screen, web, &get, all, "hello from python")?;
        self.printed(screen, "files", python, &web.v6.to_string())?;

        let words = ["iperf3", "--client", &bulk.v4.to_string(), "--time", "1"];
        expect(screen, web, &words, |line| line.ends_with("receiver"), "receiver")?;
        self.printed(screen, "bulk", iperf3, &format!("Accepted connection from {client}"))?;
        Ok(())
    }

    /// Shows the line of a server's own log that holds `needle`.
    fn printed(&self, screen: &Screen, pod: &str, server: &crate::program::Program, needle: &str) -> Result<()> {
        let found = until(&format!("{needle:?} in the log of {pod}"), PATIENCE, || {
            server.log().lines().find(|line| line.contains(needle)).map(str::to_owned)
        });
        screen.say(&format!("what {pod} logs:"));
        screen.quote([found?.as_str()]);
        Ok(())
    }

    /// Some fields of an access-log line, a line each.
    fn show_access(&self, screen: &Screen, agent: &Agent, access: &Value, fields: &[&str]) {
        screen.say(&format!("access log of node {}'s agent, the line's fields:", agent.node));
        let lines: Vec<String> = fields
            .iter()
            .filter(|field| !access[**field].is_null())
            .map(|field| format!("{field:<13} {}", text(access, field)))
            .collect();
        screen.quote(lines.iter().map(String::as_str));
    }

    fn agent_of(&self, pod: &Pod) -> &'s Agent {
        self.stage.mesh.agent(&pod.node)
    }

    /// Waits until the pod's agent believes that it takes plaintext no longer, or again.
    fn until_strict(&self, pod: &Pod, strict: bool) -> Result<()> {
        let what = if strict { "STRICT" } else { "plaintext" };
        self.stage.mesh.until_config(&pod.node, &format!("{what} for {}", pod.name), |config| {
            let mut workloads = config["workloads"].as_array().into_iter().flatten();
            let workload = workloads.find(|workload| workload["name"] == *pod.name);
            workload.is_some_and(|workload| workload["policies"].to_string().contains("strict") == strict)
        })
    }

    /// What is in each pod's namespace, and in each node's folder of pins.
    fn traces(&self) -> Result<[Vec<BTreeSet<String>>; 2]> {
        let namespaces = self.stage.pods().iter().map(|(pod, _)| traces::in_namespace(pod)).collect::<Result<_>>()?;
        let world = &self.stage.mesh.world;
        let dirs = world.nodes().iter().map(|node| world.run().bpffs().join(&node.name));
        Ok([namespaces, dirs.map(|dir| traces::pins(&dir)).collect::<Result<_>>()?])
    }

    /// What is there and was not before, or the other way round.
    fn left(&self) -> Result<Vec<String>> {
        let [namespaces, pins] = self.traces()?;
        let before = self.namespaces.iter().chain(&self.pins);
        Ok(before.zip(namespaces.iter().chain(&pins)).flat_map(|(a, b)| a.symmetric_difference(b)).cloned().collect())
    }
}

/// The newest line of the agent's log whose message begins so.
fn agent_says(agent: &Agent, message: &str) -> Result<Value> {
    until(&format!("{message:?} in the log of node {}", agent.node), PATIENCE, || {
        let log = agent.program.log();
        let mut lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find(|line| line["message"].as_str().is_some_and(|said| said.starts_with(message)))
    })
}

fn log_of(agent: &Agent) -> PathBuf {
    agent.program.log_file().to_owned()
}

fn text(line: &Value, field: &str) -> String {
    let value = &line[field];
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn url(address: SocketAddr, path: &str) -> String {
    match address.port() {
        80 => format!("http://{}{path}", address.ip()),
        _ => format!("http://{address}{path}"),
    }
}

const BEFORE: &str = "4111-1111-1111-1111";
const AFTER: &str = "4222-2222-2222-2222";
const AGAIN: &str = "4333-3333-3333-3333";
const POLICY: &str = "no-web-at-db";
const STRICT: &str = "strict";
const TRUST_DOMAIN: &str = "cluster.local";
const HBONE: u16 = 15008;

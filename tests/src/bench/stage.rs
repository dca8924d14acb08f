//! Pods with and without the mesh on the same two nodes, and one measurement between two of them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::figures::Way;
use super::load::{ECHO, HOLD, SINK};
use super::machine::Spent;
use super::{CLIENT_CORE, SERVER_CORE};
use crate::mesh::{Mesh, Setup};
use crate::place::Place;
use crate::pod::Pod;
use crate::program::{Launch, Program, built};
use crate::wait::until;

/// From where to where, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    PlainAcross,
    LanesAcross,
    HboneAcross,
    RelaysAcross,
    PlainNear,
    WeftNear,
}

impl Path {
    pub(super) const ALL: [Path; 6] =
        [Path::PlainAcross, Path::LanesAcross, Path::HboneAcross, Path::RelaysAcross, Path::PlainNear, Path::WeftNear];

    pub(super) fn name(self) -> &'static str {
        match self {
            Path::PlainAcross => "plain, across nodes",
            Path::LanesAcross => "own transport, across nodes",
            Path::HboneAcross => "HBONE, across nodes",
            Path::RelaysAcross => "two bare relays, across nodes",
            Path::PlainNear => "plain, on one node",
            Path::WeftNear => "Weft, on one node",
        }
    }

    pub(super) fn place(self) -> &'static str {
        match self {
            Path::PlainAcross | Path::LanesAcross | Path::HboneAcross | Path::RelaysAcross => "across nodes",
            Path::PlainNear | Path::WeftNear => "on one node",
        }
    }

    pub(super) fn way(self) -> Way {
        match self {
            Path::PlainAcross | Path::PlainNear => Way::Plain,
            Path::LanesAcross => Way::Lanes,
            Path::HboneAcross => Way::Hbone,
            Path::RelaysAcross => Way::Relays,
            Path::WeftNear => Way::Near,
        }
    }
}

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Send {
        streams: usize,
    },
    Ping,
    Visit {
        clients: usize,
    },
    Storm {
        connections: usize,
    },
    /// Small requests, alone and beside another pod that sends as much as it can.
    Beside {
        streams: usize,
    },
}

impl Test {
    pub(super) const ALL: [Test; 7] = [
        Test::Send { streams: 1 },
        Test::Send { streams: 8 },
        Test::Ping,
        Test::Visit { clients: 1 },
        Test::Visit { clients: 4 },
        Test::Storm { connections: 20_000 },
        Test::Beside { streams: 8 },
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Test::Send { streams: 1 } => "throughput, 1 stream",
            Test::Send { .. } => "throughput, 8 streams",
            Test::Ping => "round trip of 128 B",
            Test::Visit { clients: 1 } => "connect-request-close, 1 client",
            Test::Visit { .. } => "connect-request-close, 4 clients",
            Test::Storm { .. } => "20,000 connections in 10 s",
            Test::Beside { .. } => "p99 of 1,000 requests a second",
        }
    }
}

/// Programs are dropped before the mesh that they run in.
#[derive(Debug)]
pub(super) struct Stage {
    ends: Vec<Ends>,
    _servers: Vec<Program>,
    pub(super) mesh: Mesh,
}

/// A client, and where it can go to.
#[derive(Debug)]
struct Ends {
    ways: &'static [Way],
    client: Pod,
    /// Beside the client.
    neighbour: Pod,
    across: Pod,
    near: Pod,
}

/// Whose pods are on which nodes.
const ENDS: [(&[Way], &str, [&str; 2]); 4] = [
    (&[Way::Plain], "plain", ["a", "b"]),
    (&[Way::Lanes, Way::Near], "meshed", ["a", "b"]),
    (&[Way::Hbone], "hbone", ["c", "d"]),
    (&[Way::Relays], "relayed", ["a", "b"]),
];

impl Stage {
    /// Agents of c and d speak HBONE.
    pub(super) fn set(setup: Setup, congestion_control: Option<&str>) -> Result<Stage> {
        let setup = setup.agent_of("c", "TRANSPORT", "hbone").agent_of("d", "TRANSPORT", "hbone");
        let mesh = Mesh::with_setup("bench", &["a", "b", "c", "d"], setup)?;
        let mut ends = Vec::new();
        let mut servers = Vec::new();
        for (ways, namespace, [here, there]) in ENDS {
            let meshed = ways != [Way::Plain] && ways != [Way::Relays];
            mesh.namespace(namespace, meshed)?;
            let pod = |name, node| mesh.enrolled(mesh.pod(name).namespace(namespace), node);
            let (client, across, near) = (pod("client", here)?, pod("across", there)?, pod("near", here)?);
            let neighbour = pod("neighbour", here)?;
            for pod in [&client, &neighbour, &across, &near] {
                many_ports(pod)?;
                if let Some(name) = congestion_control {
                    let set = pod.netns().sysctl(&[("ipv4/tcp_congestion_control", name)]);
                    set.with_context(|| {
                        format!(
                            "the kernel has no congestion control {name}, or lets no namespace but its first choose it: \
                             add it to net.ipv4.tcp_allowed_congestion_control"
                        )
                    })?;
                }
                if meshed {
                    mesh.until_captured(pod)?;
                }
            }
            servers.push(serve(&across)?);
            servers.push(serve(&near)?);
            if ways == [Way::Relays] {
                let here = |port: u16| SocketAddr::from(([127, 0, 0, 1], port)).to_string();
                servers.push(relay(&across, SERVER_CORE, here)?);
                servers.push(relay(&client, CLIENT_CORE, |port| across.at(port + RELAY).to_string())?);
            }
            ends.push(Ends { ways, client, neighbour, across, near });
        }
        let stage = Stage { ends, _servers: servers, mesh };
        stage.prove()?;
        Ok(stage)
    }

    /// What the mesh is said to carry, it carries; and nothing else.
    fn prove(&self) -> Result<()> {
        for path in Path::ALL {
            self.measure(Test::Visit { clients: 1 }, path, Duration::from_millis(1))?;
        }
        let (_, server) = self.ends(Path::LanesAcross);
        self.mesh.agent("a").until_access(&["outbound", "mutual_tls", &server.at(ECHO).to_string()])?;
        let plain =
            self.mesh.agent("a").accesses().iter().filter(|line| line.to_string().contains("/ns/plain/")).count();
        anyhow::ensure!(plain == 0, "the plain path goes through the agent");
        Ok(())
    }

    /// What was measured: name, unit and value of each figure.
    pub(super) fn measure(
        &self,
        test: Test,
        path: Path,
        lasting: Duration,
    ) -> Result<Vec<(String, &'static str, f64)>> {
        let (client, server) = self.ends(path);
        let seconds = lasting.as_secs_f64().to_string();
        let run = self.mesh.world.run().cgroup();
        let before = Spent::so_far(run)?;
        let to = |port| match path {
            Path::RelaysAcross => client.at(port + RELAY).to_string(),
            _ => server.at(port).to_string(),
        };
        let count = |words: &[&str], port| ask(client, words, &to(port), &seconds, lasting);
        Ok(match test {
            Test::Send { streams } => {
                let said = count(&["send", "--streams", &streams.to_string()], SINK)?;
                let after = Spent::so_far(run)?;
                let gigabytes = number(&said, "bytes")? / 1e9;
                let streams = if streams == 1 { "1 stream".to_owned() } else { format!("{streams} streams") };
                vec![
                    (test.name().to_owned(), "MB/s", gigabytes * 1e3 / number(&said, "seconds")?),
                    (format!("CPU of the machine, {streams}"), "s/GB", (after.machine - before.machine) / gigabytes),
                    (format!("CPU of the run, {streams}"), "s/GB", (after.run - before.run) / gigabytes),
                ]
            }
            Test::Ping => {
                let said = count(&["ping"], ECHO)?;
                vec![
                    (format!("{}, p50", test.name()), "us", number(&said, "p50_us")?),
                    (format!("{}, p99", test.name()), "us", number(&said, "p99_us")?),
                ]
            }
            Test::Storm { connections } => {
                let lasting = STORM;
                let seconds = lasting.as_secs_f64().to_string();
                let words = ["storm", "--connections", &connections.to_string()];
                let said = ask(client, &words, &to(ECHO), &seconds, lasting)?;
                vec![
                    (format!("{}: failed", test.name()), "", number(&said, "failed")?),
                    (format!("{}: p99", test.name()), "ms", number(&said, "p99_ms")?),
                    (format!("{}: slowest", test.name()), "ms", number(&said, "slowest_ms")?),
                ]
            }
            Test::Beside { streams } => {
                let p99 = || number(&count(&["ping", "--rate", "1000"], ECHO)?, "p99_us");
                let alone = p99()?;
                let (sender, sink, streams) = (self.neighbour(path), to(SINK), streams.to_string());
                let for_both = (lasting + Duration::from_secs(1)).as_secs_f64().to_string();
                let words = ["send", "--streams", &streams, "--seconds", &for_both, &sink];
                let mut sending = load(sender)?.args(words).on_core(CLIENT_CORE).start()?;
                std::thread::sleep(Duration::from_millis(300));
                let beside = p99()?;
                let ended = until("the neighbour to end", lasting + Duration::from_secs(60), || sending.ended())?;
                anyhow::ensure!(ended.success(), "the neighbour: {}", sending.log());
                vec![
                    (format!("{}, alone", test.name()), "us", alone),
                    (format!("{}, beside {streams} streams of a neighbour", test.name()), "us", beside),
                    (format!("{}, beside them to alone", test.name()), "x", beside / alone),
                ]
            }
            Test::Visit { clients } => {
                let said = count(&["visit", "--clients", &clients.to_string()], ECHO)?;
                vec![(test.name().to_owned(), "/s", number(&said, "count")? / number(&said, "seconds")?)]
            }
        })
    }

    fn of(&self, path: Path) -> &Ends {
        self.ends.iter().find(|ends| ends.ways.contains(&path.way())).expect("every way is there")
    }

    fn neighbour(&self, path: Path) -> &Pod {
        &self.of(path).neighbour
    }

    fn ends(&self, path: Path) -> (&Pod, &Pod) {
        let ends = self.of(path);
        match path {
            Path::PlainNear | Path::WeftNear => (&ends.client, &ends.near),
            _ => (&ends.client, &ends.across),
        }
    }
}

fn ask(client: &Place, words: &[&str], to: &str, seconds: &str, lasting: Duration) -> Result<Value> {
    let launch = load(client)?.args(words).args(["--seconds", seconds, to]).on_core(CLIENT_CORE);
    let output = launch.output_within(lasting + Duration::from_secs(60))?;
    let said = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&said).with_context(|| format!("the client: {}", String::from_utf8_lossy(&output.stderr)))
}

fn number(said: &Value, field: &str) -> Result<f64> {
    said[field].as_f64().with_context(|| format!("no {field} in {said}"))
}

/// The load server, on the servers' core.
pub(super) fn serve(pod: &Pod) -> Result<Program> {
    let mut server = load(pod)?.arg("serve").on_core(SERVER_CORE).start()?;
    for port in [SINK, ECHO, HOLD] {
        server.wait_listens(port)?;
    }
    Ok(server)
}

/// A relay in the pod, pinned, from each of the server's ports and [`RELAY`] to where `to` says.
fn relay(pod: &Pod, core: usize, to: impl Fn(u16) -> String) -> Result<Program> {
    let routes = [SINK, ECHO].map(|port| format!("{}={}", port + RELAY, to(port)));
    let mut relay = load(pod)?.arg("relay").args(routes).on_core(core).start()?;
    for port in [SINK, ECHO] {
        relay.wait_listens(port + RELAY)?;
    }
    Ok(relay)
}

/// How long a storm lasts.
const STORM: Duration = Duration::from_secs(10);
/// What a relay adds to the port that it leads to.
const RELAY: u16 = 100;

/// A process of the load at `place`.
pub(super) fn load(place: &Place) -> Result<Launch> {
    Ok(place.command(&built("bench")?).arg("load"))
}

/// Ports for some ten thousand connections a second: the defaults end at 28,000 within a minute, with or without a mesh.
pub(super) fn many_ports(pod: &Pod) -> Result<()> {
    pod.netns().sysctl(&[("ipv4/ip_local_port_range", "1024 60999"), ("ipv4/tcp_tw_reuse", "1")])
}

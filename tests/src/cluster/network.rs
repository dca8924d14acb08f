//! The wire between nodes: a bridge in the machine's own namespace, and a port on it for each node.
//!
//! Whatever is made is noted in the cluster's folder first, so that it is removed also if this process dies right after.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use xtask::clusters;

/// A cluster's bridge and addresses.
#[derive(Debug)]
pub(super) struct Network {
    dir: PathBuf,
    /// Name of the bridge, and what names of ports begin with.
    bridge: String,
    /// Third part of the addresses on the wire, 172.30.N.0/24, and second part of pods' 10.200+N.node.0/24.
    number: u8,
}

/// Prefix length on the wire.
pub(super) const PREFIX: u8 = 24;

impl Network {
    /// Makes the bridge, with addresses that no route of the machine leads to yet.
    pub(super) fn make(dir: &Path) -> Result<Network> {
        // Between the look at the routes and the making of one, nobody else looks.
        let lock = File::create(clusters::root()?.join(".network"))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).context("lock addresses")?;
        let routes = output("ip", &["-4", "route", "show", "table", "all"])?;
        let taken = |number: &u8| {
            let prefixes = [format!("172.30.{number}."), format!("10.{}.", 200 + number)];
            prefixes.iter().any(|prefix| routes.contains(prefix.as_str()))
        };
        let Some(number) = (0..50).find(|number| !taken(number)) else { bail!("no addresses left for a cluster") };
        let random = RandomState::new().hash_one(dir) & 0xff_ffff;
        let network = Network { dir: dir.to_owned(), bridge: format!("wk{random:06x}"), number };
        clusters::note(dir, "link", &network.bridge)?;
        ip(&format!("link add {} type bridge", network.bridge))?;
        ip(&format!("address add {}/{PREFIX} dev {}", network.gateway(), network.bridge))?;
        ip(&format!("link set {} up", network.bridge))?;
        Ok(network)
    }

    /// Address of the machine on the wire, where the API server is.
    pub(super) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, self.number, 1)
    }

    /// Address of node `number`, counted from 1.
    pub(super) fn node(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, self.number, 10 + number)
    }

    /// Addresses of the pods of node `number`.
    pub(super) fn pods(&self, number: u8) -> String {
        format!("10.{}.{number}.0/24", 200 + self.number)
    }

    /// The port of node `number` on the bridge: all that the node says to others passes it.
    pub(super) fn port(&self, number: u8) -> String {
        format!("{}n{number}", self.bridge)
    }

    /// Connects the namespace of process `pid` as node `number`, where it is eth0, and leads to its pods.
    pub(super) fn connect(&self, number: u8, pid: u32) -> Result<()> {
        let (port, bridge) = (self.port(number), &self.bridge);
        clusters::note(&self.dir, "link", &port)?;
        ip(&format!("link add {port} type veth peer name eth0 netns {pid}"))?;
        ip(&format!("link set {port} master {bridge} up"))?;
        ip(&format!("route add {} via {}", self.pods(number), self.node(number)))
    }
}

fn ip(arguments: &str) -> Result<()> {
    output("ip", &arguments.split(' ').collect::<Vec<_>>()).map(drop)
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let done = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let done = done.with_context(|| format!("run {program}"))?;
    if !done.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// The processes of `pid`'s children.
pub(super) fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

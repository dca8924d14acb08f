//! A node: a network namespace on the wire that routes to its pods.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result, bail};

use crate::netns::Netns;
use crate::place::Place;
use crate::run::Run;

/// A node: what runs in it runs in the host's namespace and the agent's cgroup.
#[derive(Debug)]
pub struct Node {
    place: Place,
    pub name: String,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    index: u8,
    next_pod: AtomicU8,
}

impl Deref for Node {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

/// A pod's addresses, and its link's name on the node.
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
}

impl Node {
    pub(crate) fn make(run: &Run, wire: &Place, name: &str, index: u8) -> Result<Node> {
        let netns = Netns::make(run, name)?;
        netns.sysctl(&FORWARDING)?;
        plug(wire, &netns, &port(name), index.into())?;
        run.cgroup().child(&format!("node-{name}/pods"))?;
        Ok(Node {
            place: Place::new(run, &format!("node-{name}"), netns, &format!("node-{name}/agent"))?,
            name: name.to_owned(),
            v4: v4(index.into())?,
            v6: v6(index.into())?,
            index,
            next_pod: AtomicU8::new(10),
        })
    }

    pub(crate) fn index(&self) -> u8 {
        self.index
    }

    /// Name of its link in the wire's namespace.
    #[must_use]
    pub fn port(&self) -> String {
        port(&self.name)
    }

    /// The cgroup, as a path inside the run's, under which its pods' cgroups are.
    #[must_use]
    pub fn pods_cgroup(&self) -> String {
        format!("node-{}/pods", self.name)
    }

    /// What the node routes to its pods.
    #[must_use]
    pub fn pod_networks(&self) -> [String; 2] {
        [format!("10.42.{}.0/24", self.index), format!("fd42:{}::/64", self.index)]
    }

    pub(crate) fn gateway4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 42, self.index, 1)
    }

    pub(crate) fn gateway6(&self) -> String {
        format!("fd42:{}::1", self.index)
    }

    pub(crate) fn next_link(&self) -> Result<Link> {
        let number = self.next_pod.fetch_add(1, Ordering::Relaxed);
        if number < 10 || number == u8::MAX {
            bail!("node {} is full", self.name);
        }
        Ok(Link {
            name: format!("pod{number}"),
            v4: Ipv4Addr::new(10, 42, self.index, number),
            // The same digits as in the IPv4 address, read as hexadecimal.
            v6: format!("fd42:{}::{number}", self.index).parse().context("an address in digits")?,
        })
    }
}

/// Joins `netns` to the bridge as host `host`, through a link that is `eth0` there and `port` here.
pub(crate) fn plug(wire: &Place, netns: &Netns, port: &str, host: u16) -> Result<()> {
    wire.netns().ip(&format!(
        "link add {port} type veth peer name eth0 netns {peer}\nlink set {port} master {BRIDGE} up\n",
        peer = netns.name()
    ))?;
    netns.ip(&format!(
        "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\nlink set eth0 up\n",
        v4(host)?,
        v6(host)?
    ))
}

fn port(node: &str) -> String {
    format!("node-{node}")
}

pub(crate) fn v4(host: u16) -> Result<Ipv4Addr> {
    Ok(Ipv4Addr::new(172, 31, 0, u8::try_from(host)?))
}

pub(crate) fn v6(host: u16) -> Result<Ipv6Addr> {
    Ok(format!("fd31::{host}").parse()?)
}

/// Makes a namespace a router.
pub(crate) const FORWARDING: [(&str, &str); 2] = [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];
pub(crate) const BRIDGE: &str = "br0";

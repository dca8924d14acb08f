//! Nodes, the wire between them, and a place outside.
//!
//! ```text
//! wire      172.31.0.254  fd31::254    the bridge; the controller runs here
//! node a    172.31.0.1    fd31::1      pods 10.42.1.0/24, fd42:1::/64, gateway .1
//! node b    172.31.0.2    fd31::2      pods 10.42.2.0/24, fd42:2::/64
//! outside   172.31.0.77   fd31::77
//! ```
//!
//! Every run has these same addresses, in namespaces of its own.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Result, bail};

use crate::netns::Netns;
use crate::node::{BRIDGE, FORWARDING, Node, plug, v4, v6};
use crate::place::Place;
use crate::pod::PodPlan;
use crate::run::Run;

/// Nodes joined by a wire. Fields are dropped in this order, so the run goes last.
#[derive(Debug)]
pub struct Topology {
    nodes: Vec<Node>,
    wire: Place,
    outside: Place,
    run: Arc<Run>,
}

impl Topology {
    /// Makes a run named `name` with these nodes, wired and routed, without pods.
    ///
    /// # Errors
    /// What `ip` or the kernel said; without root.
    pub fn with_nodes(name: &str, nodes: &[&str]) -> Result<Topology> {
        if nodes.len() > 70 {
            bail!("{} nodes do not fit beside the place outside", nodes.len());
        }
        let run = Arc::new(Run::new(name)?);
        let wire = Place::new(&run, "wire", Netns::make(&run, "wire")?, "wire")?;
        wire.netns().sysctl(&FORWARDING)?;
        wire.netns().ip(&format!(
            "link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             link set {BRIDGE} up\n\
             addr add {}/24 dev {BRIDGE}\n\
             addr add {}/64 dev {BRIDGE} nodad\n",
            v4(CONTROLLER)?,
            v6(CONTROLLER)?
        ))?;
        let outside = Place::new(&run, "outside", Netns::make(&run, "out")?, "outside")?;
        plug(&wire, outside.netns(), "outside", OUTSIDE)?;
        let mut made: Vec<Node> = Vec::new();
        for (index, name) in (1..).zip(nodes) {
            made.push(Node::make(&run, &wire, name, index)?);
        }
        for from in
            made.iter().map(|node| (node.netns(), node.index())).chain([(wire.netns(), 0), (outside.netns(), 0)])
        {
            let routes: Vec<String> = made
                .iter()
                .filter(|to| to.index() != from.1)
                .map(|to| {
                    let [pods4, pods6] = to.pod_networks();
                    format!("route add {pods4} via {}\nroute add {pods6} via {}\n", to.v4, to.v6)
                })
                .collect();
            from.0.ip(&routes.concat())?;
        }
        Ok(Topology { nodes: made, wire, outside, run })
    }

    #[must_use]
    pub fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// The node `name`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The bridge's namespace, in which all that goes between nodes can be seen.
    #[must_use]
    pub fn wire(&self) -> &Place {
        &self.wire
    }

    /// A machine beside the nodes that is in no mesh.
    #[must_use]
    pub fn outside(&self) -> &Place {
        &self.outside
    }

    /// Where the controller listens.
    #[must_use]
    pub fn controller_ips(&self) -> [IpAddr; 2] {
        ips(CONTROLLER)
    }

    #[must_use]
    pub fn outside_ips(&self) -> [IpAddr; 2] {
        ips(OUTSIDE)
    }

    /// A pod to be made, see [`PodPlan::on`].
    pub fn pod(&self, name: &str) -> PodPlan<'_> {
        PodPlan::new(&self.run, name)
    }
}

fn ips(host: u16) -> [IpAddr; 2] {
    [v4(host).expect("a constant that fits").into(), v6(host).expect("a constant that fits").into()]
}

const CONTROLLER: u16 = 254;
const OUTSIDE: u16 = 77;

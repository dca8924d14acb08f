//! Two enrolled pods on different nodes, for scenarios about what goes between them.

use std::env;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use crate::mesh::{Mesh, Setup};
use crate::objects;
use crate::pod::Pod;
use crate::wait::{PATIENCE, until};

/// `web` on node a and `db` on node b, both in the namespace `shop`, which is in the mesh. (On one node
/// with `WEFT_TEST_PAIR=near` in the environment.) Fields are dropped in this order.
#[derive(Debug)]
pub struct Pair {
    pub web: Pod,
    pub db: Pod,
    pub mesh: Mesh,
}

impl Pair {
    /// Starts a mesh with the two pods in it, captured.
    ///
    /// # Errors
    /// When a part of it does not come up.
    pub fn open(name: &str) -> Result<Pair> {
        Pair::with_setup(name, Setup::default())
    }

    /// As [`open`](Pair::open), with something not as usual.
    ///
    /// # Errors
    /// When a part of it does not come up.
    pub fn with_setup(name: &str, setup: Setup) -> Result<Pair> {
        let mesh = Mesh::with_setup(name, &["a", "b"], setup)?;
        mesh.namespace("shop", true)?;
        let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
        // Scenarios whose pods are within one node: see xtask's suites.
        let near = env::var("WEFT_TEST_PAIR").is_ok_and(|place| place == "near");
        let db = mesh.enrolled(mesh.pod("db").namespace("shop"), if near { "a" } else { "b" })?;
        for pod in [&web, &db] {
            mesh.until_captured(pod)?;
        }
        if near {
            until("the two to do without the agent", PATIENCE, || {
                mesh.admin("a", "/metrics").ok()?.contains("\nweft_same_node_verdicts 4\n").then_some(())
            })?;
        }
        Ok(Pair { web, db, mesh })
    }

    /// The nodes of the two, and how connections between them are secured.
    #[must_use]
    pub fn nodes(&self) -> ([&str; 2], &'static str) {
        let security = if self.web.node == self.db.node { "kernel_attested" } else { "mutual_tls" };
        ([&self.web.node, &self.db.node], security)
    }

    /// Puts a Service with a ClusterIP of either family before the pods labelled `app: <app>`.
    ///
    /// # Errors
    /// When an agent does not learn of it.
    pub fn service(&self, name: &str, app: &str, ports: &[(u16, u16)]) -> Result<()> {
        let service = objects::service("shop", name, &CLUSTER_IPS, app, ports);
        self.mesh.apply(&format!("service-{name}"), &service)?;
        self.mesh.settle()
    }

    /// `port` of `db`'s own addresses and of the ClusterIPs that [`service`](Pair::service) gives.
    #[must_use]
    pub fn ways(&self, port: u16) -> [SocketAddr; 4] {
        let [cluster4, cluster6] = CLUSTER_IPS;
        let [own4, own6] = self.db.ips();
        [own4, own6, cluster4, cluster6].map(|ip| SocketAddr::new(ip, port))
    }

    /// The address of `web` of the family of `to`: what a server shall see.
    #[must_use]
    pub fn client_of(&self, to: IpAddr) -> IpAddr {
        if to.is_ipv4() { self.web.v4.into() } else { self.web.v6.into() }
    }
}

/// Of a service's, in this order of families. No interface has them and no route leads to them.
pub const CLUSTER_IPS: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 7)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 7)),
];

//! A pod: a network namespace with one interface, a cgroup on its node, an identity.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;

use anyhow::Result;

use crate::netns::Netns;
use crate::node::Node;
use crate::place::Place;
use crate::run::Run;

/// A pod on a node. What runs in it is up to the test.
#[derive(Clone, Debug)]
pub struct Pod {
    place: Place,
    pub name: String,
    pub namespace: String,
    pub service_account: String,
    /// Name of its node.
    pub node: String,
    pub labels: Vec<(String, String)>,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Deref for Pod {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Pod {
    /// Its IPv4 address with `port`.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.v4, port).into()
    }

    /// Its IPv6 address with `port`.
    #[must_use]
    pub fn at6(&self, port: u16) -> SocketAddr {
        (self.v6, port).into()
    }

    /// Both addresses with `port`, for tests that hold for either family.
    #[must_use]
    pub fn everywhere(&self, port: u16) -> [SocketAddr; 2] {
        [self.at(port), self.at6(port)]
    }

    /// Both of its addresses.
    #[must_use]
    pub fn ips(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    #[must_use]
    pub fn identity(&self, trust_domain: &str) -> String {
        format!("spiffe://{trust_domain}/ns/{}/sa/{}", self.namespace, self.service_account)
    }
}

/// A pod about to be made.
#[must_use]
pub struct PodPlan<'w> {
    run: &'w Run,
    name: String,
    namespace: String,
    service_account: Option<String>,
    labels: Vec<(String, String)>,
}

impl<'w> PodPlan<'w> {
    pub(crate) fn new(run: &'w Run, name: &str) -> PodPlan<'w> {
        PodPlan {
            run,
            name: name.to_owned(),
            namespace: "default".to_owned(),
            service_account: None,
            labels: vec![("app".to_owned(), name.to_owned())],
        }
    }

    /// `default` unless told.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = namespace.to_owned();
        self
    }

    /// The pod's name unless told.
    pub fn service_account(mut self, name: &str) -> Self {
        self.service_account = Some(name.to_owned());
        self
    }

    /// Beside `app: <name>`, or in its place.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.retain(|(existing, _)| existing != key);
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Makes it on `node`: a point-to-point veth, addresses as a CNI gives them (/32 and /128), the default route through
    /// the node.
    ///
    /// # Errors
    /// What `ip` or the kernel said.
    pub fn on(self, node: &Node) -> Result<Pod> {
        let PodPlan { run, name, namespace, service_account, labels } = self;
        let link = node.next_link()?;
        let netns = Netns::make(run, &format!("{}-{namespace}-{name}", node.name))?;
        let (v4, v6, veth) = (link.v4, link.v6, &link.name);
        let (gateway4, gateway6) = (node.gateway4(), node.gateway6());
        node.netns().ip(&format!(
            "link add {veth} type veth peer name eth0 netns {peer}\n\
             addr add {gateway4}/32 dev {veth}\n\
             addr add {gateway6}/128 dev {veth} nodad\n\
             link set {veth} up\n\
             route add {v4}/32 dev {veth}\n\
             route add {v6}/128 dev {veth}\n",
            peer = netns.name(),
        ))?;
        netns.ip(&format!(
            "addr add {v4}/32 dev eth0\n\
             addr add {v6}/128 dev eth0 nodad\n\
             link set eth0 up\n\
             route add {gateway4} dev eth0\n\
             route add 0.0.0.0/0 via {gateway4} dev eth0 src {v4}\n\
             route add {gateway6} dev eth0\n\
             route add ::/0 via {gateway6} dev eth0 src {v6}\n",
        ))?;
        let cgroup = format!("node-{}/pods/{namespace}-{name}", node.name);
        let place = Place::new(run, &format!("{namespace}-{name}"), netns, &cgroup)?;
        let service_account = service_account.unwrap_or_else(|| name.clone());
        Ok(Pod { place, name, namespace, service_account, node: node.name.clone(), labels, v4, v6 })
    }
}

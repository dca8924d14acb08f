//! A workload: one pod, or one host outside Kubernetes, that connections come from and go to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::addr::NetworkAddress;
use crate::identity::SpiffeId;

/// A workload's name on the control stream: `cluster/group/kind/namespace/name`, for a pod `cluster//Pod/ns/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uid(pub Arc<str>);

impl Uid {
    pub fn pod(cluster: &str, namespace: &str, name: &str) -> Self {
        Self(format!("{cluster}//Pod/{namespace}/{name}").into())
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `namespace/hostname`, a service's name on the control stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    pub namespace: Arc<str>,
    pub hostname: Arc<str>,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

/// As text, because it is the key of a map in [`Workload`], and JSON has no other keys.
impl Serialize for ServiceKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServiceKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (namespace, hostname) =
            text.split_once('/').ok_or_else(|| D::Error::custom(format!("{text:?} is not namespace/hostname")))?;
        Ok(Self { namespace: namespace.into(), hostname: hostname.into() })
    }
}

/// `namespace/name`, a policy's name on the control stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PolicyKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Workload {
    pub uid: Uid,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    /// A pod has one address per IP family; a `WorkloadEntry` may have none but a `hostname`.
    pub addresses: Vec<IpAddr>,
    pub hostname: Arc<str>,
    pub network: Arc<str>,
    pub tunnel: Tunnel,
    pub identity: SpiffeId,
    pub waypoint: Option<GatewayAddress>,
    pub network_gateway: Option<GatewayAddress>,
    pub node: Arc<str>,
    pub canonical_name: Arc<str>,
    pub canonical_revision: Arc<str>,
    pub kind: WorkloadKind,
    /// Name of what owns it: the Deployment, Job or CronJob.
    pub workload_name: Arc<str>,
    pub native_tunnel: bool,
    /// Policies that select this workload; those of its namespace and of the whole mesh are implied.
    pub policies: Vec<PolicyKey>,
    pub health: Health,
    pub cluster: Arc<str>,
    pub services: BTreeMap<ServiceKey, Vec<Port>>,
    pub locality: Locality,
    pub host_network: bool,
    /// Share of connections relative to its peers; 1 unless said otherwise, 0 takes none.
    pub capacity: u32,
    pub plaintext: PlaintextPorts,
    /// Its connections are encrypted also where they stay within one kernel.
    pub encrypt_always: bool,
    /// `metadata.uid` of the pod, which its cgroups on its node are named after; empty for what is no pod.
    pub pod_uid: Arc<str>,
}

impl Workload {
    pub fn network_addresses(&self) -> impl Iterator<Item = NetworkAddress> + '_ {
        self.addresses.iter().map(|ip| NetworkAddress::new(self.network.clone(), *ip))
    }

    /// Whether a connection to `port` is to be carried in a tunnel.
    pub fn tunnels(&self, port: u16) -> bool {
        self.tunnel == Tunnel::Hbone && !self.plaintext.contains(port)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tunnel {
    /// Not in the mesh: plain TCP.
    None,
    Hbone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    Healthy,
    Unhealthy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkloadKind {
    Deployment,
    CronJob,
    Pod,
    Job,
}

impl WorkloadKind {
    /// As it appears in the `k8s.<kind>.name` key of the HBONE `baggage` header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::CronJob => "cronjob",
            Self::Pod => "pod",
            Self::Job => "job",
        }
    }
}

/// A place that two workloads may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

impl Scope {
    /// Whether both are in the same one; a zone's name counts within its region only.
    pub fn has_both(self, a: &Workload, b: &Workload) -> bool {
        match self {
            Self::Region => a.locality.region == b.locality.region,
            Self::Zone => a.locality.region == b.locality.region && a.locality.zone == b.locality.zone,
            Self::Subzone => a.locality == b.locality,
            Self::Node => a.node == b.node,
            Self::Cluster => a.cluster == b.cluster,
            Self::Network => a.network == b.network,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub subzone: Arc<str>,
}

/// One port of a service at one of its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Port {
    pub service_port: u16,
    /// 0: the endpoint does not serve this port.
    pub target_port: u16,
    /// As on the wire; 0 is unknown, which is plain TCP at L4.
    pub app_protocol: u32,
}

/// Where a waypoint or a network gateway is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GatewayAddress {
    pub destination: GatewayDestination,
    pub hbone_port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GatewayDestination {
    Hostname(ServiceKey),
    Address(NetworkAddress),
}

/// Ports on which the workload asked for plaintext (PeerAuthentication DISABLE).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PlaintextPorts {
    pub all: bool,
    pub ports: BTreeSet<u16>,
    /// With `all`: the ports that are tunnelled all the same.
    pub except: BTreeSet<u16>,
}

impl PlaintextPorts {
    pub fn contains(&self, port: u16) -> bool {
        if self.all { !self.except.contains(&port) } else { self.ports.contains(&port) }
    }

    pub fn is_empty(&self) -> bool {
        !self.all && self.ports.is_empty()
    }
}

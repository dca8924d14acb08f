//! A service: a name and virtual addresses that stand for a set of workloads.

use std::sync::Arc;

use serde::Serialize;

use crate::addr::NetworkAddress;
use crate::traffic::Traffic;
use crate::workload::{GatewayAddress, Port, Scope, ServiceKey};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    pub key: ServiceKey,
    pub name: Arc<str>,
    /// Virtual addresses (ClusterIPs, ServiceEntry addresses); none for a headless service.
    pub addresses: Vec<NetworkAddress>,
    pub ports: Vec<Port>,
    /// Further identities (URIs) that a peer serving this service may present.
    pub subject_alt_names: Vec<Arc<str>>,
    pub waypoint: Option<GatewayAddress>,
    pub load_balancing: LoadBalancing,
    pub ip_families: IpFamilies,
    /// Whether this is the service object that stands for its hostname when several claim it.
    pub canonical: bool,
    pub ingress_use_waypoint: bool,
    /// What clients' agents do with connections to it.
    pub traffic: Traffic,
}

impl Service {
    pub fn port(&self, service_port: u16) -> Option<&Port> {
        self.ports.iter().find(|p| p.service_port == service_port)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LoadBalancing {
    /// From the widest to the narrowest; an endpoint ranks by how many hold, counted from the front.
    pub routing_preference: Vec<Scope>,
    pub mode: Mode,
    /// Endpoints that are not ready count too (publishNotReadyAddresses).
    pub allow_unhealthy: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Any endpoint.
    #[default]
    Any,
    /// Only endpoints for which every scope holds.
    Strict,
    /// The best rank that has an endpoint.
    Failover,
    /// The address that the application asked for, as it stands.
    Passthrough,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IpFamilies {
    #[default]
    Automatic,
    Ipv4Only,
    Ipv6Only,
    Dual,
}

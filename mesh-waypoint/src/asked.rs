//! What a stream asks for, and whether it is this waypoint's to serve: a function of the snapshot and the authority.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_core::addr::NetworkAddress;
use mesh_core::l7::{Target, WaypointKey};
use mesh_core::service::Service;
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::{GatewayAddress, GatewayDestination, ServiceKey, Uid};
use thiserror::Error;

/// A service or a workload, at an address and port.
#[derive(Clone, Debug)]
pub struct Asked {
    pub address: SocketAddr,
    pub of: Of,
}

#[derive(Clone, Debug)]
pub enum Of {
    Service(ServiceKey),
    Workload(Uid),
}

impl Asked {
    pub fn target(&self) -> Target {
        match &self.of {
            Of::Service(key) => Target::Service(key.clone()),
            Of::Workload(_) => Target::Workloads,
        }
    }

    pub fn service(&self, snapshot: &Snapshot) -> Option<Arc<Service>> {
        match &self.of {
            Of::Service(key) => snapshot.service(key).cloned(),
            Of::Workload(_) => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotServed {
    #[error("the authority is no host:port")]
    Authority,
    #[error("no service or workload of the mesh has this address")]
    Unknown,
    #[error("what is asked for does not use this waypoint")]
    Elsewhere,
}

impl NotServed {
    /// Closed set, used as a log and metric label.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Authority => "wrong_authority",
            Self::Unknown => "unknown_destination",
            Self::Elsewhere => "not_this_waypoint",
        }
    }
}

/// # Errors
/// See [`NotServed`]: a waypoint is no proxy to everywhere.
pub fn asked(snapshot: &Snapshot, network: &Arc<str>, own: &WaypointKey, authority: &str) -> Result<Asked, NotServed> {
    let (host, port) = authority.rsplit_once(':').ok_or(NotServed::Authority)?;
    let port: u16 = port.parse().map_err(|_| NotServed::Authority)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let (service, ip) = match host.parse::<IpAddr>() {
        Ok(ip) => {
            let ip = ip.to_canonical();
            let at = NetworkAddress::new(network.clone(), ip);
            match snapshot.service_at(&at) {
                Some(service) => (service, ip),
                None => {
                    let workload = snapshot.workload_at(&at).ok_or(NotServed::Unknown)?;
                    return match serves(snapshot, own, workload.waypoint.as_ref()) {
                        true => {
                            Ok(Asked { address: SocketAddr::new(ip, port), of: Of::Workload(workload.uid.clone()) })
                        }
                        false => Err(NotServed::Elsewhere),
                    };
                }
            }
        }
        Err(_) => {
            let mut named = snapshot.services().filter(|service| *service.key.hostname == *host);
            let service = named.next().ok_or(NotServed::Unknown)?;
            let service = if service.canonical { service } else { named.find(|s| s.canonical).unwrap_or(service) };
            let ip = service.addresses.first().map_or(IpAddr::from([0, 0, 0, 0]), |address| address.ip);
            (service, ip)
        }
    };
    match serves(snapshot, own, service.waypoint.as_ref()) {
        true => Ok(Asked { address: SocketAddr::new(ip, port), of: Of::Service(service.key.clone()) }),
        false => Err(NotServed::Elsewhere),
    }
}

/// Whether `gateway` means this waypoint: its service is named as the Gateway is.
fn serves(snapshot: &Snapshot, own: &WaypointKey, gateway: Option<&GatewayAddress>) -> bool {
    let is_own =
        |key: &ServiceKey| *key.namespace == *own.namespace && key.hostname.split('.').next() == Some(&*own.name);
    match gateway.map(|gateway| &gateway.destination) {
        Some(GatewayDestination::Hostname(key)) => is_own(key),
        Some(GatewayDestination::Address(address)) => snapshot.service_at(address).is_some_and(|s| is_own(&s.key)),
        None => false,
    }
}

//! `istio.workload.Address` <-> [`Workload`], [`Service`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use thiserror::Error;

use super::traffic::{self, InvalidTraffic};
use super::{
    Address, ENCRYPT_ALWAYS_EXTENSION, ENCRYPT_ALWAYS_TYPE, PLAINTEXT_PORTS_EXTENSION, PLAINTEXT_PORTS_TYPE,
    POD_UID_EXTENSION, POD_UID_TYPE, extensions, scope, workload as wire,
};
use crate::addr::NetworkAddress;
use crate::identity::{InvalidSpiffeId, SpiffeId};
use crate::service::{IpFamilies, LoadBalancing, Mode, Service};
use crate::workload::{
    GatewayAddress, GatewayDestination, Health, Locality, PlaintextPorts, PolicyKey, Port, ServiceKey, Tunnel, Uid,
    Workload, WorkloadKind,
};

/// Port of HBONE where a gateway address names none.
const DEFAULT_HBONE_PORT: u16 = 15008;

#[derive(Debug, PartialEq, Eq, Error)]
pub enum InvalidAddress {
    #[error("address is neither a workload nor a service")]
    Empty,
    #[error("{field} is missing in {of}")]
    Missing { of: String, field: &'static str },
    #[error("{field} of {of} has {len} bytes, not 4 or 16")]
    IpLength { of: String, field: &'static str, len: usize },
    #[error("{field} {value:?} of {of} is not namespace/name")]
    Key { of: String, field: &'static str, value: String },
    #[error("port {value} of {of} is above 65535")]
    Port { of: String, value: u32 },
    #[error("identity of {of}")]
    Identity { of: String, source: InvalidSpiffeId },
    #[error("{field} {value} of {of} is not one this version knows")]
    Unknown { of: String, field: &'static str, value: i32 },
    #[error("extension {name} of {of} cannot be decoded: {error}")]
    Extension { of: String, name: &'static str, error: prost::DecodeError },
    #[error("traffic policy of {of}: {source}")]
    Traffic { of: String, source: InvalidTraffic },
}

impl TryFrom<wire::Address> for Address {
    type Error = InvalidAddress;

    fn try_from(address: wire::Address) -> Result<Self, InvalidAddress> {
        match address.r#type.ok_or(InvalidAddress::Empty)? {
            wire::address::Type::Workload(w) => w.try_into().map(Address::Workload),
            wire::address::Type::Service(s) => s.try_into().map(Address::Service),
        }
    }
}

impl TryFrom<wire::Workload> for Workload {
    type Error = InvalidAddress;

    fn try_from(w: wire::Workload) -> Result<Self, InvalidAddress> {
        let of = || format!("workload {}", w.uid);
        if w.uid.is_empty() {
            return Err(InvalidAddress::Missing { of: format!("workload {}/{}", w.namespace, w.name), field: "uid" });
        }
        let unknown = |field, value| InvalidAddress::Unknown { of: of(), field, value };
        let trust_domain = if w.trust_domain.is_empty() { "cluster.local" } else { &w.trust_domain };
        let account = if w.service_account.is_empty() { "default" } else { &w.service_account };
        let identity = SpiffeId::new(trust_domain, &w.namespace, account)
            .map_err(|source| InvalidAddress::Identity { of: of(), source })?;
        let addresses = w.addresses.iter().map(|bytes| ip(bytes, "addresses", of)).collect::<Result<Vec<_>, _>>()?;
        let mut services = BTreeMap::new();
        for (name, list) in &w.services {
            let key = service_key(name, of)?;
            let ports = list.ports.iter().map(|p| port(p, of)).collect::<Result<Vec<_>, _>>()?;
            services.insert(key, ports);
        }
        let policies = w
            .authorization_policies
            .iter()
            .map(|name| match name.split_once('/') {
                Some((namespace, name)) if !name.is_empty() => {
                    Ok(PolicyKey { namespace: namespace.into(), name: name.into() })
                }
                _ => Err(InvalidAddress::Key { of: of(), field: "authorization_policies", value: name.clone() }),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let locality = w.locality.clone().unwrap_or_default();
        Ok(Workload {
            uid: Uid(w.uid.as_str().into()),
            name: w.name.as_str().into(),
            namespace: w.namespace.as_str().into(),
            addresses,
            hostname: w.hostname.as_str().into(),
            network: w.network.as_str().into(),
            tunnel: match w.tunnel_protocol() {
                wire::TunnelProtocol::None if w.tunnel_protocol != 0 => {
                    return Err(unknown("tunnel_protocol", w.tunnel_protocol));
                }
                wire::TunnelProtocol::None => Tunnel::None,
                wire::TunnelProtocol::Hbone => Tunnel::Hbone,
            },
            identity,
            waypoint: w.waypoint.as_ref().map(|g| gateway(g, of)).transpose()?,
            network_gateway: w.network_gateway.as_ref().map(|g| gateway(g, of)).transpose()?,
            node: w.node.as_str().into(),
            canonical_name: w.canonical_name.as_str().into(),
            canonical_revision: w.canonical_revision.as_str().into(),
            kind: match w.workload_type() {
                wire::WorkloadType::Deployment => WorkloadKind::Deployment,
                wire::WorkloadType::Cronjob => WorkloadKind::CronJob,
                wire::WorkloadType::Pod => WorkloadKind::Pod,
                wire::WorkloadType::Job => WorkloadKind::Job,
            },
            workload_name: w.workload_name.as_str().into(),
            native_tunnel: w.native_tunnel,
            policies,
            health: match w.status {
                0 => Health::Healthy,
                _ => Health::Unhealthy,
            },
            cluster: w.cluster_id.as_str().into(),
            services,
            locality: Locality {
                region: locality.region.into(),
                zone: locality.zone.into(),
                subzone: locality.subzone.into(),
            },
            host_network: w.network_mode() == wire::NetworkMode::HostNetwork,
            capacity: w.capacity.unwrap_or(1),
            plaintext: plaintext_ports(&w.extensions, of)?,
            encrypt_always: w.extensions.iter().any(|e| e.name == ENCRYPT_ALWAYS_EXTENSION),
            pod_uid: pod_uid(&w.extensions, of)?,
        })
    }
}

impl From<&Workload> for wire::Workload {
    fn from(w: &Workload) -> Self {
        wire::Workload {
            uid: w.uid.0.to_string(),
            name: w.name.to_string(),
            namespace: w.namespace.to_string(),
            addresses: w.addresses.iter().copied().map(ip_bytes).collect(),
            hostname: w.hostname.to_string(),
            network: w.network.to_string(),
            tunnel_protocol: match w.tunnel {
                Tunnel::None => wire::TunnelProtocol::None,
                Tunnel::Hbone => wire::TunnelProtocol::Hbone,
            } as i32,
            trust_domain: w.identity.trust_domain().to_owned(),
            service_account: w.identity.service_account().to_owned(),
            waypoint: w.waypoint.as_ref().map(Into::into),
            network_gateway: w.network_gateway.as_ref().map(Into::into),
            node: w.node.to_string(),
            canonical_name: w.canonical_name.to_string(),
            canonical_revision: w.canonical_revision.to_string(),
            workload_type: match w.kind {
                WorkloadKind::Deployment => wire::WorkloadType::Deployment,
                WorkloadKind::CronJob => wire::WorkloadType::Cronjob,
                WorkloadKind::Pod => wire::WorkloadType::Pod,
                WorkloadKind::Job => wire::WorkloadType::Job,
            } as i32,
            workload_name: w.workload_name.to_string(),
            native_tunnel: w.native_tunnel,
            authorization_policies: w.policies.iter().map(ToString::to_string).collect(),
            status: match w.health {
                Health::Healthy => wire::WorkloadStatus::Healthy,
                Health::Unhealthy => wire::WorkloadStatus::Unhealthy,
            } as i32,
            cluster_id: w.cluster.to_string(),
            services: w
                .services
                .iter()
                .map(|(key, ports)| (key.to_string(), wire::PortList { ports: ports.iter().map(Into::into).collect() }))
                .collect(),
            application_tunnel: None,
            locality: (w.locality != Locality::default()).then(|| wire::Locality {
                region: w.locality.region.to_string(),
                zone: w.locality.zone.to_string(),
                subzone: w.locality.subzone.to_string(),
            }),
            network_mode: match w.host_network {
                false => wire::NetworkMode::Standard,
                true => wire::NetworkMode::HostNetwork,
            } as i32,
            extensions: plaintext_extension(&w.plaintext)
                .into_iter()
                .chain(encrypt_extension(w.encrypt_always))
                .chain(pod_uid_extension(&w.pod_uid))
                .collect(),
            capacity: (w.capacity != 1).then_some(w.capacity),
        }
    }
}

impl TryFrom<wire::Service> for Service {
    type Error = InvalidAddress;

    fn try_from(s: wire::Service) -> Result<Self, InvalidAddress> {
        let of = || format!("service {}/{}", s.namespace, s.hostname);
        if s.hostname.is_empty() {
            return Err(InvalidAddress::Missing { of: of(), field: "hostname" });
        }
        let lb = s.load_balancing.clone().unwrap_or_default();
        let (mode, health) = (lb.mode(), lb.health_policy());
        let mut routing_preference = Vec::with_capacity(lb.routing_preference.len());
        for scope in lb.routing_preference {
            let unknown = || InvalidAddress::Unknown { of: of(), field: "routing_preference", value: scope };
            routing_preference.push(scope::read(scope).ok_or_else(unknown)?);
        }
        Ok(Service {
            key: ServiceKey { namespace: s.namespace.as_str().into(), hostname: s.hostname.as_str().into() },
            name: s.name.as_str().into(),
            addresses: s.addresses.iter().map(|a| network_address(a, of)).collect::<Result<_, _>>()?,
            ports: s.ports.iter().map(|p| port(p, of)).collect::<Result<_, _>>()?,
            subject_alt_names: s.subject_alt_names.iter().map(|n| n.as_str().into()).collect(),
            waypoint: s.waypoint.as_ref().map(|g| gateway(g, of)).transpose()?,
            load_balancing: LoadBalancing {
                routing_preference,
                mode: match mode {
                    wire::load_balancing::Mode::UnspecifiedMode => Mode::Any,
                    wire::load_balancing::Mode::Strict => Mode::Strict,
                    wire::load_balancing::Mode::Failover => Mode::Failover,
                    wire::load_balancing::Mode::Passthrough => Mode::Passthrough,
                },
                allow_unhealthy: health == wire::load_balancing::HealthPolicy::AllowAll,
            },
            ip_families: match s.ip_families() {
                wire::IpFamilies::Automatic => IpFamilies::Automatic,
                wire::IpFamilies::Ipv4Only => IpFamilies::Ipv4Only,
                wire::IpFamilies::Ipv6Only => IpFamilies::Ipv6Only,
                wire::IpFamilies::Dual => IpFamilies::Dual,
            },
            canonical: s.canonical,
            ingress_use_waypoint: s.ingress_use_waypoint,
            traffic: traffic::read(&s.extensions).map_err(|source| InvalidAddress::Traffic { of: of(), source })?,
        })
    }
}

impl From<&Service> for wire::Service {
    fn from(s: &Service) -> Self {
        let lb = &s.load_balancing;
        wire::Service {
            name: s.name.to_string(),
            namespace: s.key.namespace.to_string(),
            hostname: s.key.hostname.to_string(),
            addresses: s.addresses.iter().map(Into::into).collect(),
            ports: s.ports.iter().map(Into::into).collect(),
            subject_alt_names: s.subject_alt_names.iter().map(ToString::to_string).collect(),
            waypoint: s.waypoint.as_ref().map(Into::into),
            load_balancing: (*lb != LoadBalancing::default()).then(|| wire::LoadBalancing {
                routing_preference: lb.routing_preference.iter().map(|scope| scope::write(*scope)).collect(),
                mode: match lb.mode {
                    Mode::Any => wire::load_balancing::Mode::UnspecifiedMode,
                    Mode::Strict => wire::load_balancing::Mode::Strict,
                    Mode::Failover => wire::load_balancing::Mode::Failover,
                    Mode::Passthrough => wire::load_balancing::Mode::Passthrough,
                } as i32,
                health_policy: match lb.allow_unhealthy {
                    false => wire::load_balancing::HealthPolicy::OnlyHealthy,
                    true => wire::load_balancing::HealthPolicy::AllowAll,
                } as i32,
            }),
            ip_families: match s.ip_families {
                IpFamilies::Automatic => wire::IpFamilies::Automatic,
                IpFamilies::Ipv4Only => wire::IpFamilies::Ipv4Only,
                IpFamilies::Ipv6Only => wire::IpFamilies::Ipv6Only,
                IpFamilies::Dual => wire::IpFamilies::Dual,
            } as i32,
            extensions: traffic::write(&s.traffic).into_iter().collect(),
            canonical: s.canonical,
            ingress_use_waypoint: s.ingress_use_waypoint,
        }
    }
}

impl From<&Port> for wire::Port {
    fn from(p: &Port) -> Self {
        wire::Port {
            service_port: p.service_port.into(),
            target_port: p.target_port.into(),
            app_protocol: p.app_protocol,
        }
    }
}

impl From<&NetworkAddress> for wire::NetworkAddress {
    fn from(a: &NetworkAddress) -> Self {
        wire::NetworkAddress { network: a.network.to_string(), address: ip_bytes(a.ip) }
    }
}

impl From<&GatewayAddress> for wire::GatewayAddress {
    fn from(g: &GatewayAddress) -> Self {
        wire::GatewayAddress {
            destination: Some(match &g.destination {
                GatewayDestination::Hostname(key) => {
                    wire::gateway_address::Destination::Hostname(wire::NamespacedHostname {
                        namespace: key.namespace.to_string(),
                        hostname: key.hostname.to_string(),
                    })
                }
                GatewayDestination::Address(a) => wire::gateway_address::Destination::Address(a.into()),
            }),
            hbone_mtls_port: g.hbone_port.into(),
        }
    }
}

fn ip(bytes: &Bytes, field: &'static str, of: impl Fn() -> String) -> Result<IpAddr, InvalidAddress> {
    if let Ok(v4) = <[u8; 4]>::try_from(&bytes[..]) {
        return Ok(IpAddr::from(v4));
    }
    let v6 =
        <[u8; 16]>::try_from(&bytes[..]).map_err(|_| InvalidAddress::IpLength { of: of(), field, len: bytes.len() })?;
    Ok(IpAddr::from(v6).to_canonical())
}

pub(super) fn ip_bytes(ip: IpAddr) -> Bytes {
    match ip {
        IpAddr::V4(v4) => Bytes::copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => Bytes::copy_from_slice(&v6.octets()),
    }
}

fn port(p: &wire::Port, of: impl Fn() -> String) -> Result<Port, InvalidAddress> {
    let narrow = |value: u32| u16::try_from(value).map_err(|_| InvalidAddress::Port { of: of(), value });
    Ok(Port {
        service_port: narrow(p.service_port)?,
        target_port: narrow(p.target_port)?,
        app_protocol: p.app_protocol,
    })
}

fn service_key(text: &str, of: impl Fn() -> String) -> Result<ServiceKey, InvalidAddress> {
    match text.split_once('/') {
        Some((namespace, hostname)) if !hostname.is_empty() => {
            Ok(ServiceKey { namespace: namespace.into(), hostname: hostname.into() })
        }
        _ => Err(InvalidAddress::Key { of: of(), field: "services", value: text.to_owned() }),
    }
}

fn network_address(a: &wire::NetworkAddress, of: impl Fn() -> String) -> Result<NetworkAddress, InvalidAddress> {
    Ok(NetworkAddress { network: a.network.as_str().into(), ip: ip(&a.address, "addresses", of)? })
}

fn gateway(g: &wire::GatewayAddress, of: impl Fn() -> String + Copy) -> Result<GatewayAddress, InvalidAddress> {
    let destination = match &g.destination {
        None => return Err(InvalidAddress::Missing { of: of(), field: "gateway destination" }),
        Some(wire::gateway_address::Destination::Hostname(h)) => GatewayDestination::Hostname(ServiceKey {
            namespace: h.namespace.as_str().into(),
            hostname: h.hostname.as_str().into(),
        }),
        Some(wire::gateway_address::Destination::Address(a)) => GatewayDestination::Address(network_address(a, of)?),
    };
    let hbone_port = match g.hbone_mtls_port {
        0 => DEFAULT_HBONE_PORT,
        value => u16::try_from(value).map_err(|_| InvalidAddress::Port { of: of(), value })?,
    };
    Ok(GatewayAddress { destination, hbone_port })
}

fn plaintext_ports(list: &[wire::Extension], of: impl Fn() -> String) -> Result<PlaintextPorts, InvalidAddress> {
    let Some(found) = list.iter().find(|e| e.name == PLAINTEXT_PORTS_EXTENSION) else {
        return Ok(PlaintextPorts::default());
    };
    let config = found.config.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
    let message = extensions::PlaintextPorts::decode(config).map_err(|error| InvalidAddress::Extension {
        of: of(),
        name: PLAINTEXT_PORTS_EXTENSION,
        error,
    })?;
    let narrow = |ports: Vec<u32>| {
        ports
            .into_iter()
            .map(|value| u16::try_from(value).map_err(|_| InvalidAddress::Port { of: of(), value }))
            .collect::<Result<_, _>>()
    };
    Ok(PlaintextPorts { all: message.all, ports: narrow(message.ports)?, except: narrow(message.except)? })
}

fn plaintext_extension(ports: &PlaintextPorts) -> Option<wire::Extension> {
    if ports.is_empty() {
        return None;
    }
    let message = extensions::PlaintextPorts {
        all: ports.all,
        ports: ports.ports.iter().map(|p| u32::from(*p)).collect(),
        except: ports.except.iter().map(|p| u32::from(*p)).collect(),
    };
    Some(wire::Extension {
        name: PLAINTEXT_PORTS_EXTENSION.to_owned(),
        config: Some(prost_types::Any { type_url: PLAINTEXT_PORTS_TYPE.to_owned(), value: message.encode_to_vec() }),
    })
}

/// Its being there says all.
fn encrypt_extension(always: bool) -> Option<wire::Extension> {
    let value = extensions::EncryptAlways {}.encode_to_vec();
    always.then(|| wire::Extension {
        name: ENCRYPT_ALWAYS_EXTENSION.to_owned(),
        config: Some(prost_types::Any { type_url: ENCRYPT_ALWAYS_TYPE.to_owned(), value }),
    })
}

fn pod_uid(list: &[wire::Extension], of: impl Fn() -> String) -> Result<Arc<str>, InvalidAddress> {
    let Some(found) = list.iter().find(|e| e.name == POD_UID_EXTENSION) else { return Ok("".into()) };
    let config = found.config.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
    let message = extensions::PodUid::decode(config).map_err(|error| InvalidAddress::Extension {
        of: of(),
        name: POD_UID_EXTENSION,
        error,
    })?;
    Ok(message.uid.into())
}

fn pod_uid_extension(uid: &str) -> Option<wire::Extension> {
    let value = extensions::PodUid { uid: uid.to_owned() }.encode_to_vec();
    (!uid.is_empty()).then(|| wire::Extension {
        name: POD_UID_EXTENSION.to_owned(),
        config: Some(prost_types::Any { type_url: POD_UID_TYPE.to_owned(), value }),
    })
}

/// Names as they stand on the wire, shared by the controller's index and the agent's store.
impl Address {
    /// The resource name: a workload's uid, a service's `namespace/hostname`.
    pub fn name(&self) -> Arc<str> {
        match self {
            Address::Workload(w) => w.uid.0.clone(),
            Address::Service(s) => s.key.to_string().into(),
        }
    }
}

impl From<&Address> for wire::Address {
    fn from(address: &Address) -> Self {
        wire::Address {
            r#type: Some(match address {
                Address::Workload(w) => wire::address::Type::Workload(w.into()),
                Address::Service(s) => wire::address::Type::Service(s.into()),
            }),
        }
    }
}

//! Kubernetes services, and which workloads stand behind them on which ports.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::addr::NetworkAddress;
use mesh_core::service::{IpFamilies, LoadBalancing, Mode, Service as MeshService};
use mesh_core::wire::Address;
use mesh_core::workload::{Port, Scope, ServiceKey};

use super::Built;
use super::cluster::{Claim, Cluster, Name};
use super::labels::matches;
use crate::object::{
    EndpointSlice, IpFamily, Kind, Metadata, ObjectKey, Pod, PortRef, Service, ServicePort, ServiceType, WorkloadEntry,
};
use crate::source::{Code, Severity};

pub(super) type Services = BTreeMap<ServiceKey, Vec<Port>>;

impl Cluster {
    /// Builds what stands for a hostname in a namespace: the strongest of those that claim it.
    pub(super) fn build_host(&self, key: &ServiceKey, built: &mut Built) {
        let mut own = self.claims(&key.hostname).filter(|claim| claim.name.namespace == key.namespace);
        let Some(first) = own.next() else { return };
        let canonical = self.claims(&key.hostname).next() == Some(first);
        for other in own {
            let message = format!("hostname {} is taken by {}", key.hostname, object_key(first));
            built.finding(Severity::Warning, Code::Conflict, object_key(other), Some("spec.hosts".into()), message);
        }
        let service = match first.is_entry {
            true => self.service_of_entry(&first.name, key, built),
            false => self.service_of_kubernetes(&first.name, key, built),
        };
        if let Some(service) = service {
            let waypoint = self.waypoint_of_service(key, built).map(|waypoint| self.gateway_address(&waypoint.name));
            built.address(Address::Service(MeshService { canonical, waypoint, ..service }));
        }
    }

    fn service_of_kubernetes(&self, name: &Name, key: &ServiceKey, built: &mut Built) -> Option<MeshService> {
        let service = self.services.get(name)?;
        if service.kind == ServiceType::ExternalName {
            let object = ObjectKey { kind: Kind::Service, namespace: name.namespace.clone(), name: name.name.clone() };
            let message = "an ExternalName is an alias in DNS; connections go to the name behind it".to_owned();
            built.finding(Severity::Info, Code::NoEffect, object, Some("spec.type".into()), message);
            return None;
        }
        let network = |ip| NetworkAddress::new(self.config.network.clone(), ip);
        Some(MeshService {
            key: key.clone(),
            name: name.name.clone(),
            addresses: service.addresses.iter().copied().map(network).collect(),
            ports: service
                .ports
                .iter()
                .map(|port| Port {
                    service_port: port.number,
                    target_port: match port.target {
                        PortRef::Number(number) => number,
                        PortRef::Name(_) => 0,
                    },
                    app_protocol: app_protocol(port.app_protocol.as_deref(), &port.name),
                })
                .collect(),
            subject_alt_names: Vec::new(),
            waypoint: None,
            load_balancing: load_balancing(service),
            ip_families: match service.ip_families[..] {
                [] => IpFamilies::Automatic,
                [IpFamily::IPv4] => IpFamilies::Ipv4Only,
                [IpFamily::IPv6] => IpFamilies::Ipv6Only,
                _ => IpFamilies::Dual,
            },
            canonical: false,
            ingress_use_waypoint: false,
            traffic: self.traffic_of(key),
        })
    }

    pub(super) fn services_of_pod(&self, name: &Name, pod: &Pod) -> Services {
        let mut services = Services::new();
        let labels = &pod.metadata.labels;
        for service_name in self.service_selectors.candidates(&name.namespace, labels) {
            let Some(service) = self.services.get(service_name) else { continue };
            let key = self.key(service_name);
            // Once slices exist they alone say which pods serve.
            let has_slices = self.slices_of_service.contains_key(service_name);
            if has_slices || !matches(&service.selector, labels) || !self.owns(&key.hostname, false, service_name) {
                continue;
            }
            let target = |port: &ServicePort| match &port.target {
                PortRef::Number(number) => *number,
                PortRef::Name(name) => pod.ports.iter().find(|p| p.name == *name).map_or(0, |p| p.number),
            };
            services.insert(key, ports(service, target));
        }
        for slice in self.slices_of_pod.get(name).into_iter().flatten() {
            let Some(slice) = self.slices.get(slice) else { continue };
            let Some((key, service)) = self.service_of_slice(slice) else { continue };
            // A pod's own readiness counts; a slice can only say that a pod that is fine does not serve all the same.
            let serves =
                slice.endpoints.iter().any(|e| e.pod.as_ref() == Some(&name.name) && (e.ready || !pod.is_available()));
            if !serves {
                continue;
            }
            let found = ports_of_slice(service, slice);
            match services.get_mut(&key) {
                None => {
                    services.insert(key, found);
                }
                // The slice of the other IP family, or one of ports that the first does not have.
                Some(ports) => {
                    for (port, found) in ports.iter_mut().zip(found).filter(|(port, _)| port.target_port == 0) {
                        port.target_port = found.target_port;
                    }
                }
            }
        }
        self.add_entry_services(name, labels, None, &mut services);
        services
    }

    /// Services select WorkloadEntries as they select pods; no EndpointSlice ever lists them.
    pub(super) fn services_of_entry(&self, name: &Name, entry: &WorkloadEntry) -> Services {
        let mut services = Services::new();
        let labels = &entry.endpoint.labels;
        for service_name in self.service_selectors.candidates(&name.namespace, labels) {
            let Some(service) = self.services.get(service_name) else { continue };
            let key = self.key(service_name);
            if !matches(&service.selector, labels) || !self.owns(&key.hostname, false, service_name) {
                continue;
            }
            let own = &entry.endpoint.ports;
            let target = |port: &ServicePort| match &port.target {
                PortRef::Name(name) => own.get(name).or_else(|| own.get(&port.name)).copied().unwrap_or(0),
                PortRef::Number(number) => own.get(&port.name).copied().unwrap_or(*number),
            };
            services.insert(key, ports(service, target));
        }
        self.add_entry_services(name, labels, Some(&entry.endpoint), &mut services);
        services
    }

    pub(super) fn service_of_slice(&self, slice: &EndpointSlice) -> Option<(ServiceKey, &Service)> {
        let name = Name { namespace: slice.metadata.namespace.clone(), name: slice.service.clone()? };
        let service = self.services.get(&name).filter(|s| s.kind != ServiceType::ExternalName)?;
        let key = self.key(&name);
        self.owns(&key.hostname, false, &name).then_some((key, service))
    }

    fn key(&self, service: &Name) -> ServiceKey {
        ServiceKey { namespace: service.namespace.clone(), hostname: self.hostname(service) }
    }
}

fn object_key(claim: &Claim) -> ObjectKey {
    let kind = if claim.is_entry { Kind::ServiceEntry } else { Kind::Service };
    ObjectKey { kind, namespace: claim.name.namespace.clone(), name: claim.name.name.clone() }
}

fn ports(service: &Service, target: impl Fn(&ServicePort) -> u16) -> Vec<Port> {
    let port = |port: &ServicePort| Port {
        service_port: port.number,
        target_port: target(port),
        app_protocol: app_protocol(port.app_protocol.as_deref(), &port.name),
    };
    service.ports.iter().map(port).collect()
}

/// A slice has the ports resolved already, under the names of the service's ports.
pub(super) fn ports_of_slice(service: &Service, slice: &EndpointSlice) -> Vec<Port> {
    ports(service, |port| {
        let found = slice.ports.iter().find(|p| p.name == port.name);
        found.map_or(0, |found| found.number.unwrap_or(port.number))
    })
}

fn load_balancing(service: &Service) -> LoadBalancing {
    let allow_unhealthy = service.publish_not_ready;
    if service.node_local {
        return LoadBalancing { routing_preference: vec![Scope::Node], mode: Mode::Strict, allow_unhealthy };
    }
    let preference = preference(service.traffic_distribution.as_deref(), &service.metadata);
    let mode = if preference.is_empty() { Mode::Any } else { Mode::Failover };
    LoadBalancing { routing_preference: preference, mode, allow_unhealthy }
}

/// What the field says, else the annotation (which has other letter cases, too); a word that is not known says nothing.
pub(super) fn preference(field: Option<&str>, metadata: &Metadata) -> Vec<Scope> {
    let of = |word: &str| match word.to_ascii_lowercase().as_str() {
        "preferclose" | "prefersamezone" => Some(vec![Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone]),
        "prefersamenode" => Some(vec![Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node]),
        "prefersamenetwork" | "prefernetwork" => Some(vec![Scope::Network]),
        _ => None,
    };
    let annotation = || metadata.annotation("networking.istio.io/traffic-distribution").and_then(of);
    field.and_then(of).or_else(annotation).unwrap_or_default()
}

/// `istio.workload.AppProtocol`: what is known without looking at bytes.
pub(super) fn app_protocol(declared: Option<&str>, port_name: &str) -> u32 {
    const HTTP11: u32 = 1;
    const HTTP2: u32 = 2;
    const GRPC: u32 = 3;
    let word = match declared {
        Some(declared) => declared.to_ascii_lowercase(),
        // `http-admin` is HTTP; the word ends at the dash.
        None => port_name.split('-').next().unwrap_or_default().to_ascii_lowercase(),
    };
    match word.as_str() {
        "http" | "kubernetes.io/ws" => HTTP11,
        "http2" | "h2c" | "kubernetes.io/h2c" => HTTP2,
        "grpc" => GRPC,
        _ => 0,
    }
}

/// For ServiceEntries, whose ports have a field for it.
pub(super) fn entry_protocol(protocol: &Arc<str>, port_name: &str) -> u32 {
    let declared = (!protocol.is_empty()).then_some(&**protocol);
    app_protocol(declared, port_name)
}

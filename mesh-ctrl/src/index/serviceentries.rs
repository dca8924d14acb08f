//! ServiceEntries: services that Kubernetes does not know, with endpoints of their own or selected ones.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::addr::NetworkAddress;
use mesh_core::service::{IpFamilies, LoadBalancing, Mode, Service as MeshService};
use mesh_core::wire::Address;
use mesh_core::workload::{Port, ServiceKey, Tunnel, Uid, Workload};

use super::Built;
use super::cluster::{Cluster, Name};
use super::labels::matches;
use super::services::{Services, entry_protocol, preference};
use crate::object::{EntryEndpoint, EntryPort, Kind, Labels, ObjectKey, Resolution, ServiceEntry};
use crate::source::{Code, Severity};

impl Cluster {
    pub(super) fn service_of_entry(&self, name: &Name, key: &ServiceKey, built: &mut Built) -> Option<MeshService> {
        let entry = self.service_entries.get(name)?;
        let mut note = |code, field: String, message: &str| {
            built.finding(Severity::Info, code, entry_key(name), Some(field), message.to_owned());
        };
        if entry.export_to.iter().any(|to| &**to != "*") {
            note(Code::NoEffect, "spec.exportTo".to_owned(), "visible in every namespace all the same");
        }
        let mut addresses: Vec<NetworkAddress> = Vec::new();
        for (i, block) in entry.addresses.iter().enumerate() {
            match block.0.prefix_len() == block.0.max_prefix_len() {
                true => addresses.push(NetworkAddress::new(self.config.network.clone(), block.0.addr())),
                false => note(Code::NoEffect, format!("spec.addresses[{i}]"), "ranges of addresses are not captured"),
            }
        }
        if entry.addresses.is_empty() {
            let own = entry.allocated.iter().filter(|(host, _)| host.is_empty() || *host == key.hostname);
            addresses.extend(own.map(|(_, ip)| NetworkAddress::new(self.config.network.clone(), *ip)));
        }
        let routing_preference = preference(None, &entry.metadata);
        let mode = match entry.resolution {
            Resolution::None => Mode::Passthrough,
            _ if routing_preference.is_empty() => Mode::Any,
            _ => Mode::Failover,
        };
        Some(MeshService {
            key: key.clone(),
            name: name.name.clone(),
            addresses,
            ports: ports(entry, |port| port.target),
            subject_alt_names: entry.subject_alt_names.clone(),
            waypoint: None,
            load_balancing: LoadBalancing { routing_preference, mode, allow_unhealthy: false },
            ip_families: IpFamilies::Automatic,
            canonical: false,
            ingress_use_waypoint: false,
            traffic: self.traffic_of(key),
        })
    }

    /// Adds the ServiceEntries that select a workload; `endpoint` is a WorkloadEntry's own view of its ports.
    pub(super) fn add_entry_services(
        &self,
        name: &Name,
        labels: &Labels,
        endpoint: Option<&EntryEndpoint>,
        services: &mut Services,
    ) {
        for entry_name in self.entry_selectors.candidates(&name.namespace, labels) {
            let Some(entry) = self.service_entries.get(entry_name) else { continue };
            if !matches(&entry.selector, labels) {
                continue;
            }
            for host in entry.hosts.iter().filter(|host| self.owns(host, true, entry_name)) {
                let key = ServiceKey { namespace: name.namespace.clone(), hostname: host.clone() };
                services.insert(key, ports_at(entry, endpoint));
            }
        }
    }

    /// Builds the workloads that a ServiceEntry lists itself.
    pub(super) fn build_endpoints(&self, name: &Name, built: &mut Built) {
        let Some(entry) = self.service_entries.get(name) else { return };
        let hosts: Vec<&Arc<str>> = entry.hosts.iter().filter(|host| self.owns(host, true, name)).collect();
        let mut seen = BTreeSet::new();
        for (i, endpoint) in entry.endpoints.iter().enumerate() {
            let id = id_of(endpoint);
            if !seen.insert(id.clone()) {
                let message = format!("{id} is listed before; one workload has one set of ports");
                let field = Some(format!("spec.endpoints[{i}]"));
                built.finding(Severity::Warning, Code::NoEffect, entry_key(name), field, message);
                continue;
            }
            self.endpoint(name, entry, id, endpoint, &hosts, built);
        }
        let by_name = matches!(entry.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
        if by_name && entry.endpoints.is_empty() && entry.selector.is_empty() {
            // The hosts are their own endpoints, found by DNS.
            for host in hosts.iter().filter(|host| !host.starts_with('*')) {
                let account = "default".into();
                let endpoint =
                    EntryEndpoint { address: (*host).clone(), service_account: account, ..EntryEndpoint::default() };
                self.endpoint(name, entry, host, &endpoint, &[*host], built);
            }
        }
    }

    fn endpoint_uid(&self, name: &Name, id: &str) -> Uid {
        // An address in its one canonical form; a hostname as it is.
        let id = id.parse::<IpAddr>().map_or_else(|_| id.to_owned(), |ip| ip.to_canonical().to_string());
        let cluster = &self.config.cluster_id;
        Uid(format!("{cluster}/networking.istio.io/ServiceEntry/{}/{}/{id}", name.namespace, name.name).into())
    }

    /// The endpoints that a ServiceEntry lists itself, with their labels.
    pub(super) fn listed<'a>(&self, name: &Name, entry: &'a ServiceEntry) -> Vec<(Uid, &'a Labels)> {
        entry.endpoints.iter().map(|endpoint| (self.endpoint_uid(name, id_of(endpoint)), &endpoint.labels)).collect()
    }

    fn endpoint(
        &self,
        name: &Name,
        entry: &ServiceEntry,
        id: &str,
        endpoint: &EntryEndpoint,
        hosts: &[&Arc<str>],
        built: &mut Built,
    ) {
        let account = &endpoint.service_account;
        let Some(identity) = self.identity(Kind::ServiceEntry, name, account, built) else { return };
        let uid = self.endpoint_uid(name, id);
        let base = self.workload(&name.name, &name.namespace, &endpoint.labels, name.name.clone(), identity);
        let enrolled = self.endpoint_is_enrolled(&endpoint.labels);
        let key = |host: &&Arc<str>| ServiceKey { namespace: name.namespace.clone(), hostname: (*host).clone() };
        built.address(Address::Workload(Workload {
            uid,
            tunnel: if enrolled { Tunnel::Hbone } else { Tunnel::None },
            services: hosts.iter().map(|host| (key(host), ports_at(entry, Some(endpoint)))).collect(),
            ..self.located(endpoint, base)
        }));
    }
}

fn id_of(endpoint: &EntryEndpoint) -> &Arc<str> {
    if endpoint.address.is_empty() { &endpoint.network } else { &endpoint.address }
}

/// An endpoint's own number for a port, by the port's name, wins over the service's target.
fn ports_at(entry: &ServiceEntry, endpoint: Option<&EntryEndpoint>) -> Vec<Port> {
    ports(entry, |port| endpoint.and_then(|e| e.ports.get(&port.name)).copied().unwrap_or(port.target))
}

fn ports(entry: &ServiceEntry, target: impl Fn(&EntryPort) -> u16) -> Vec<Port> {
    let tcp = entry.ports.iter().filter(|port| !port.protocol.eq_ignore_ascii_case("UDP"));
    tcp.map(|port| Port {
        service_port: port.number,
        target_port: target(port),
        app_protocol: entry_protocol(&port.protocol, &port.name),
    })
    .collect()
}

fn entry_key(name: &Name) -> ObjectKey {
    ObjectKey { kind: Kind::ServiceEntry, namespace: name.namespace.clone(), name: name.name.clone() }
}

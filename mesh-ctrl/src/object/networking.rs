//! `networking.istio.io`: services and workloads that Kubernetes does not know. A field that is not listed is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::scalar::{IpBlock, MaybeIp, PortNumber};
use super::security::Mistake;
use super::{Labels, Metadata};

#[derive(Clone, Debug, PartialEq)]
pub struct ServiceEntry {
    pub metadata: Metadata,
    pub hosts: Vec<Arc<str>>,
    pub addresses: Vec<IpBlock>,
    /// Allocated by a controller, by host; used for hosts when `addresses` is empty.
    pub allocated: Vec<(Arc<str>, IpAddr)>,
    pub ports: Vec<EntryPort>,
    pub location: Location,
    pub resolution: Resolution,
    pub endpoints: Vec<EntryEndpoint>,
    /// Empty: no workloads are selected.
    pub selector: Labels,
    pub export_to: Vec<Arc<str>>,
    pub subject_alt_names: Vec<Arc<str>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Location {
    #[default]
    MeshExternal,
    MeshInternal,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    #[default]
    None,
    Static,
    Dns,
    DnsRoundRobin,
    DynamicDns,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPort {
    pub name: Arc<str>,
    pub number: u16,
    pub target: u16,
    pub protocol: Arc<str>,
}

/// An endpoint of a ServiceEntry, and what a WorkloadEntry says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryEndpoint {
    /// An IP address or a hostname; empty when only a network (its gateway) is known.
    pub address: Arc<str>,
    /// By the service's port name.
    pub ports: BTreeMap<Arc<str>, u16>,
    pub labels: Labels,
    pub network: Arc<str>,
    /// `region/zone/subzone`
    pub locality: Arc<str>,
    pub weight: Option<u32>,
    pub service_account: Arc<str>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadEntry {
    pub metadata: Metadata,
    pub endpoint: EntryEndpoint,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawServiceEntry {
    #[serde(rename = "apiVersion")]
    _api_version: Value,
    #[serde(rename = "kind")]
    _kind: Value,
    metadata: Metadata,
    spec: EntrySpec,
    #[serde(default)]
    status: EntryStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EntryStatus {
    addresses: Vec<AllocatedAddress>,
}

#[derive(Deserialize)]
struct AllocatedAddress {
    #[serde(default)]
    host: Arc<str>,
    value: MaybeIp,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct EntrySpec {
    hosts: Vec<Arc<str>>,
    addresses: Vec<IpBlock>,
    ports: Vec<RawPort>,
    location: Location,
    resolution: Resolution,
    endpoints: Vec<RawEndpoint>,
    workload_selector: Option<LabelSelector>,
    export_to: Vec<Arc<str>>,
    subject_alt_names: Vec<Arc<str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawPort {
    number: PortNumber,
    #[serde(default)]
    protocol: Arc<str>,
    name: Arc<str>,
    #[serde(default)]
    target_port: Option<PortNumber>,
}

/// ServiceEntry's selector writes `labels`; `matchLabels` of the security kinds is no field of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LabelSelector {
    #[serde(default)]
    labels: Labels,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawEndpoint {
    address: Arc<str>,
    ports: BTreeMap<Arc<str>, PortNumber>,
    labels: Labels,
    network: Arc<str>,
    locality: Arc<str>,
    weight: Option<u32>,
    service_account: Arc<str>,
}

impl From<RawEndpoint> for EntryEndpoint {
    fn from(raw: RawEndpoint) -> Self {
        Self {
            address: raw.address,
            ports: raw.ports.into_iter().map(|(name, port)| (name, port.0)).collect(),
            labels: raw.labels,
            network: raw.network,
            locality: raw.locality,
            weight: raw.weight,
            service_account: match raw.service_account.is_empty() {
                true => "default".into(),
                false => raw.service_account,
            },
        }
    }
}

impl TryFrom<RawServiceEntry> for ServiceEntry {
    type Error = Mistake;

    fn try_from(raw: RawServiceEntry) -> Result<Self, Mistake> {
        let mistake = |field: String, message: &str| Err(Mistake { field, message: message.to_owned() });
        let spec = raw.spec;
        if spec.hosts.is_empty() {
            return mistake("spec.hosts".into(), "at least one host is needed");
        }
        if let Some(i) = spec.hosts.iter().position(|host| !is_host(host)) {
            return mistake(format!("spec.hosts[{i}]"), "no hostname");
        }
        if spec.workload_selector.is_some() && !spec.endpoints.is_empty() {
            return mistake("spec.workloadSelector".into(), "a workloadSelector and endpoints exclude each other");
        }
        let mut numbers = BTreeSet::new();
        let mut names = BTreeSet::new();
        for (i, port) in spec.ports.iter().enumerate() {
            if port.name.is_empty() || !names.insert(&port.name) || !numbers.insert(port.number) {
                return mistake(format!("spec.ports[{i}]"), "names and numbers of ports must be there and differ");
            }
        }
        for (i, endpoint) in spec.endpoints.iter().enumerate() {
            let is_ip = endpoint.address.parse::<IpAddr>().is_ok();
            let is_network_only = endpoint.address.is_empty() && !endpoint.network.is_empty();
            if !is_ip && !is_network_only {
                let field = format!("spec.endpoints[{i}].address");
                match spec.resolution {
                    Resolution::Static | Resolution::None => return mistake(field, "no IP address"),
                    _ if !is_host(&endpoint.address) => return mistake(field, "no IP address and no hostname"),
                    _ => {}
                }
            }
        }
        Ok(Self {
            metadata: raw.metadata,
            hosts: spec.hosts,
            addresses: spec.addresses,
            allocated: raw.status.addresses.into_iter().filter_map(|a| Some((a.host, a.value.0?))).collect(),
            ports: spec
                .ports
                .into_iter()
                .map(|p| EntryPort {
                    name: p.name,
                    number: p.number.0,
                    target: p.target_port.unwrap_or(p.number).0,
                    protocol: p.protocol,
                })
                .collect(),
            location: spec.location,
            resolution: spec.resolution,
            endpoints: spec.endpoints.into_iter().map(Into::into).collect(),
            selector: spec.workload_selector.map(|s| s.labels).unwrap_or_default(),
            export_to: spec.export_to,
            subject_alt_names: spec.subject_alt_names,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawWorkloadEntry {
    #[serde(rename = "apiVersion")]
    _api_version: Value,
    #[serde(rename = "kind")]
    _kind: Value,
    metadata: Metadata,
    spec: RawEndpoint,
    #[serde(default, rename = "status")]
    _status: Value,
}

impl TryFrom<RawWorkloadEntry> for WorkloadEntry {
    type Error = Mistake;

    fn try_from(raw: RawWorkloadEntry) -> Result<Self, Mistake> {
        let mistake = |message: &str| Err(Mistake { field: "spec.address".into(), message: message.into() });
        let address = &raw.spec.address;
        if address.is_empty() && raw.spec.network.is_empty() {
            return mistake("an address or a network is needed");
        }
        if !address.is_empty() && address.parse::<IpAddr>().is_err() && !is_host(address) {
            return mistake("no IP address and no hostname");
        }
        Ok(Self { metadata: raw.metadata, endpoint: raw.spec.into() })
    }
}

/// A DNS name, perhaps with a wildcard as its first label.
fn is_host(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len()) && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        })
}

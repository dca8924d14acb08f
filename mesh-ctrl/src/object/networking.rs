//! `networking.istio.io`: services and workloads that Kubernetes does not know. A field that is not listed is refused; what
//! else is wrong with an object was found before (`mesh_analysis::validate`).

use std::collections::BTreeMap;
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

impl RawEndpoint {
    /// Istio's endpoints may be sockets of a host; agents carry TCP.
    fn check(&self, field: &str) -> Result<(), Mistake> {
        match self.address.starts_with("unix://") {
            true => Err(Mistake { field: format!("{field}.address"), message: "sockets are not reached".to_owned() }),
            false => Ok(()),
        }
    }
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
        let spec = raw.spec;
        for (i, endpoint) in spec.endpoints.iter().enumerate() {
            endpoint.check(&format!("spec.endpoints[{i}]"))?;
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
        raw.spec.check("spec")?;
        Ok(Self { metadata: raw.metadata, endpoint: raw.spec.into() })
    }
}

//! Kubernetes' own kinds. Unknown fields are ignored, as the API grows fields every release.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use super::scalar::{MaybeIp, PortNumber};
use super::{Labels, Metadata};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Namespace {
    pub metadata: Metadata,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Node {
    pub metadata: Metadata,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "RawPod")]
pub struct Pod {
    pub metadata: Metadata,
    /// Empty until the pod is scheduled.
    pub node: Arc<str>,
    pub service_account: Arc<str>,
    pub host_network: bool,
    /// TCP ports of all containers; names matter to services' `targetPort`.
    pub ports: Vec<ContainerPort>,
    pub phase: PodPhase,
    /// One per IP family, the primary first; none until the pod has its network.
    pub addresses: Vec<IpAddr>,
    pub ready: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    pub name: Arc<str>,
    pub number: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum PodPhase {
    Pending,
    Running,
    Succeeded,
    Failed,
    #[default]
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "RawService")]
pub struct Service {
    pub metadata: Metadata,
    pub kind: ServiceType,
    pub addresses: Vec<IpAddr>,
    /// Empty when endpoints are managed by hand.
    pub selector: Labels,
    /// TCP ports only.
    pub ports: Vec<ServicePort>,
    pub publish_not_ready: bool,
    pub traffic_distribution: Option<Arc<str>>,
    /// `internalTrafficPolicy: Local`
    pub node_local: bool,
    pub ip_families: Vec<IpFamily>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ServiceType {
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum IpFamily {
    IPv4,
    IPv6,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub name: Arc<str>,
    pub number: u16,
    pub target: PortRef,
    pub app_protocol: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRef {
    Number(u16),
    Name(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "RawEndpointSlice")]
pub struct EndpointSlice {
    pub metadata: Metadata,
    /// The service in the slice's namespace, by label `kubernetes.io/service-name`.
    pub service: Option<Arc<str>>,
    pub endpoints: Vec<Endpoint>,
    /// TCP ports only.
    pub ports: Vec<EndpointPort>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub addresses: Vec<IpAddr>,
    /// Absent in the object means ready.
    pub ready: bool,
    /// Name of the pod in the slice's namespace, when the endpoint is one.
    pub pod: Option<Arc<str>>,
    pub node: Arc<str>,
    pub zone: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// Name of the service's port; empty for a single unnamed one.
    pub name: Arc<str>,
    /// `None`: every port, unchanged.
    pub number: Option<u16>,
}

#[derive(Deserialize)]
struct RawPod {
    metadata: Metadata,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: Arc<str>,
    service_account_name: Arc<str>,
    host_network: bool,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    #[serde(default)]
    ports: Vec<RawContainerPort>,
    #[serde(default)]
    restart_policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawContainerPort {
    #[serde(default)]
    name: Arc<str>,
    container_port: PortNumber,
    #[serde(default)]
    protocol: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: PodPhase,
    #[serde(rename = "podIP")]
    pod_ip: Option<MaybeIp>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct PodIp {
    ip: MaybeIp,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    status: String,
}

impl From<RawPod> for Pod {
    fn from(raw: RawPod) -> Self {
        let spec = raw.spec;
        // An init container that restarts always is a sidecar and may serve.
        let sidecars = spec.init_containers.into_iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let ports = spec.containers.into_iter().chain(sidecars).flat_map(|c| c.ports);
        let mut addresses: Vec<IpAddr> = raw.status.pod_ips.into_iter().filter_map(|ip| ip.ip.0).collect();
        if addresses.is_empty() {
            addresses.extend(raw.status.pod_ip.and_then(|ip| ip.0));
        }
        Self {
            metadata: raw.metadata,
            node: spec.node_name,
            service_account: match spec.service_account_name.is_empty() {
                true => "default".into(),
                false => spec.service_account_name,
            },
            host_network: spec.host_network,
            ports: ports
                .filter(|p| is_tcp(&p.protocol))
                .map(|p| ContainerPort { name: p.name, number: p.container_port.0 })
                .collect(),
            phase: raw.status.phase,
            addresses,
            ready: raw.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True"),
        }
    }
}

#[derive(Deserialize)]
struct RawService {
    metadata: Metadata,
    #[serde(default)]
    spec: ServiceSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    #[serde(rename = "type")]
    kind: ServiceType,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<ClusterIp>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<ClusterIp>,
    selector: Labels,
    ports: Vec<RawServicePort>,
    publish_not_ready_addresses: bool,
    traffic_distribution: Option<Arc<str>>,
    internal_traffic_policy: Option<String>,
    ip_families: Vec<IpFamily>,
}

/// An address, or the word None of a headless service.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct ClusterIp(Option<IpAddr>);

impl TryFrom<String> for ClusterIp {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "None" { Ok(Self(None)) } else { MaybeIp::try_from(text).map(|ip| Self(ip.0)) }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawServicePort {
    #[serde(default)]
    name: Arc<str>,
    port: PortNumber,
    #[serde(default)]
    target_port: Option<RawPortRef>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    app_protocol: Option<Arc<str>>,
}

#[derive(Deserialize)]
#[serde(try_from = "NumberOrText")]
struct RawPortRef(PortRef);

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl TryFrom<NumberOrText> for RawPortRef {
    type Error = String;

    fn try_from(value: NumberOrText) -> Result<Self, String> {
        let text = match value {
            NumberOrText::Number(number) => number.to_string(),
            NumberOrText::Text(text) => text,
        };
        match text.bytes().all(|b| b.is_ascii_digit()) {
            true => PortNumber::parse(&text).map(|port| Self(PortRef::Number(port.0))),
            false => Ok(Self(PortRef::Name(text.into()))),
        }
    }
}

impl From<RawService> for Service {
    fn from(raw: RawService) -> Self {
        let spec = raw.spec;
        let external = spec.kind == ServiceType::ExternalName;
        let mut addresses: Vec<IpAddr> = spec.cluster_ips.into_iter().filter_map(|ip| ip.0).collect();
        if addresses.is_empty() {
            addresses.extend(spec.cluster_ip.and_then(|ip| ip.0));
        }
        if external {
            addresses.clear();
        }
        Self {
            metadata: raw.metadata,
            kind: spec.kind,
            addresses,
            selector: if external { Labels::new() } else { spec.selector },
            ports: spec
                .ports
                .into_iter()
                .filter(|p| is_tcp(&p.protocol))
                .map(|p| ServicePort {
                    name: p.name,
                    number: p.port.0,
                    target: p.target_port.map_or(PortRef::Number(p.port.0), |target| target.0),
                    app_protocol: p.app_protocol,
                })
                .collect(),
            publish_not_ready: spec.publish_not_ready_addresses,
            traffic_distribution: spec.traffic_distribution,
            node_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            ip_families: spec.ip_families,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEndpointSlice {
    metadata: Metadata,
    address_type: String,
    #[serde(default)]
    endpoints: Vec<RawEndpoint>,
    #[serde(default)]
    ports: Vec<RawEndpointPort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEndpoint {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    conditions: EndpointConditions,
    #[serde(default)]
    target_ref: Option<TargetRef>,
    #[serde(default)]
    node_name: Arc<str>,
    #[serde(default)]
    zone: Arc<str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EndpointConditions {
    ready: Option<bool>,
}

#[derive(Deserialize)]
struct TargetRef {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: Arc<str>,
}

#[derive(Deserialize)]
struct RawEndpointPort {
    #[serde(default)]
    name: Arc<str>,
    #[serde(default)]
    port: Option<PortNumber>,
    #[serde(default)]
    protocol: Option<String>,
}

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

impl From<RawEndpointSlice> for EndpointSlice {
    fn from(raw: RawEndpointSlice) -> Self {
        // Addresses of type FQDN are names; Kubernetes' own proxies do not serve them either.
        let endpoints = if raw.address_type == "FQDN" { Vec::new() } else { raw.endpoints };
        Self {
            service: raw.metadata.labels.get(SERVICE_NAME_LABEL).cloned(),
            metadata: raw.metadata,
            endpoints: endpoints
                .into_iter()
                .map(|e| Endpoint {
                    addresses: e
                        .addresses
                        .iter()
                        .filter_map(|a| a.parse().ok())
                        .map(|a: IpAddr| a.to_canonical())
                        .collect(),
                    ready: e.conditions.ready != Some(false),
                    pod: e.target_ref.filter(|t| t.kind == "Pod").map(|t| t.name),
                    node: e.node_name,
                    zone: e.zone,
                })
                .collect(),
            ports: raw
                .ports
                .into_iter()
                .filter(|p| is_tcp(&p.protocol))
                .map(|p| EndpointPort { name: p.name, number: p.port.map(|port| port.0) })
                .collect(),
        }
    }
}

fn is_tcp(protocol: &Option<String>) -> bool {
    protocol.as_deref().is_none_or(|p| p == "TCP")
}

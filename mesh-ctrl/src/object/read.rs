//! From a JSON value, as any source delivers it, to an [`Object`].

use std::sync::Arc;

use mesh_analysis::Severity;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::backend_traffic_policy::RawBackendTrafficPolicy;
use super::mesh_config::{self, MeshConfig, RawConfigMap, RawMeshConfig};
use super::networking::{RawServiceEntry, RawWorkloadEntry};
use super::reference::GATEWAY_GROUP;
use super::secret::RawSecret;
use super::security::{Mistake, RawAuthorizationPolicy, RawPeerAuthentication};
use super::traffic::RawDestinationRule;
use super::{DestinationRule, Kind, Metadata, Object, ObjectKey, VirtualService, destination, virtual_service};
use crate::yaml;

/// What became of a value.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)]
pub enum Read {
    Object(Object),
    /// A kind that Weft does not read.
    Skipped {
        api_version: String,
        kind: String,
        name: String,
    },
    Refused(Refused),
}

/// Why a value is no object that can be in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which object it would have been, when that much can be read.
    pub key: Option<ObjectKey>,
    /// Path of the field at fault, as in `spec.rules[0].from`; empty for the whole.
    pub field: String,
    pub message: String,
}

/// Reads one object. `null` counts as absent, as it does in protobuf's JSON and in the API server's pruning.
pub fn read(mut value: Value) -> Read {
    drop_nulls(&mut value);
    let refused = |key: Option<&ObjectKey>, field: &str, message: String| {
        Read::Refused(Refused { key: key.cloned(), field: field.to_owned(), message })
    };
    let Value::Object(map) = &mut value else { return refused(None, "", "not a Kubernetes object".to_owned()) };
    let text = |map: &Map<String, Value>, field: &str| map.get(field).and_then(Value::as_str).map(str::to_owned);
    let (Some(api_version), Some(kind_name)) = (text(map, "apiVersion"), text(map, "kind")) else {
        return refused(None, "", "apiVersion and kind are needed".to_owned());
    };
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
    let name = map.get("metadata").and_then(|m| m.get("name")).and_then(Value::as_str).unwrap_or_default().to_owned();
    let known = known(group, &kind_name).filter(|(kind, _)| *kind != Kind::ConfigMap || name == mesh_config::NAME);
    let Some((kind, versions)) = known else {
        // The whole group is about who may do what: a misspelt kind is no kind to pass over.
        if group == "security.istio.io" {
            return refused(None, "kind", format!("{api_version} has no kind {kind_name}"));
        }
        return Read::Skipped { api_version, kind: kind_name, name };
    };
    let key = match identify(kind, map) {
        Ok(key) => key,
        Err(message) => return refused(None, "metadata", message),
    };
    if !versions.contains(&version) {
        return refused(Some(&key), "apiVersion", format!("{api_version} of {kind_name} is not served"));
    }
    // Releases before 1.6 serve these as an experiment, with the same fields.
    if version.starts_with("v1alpha") && group == GATEWAY_GROUP {
        map.insert("apiVersion".to_owned(), Value::String(format!("{GATEWAY_GROUP}/v1")));
    }
    // What admission would refuse, so that a folder and a cluster take the same. Of Kubernetes' own kinds it says nothing.
    if let Some(finding) =
        mesh_analysis::validate(&value).into_iter().find(|finding| finding.severity == Severity::Error)
    {
        return refused(Some(&key), &finding.path, finding.message);
    }
    match typed(kind, value) {
        Ok(object) => Read::Object(object),
        Err(mistake) => refused(Some(&key), &mistake.field, mistake.message),
    }
}

fn known(group: &str, kind: &str) -> Option<(Kind, &'static [&'static str])> {
    Some(match (group, kind) {
        ("", "Namespace") => (Kind::Namespace, &["v1"]),
        ("", "Node") => (Kind::Node, &["v1"]),
        ("", "Pod") => (Kind::Pod, &["v1"]),
        ("", "Service") => (Kind::Service, &["v1"]),
        ("", "Secret") => (Kind::Secret, &["v1"]),
        ("", "ConfigMap") => (Kind::ConfigMap, &["v1"]),
        ("", "ServiceAccount") => (Kind::ServiceAccount, &["v1"]),
        ("apps", "ReplicaSet") => (Kind::ReplicaSet, &["v1"]),
        ("apps", "Deployment") => (Kind::Deployment, &["v1"]),
        ("batch", "Job") => (Kind::Job, &["v1"]),
        ("discovery.k8s.io", "EndpointSlice") => (Kind::EndpointSlice, &["v1"]),
        ("security.istio.io", "PeerAuthentication") => (Kind::PeerAuthentication, &["v1", "v1beta1"]),
        ("security.istio.io", "AuthorizationPolicy") => (Kind::AuthorizationPolicy, &["v1", "v1beta1"]),
        ("networking.istio.io", "ServiceEntry") => (Kind::ServiceEntry, &["v1", "v1beta1", "v1alpha3"]),
        ("networking.istio.io", "DestinationRule") => (Kind::DestinationRule, &["v1", "v1beta1", "v1alpha3"]),
        ("networking.istio.io", "VirtualService") => (Kind::VirtualService, &["v1", "v1beta1", "v1alpha3"]),
        ("security.istio.io", "RequestAuthentication") => (Kind::RequestAuthentication, &["v1", "v1beta1"]),
        ("telemetry.istio.io", "Telemetry") => (Kind::Telemetry, &["v1", "v1alpha1"]),
        ("gateway.envoyproxy.io", "BackendTrafficPolicy") => (Kind::BackendTrafficPolicy, &["v1alpha1"]),
        // Istio's kind of the same name is another.
        (GATEWAY_GROUP, "Gateway") => (Kind::Gateway, &["v1", "v1beta1"]),
        (GATEWAY_GROUP, "HTTPRoute") => (Kind::HttpRoute, &["v1", "v1beta1"]),
        (GATEWAY_GROUP, "GRPCRoute") => (Kind::GrpcRoute, &["v1"]),
        (GATEWAY_GROUP, "TCPRoute") => (Kind::TcpRoute, &["v1", "v1alpha2"]),
        (GATEWAY_GROUP, "TLSRoute") => (Kind::TlsRoute, &["v1", "v1alpha3", "v1alpha2"]),
        (GATEWAY_GROUP, "ReferenceGrant") => (Kind::ReferenceGrant, &["v1beta1", "v1"]),
        ("networking.istio.io", "WorkloadEntry") => (Kind::WorkloadEntry, &["v1", "v1beta1", "v1alpha3"]),
        _ => return None,
    })
}

/// Checks the name and settles the namespace: "default" where a namespaced object names none.
fn identify(kind: Kind, map: &mut Map<String, Value>) -> Result<ObjectKey, String> {
    let Some(Value::Object(metadata)) = map.get_mut("metadata") else { return Err("metadata is needed".to_owned()) };
    let name = match metadata.get("name") {
        Some(Value::String(name)) if is_name(name) => Arc::<str>::from(name.as_str()),
        Some(Value::String(name)) => return Err(format!("{name:?} is no object name")),
        _ => return Err("metadata.name is needed".to_owned()),
    };
    let namespace: Arc<str> = match (kind.is_namespaced(), metadata.get("namespace")) {
        (false, _) => "".into(),
        (true, None) => "default".into(),
        (true, Some(Value::String(namespace))) if namespace.is_empty() => "default".into(),
        (true, Some(Value::String(namespace))) if is_name(namespace) => namespace.as_str().into(),
        (true, Some(namespace)) => return Err(format!("{namespace} is no namespace")),
    };
    metadata.insert("namespace".to_owned(), Value::String(namespace.to_string()));
    Ok(ObjectKey { kind, namespace, name })
}

/// RFC 1123 subdomain: no slash, no underscore, so that a name of ours with those is never a user's.
fn is_name(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= 253
        && text.starts_with(edge)
        && text.ends_with(edge)
        && text.chars().all(|c| edge(c) || c == '-' || c == '.')
}

fn typed(kind: Kind, value: Value) -> Result<Object, Mistake> {
    #[derive(serde::Deserialize)]
    struct MetadataOnly {
        metadata: Metadata,
    }
    let metadata = |value| parse::<MetadataOnly>(value).map(|o| o.metadata);
    Ok(match kind {
        Kind::Namespace => Object::Namespace(parse(value)?),
        Kind::Node => Object::Node(parse(value)?),
        Kind::Pod => Object::Pod(parse(value)?),
        Kind::Service => Object::Service(parse(value)?),
        Kind::EndpointSlice => Object::EndpointSlice(parse(value)?),
        Kind::ServiceAccount => Object::ServiceAccount(metadata(value)?),
        Kind::ReplicaSet => Object::ReplicaSet(metadata(value)?),
        Kind::Deployment => Object::Deployment(metadata(value)?),
        Kind::Job => Object::Job(metadata(value)?),
        Kind::PeerAuthentication => Object::PeerAuthentication(parse::<RawPeerAuthentication>(value)?.try_into()?),
        Kind::AuthorizationPolicy => Object::AuthorizationPolicy(parse::<RawAuthorizationPolicy>(value)?.try_into()?),
        Kind::ServiceEntry => Object::ServiceEntry(parse::<RawServiceEntry>(value)?.try_into()?),
        Kind::DestinationRule => {
            let whole = parse::<destination::Whole>(value.clone())?;
            let unused = destination::unused(&value);
            let rule = DestinationRule::try_from(parse::<RawDestinationRule>(value)?)?;
            Object::DestinationRule(rule.with_waypoints(whole.spec, unused))
        }
        Kind::WorkloadEntry => Object::WorkloadEntry(parse::<RawWorkloadEntry>(value)?.try_into()?),
        Kind::VirtualService => {
            let unused = virtual_service::unused(&value);
            Object::VirtualService(VirtualService { unused, ..parse(value)? })
        }
        Kind::RequestAuthentication => Object::RequestAuthentication(parse(value)?),
        Kind::Telemetry => Object::Telemetry(parse(value)?),
        Kind::BackendTrafficPolicy => {
            Object::BackendTrafficPolicy(parse::<RawBackendTrafficPolicy>(value)?.try_into()?)
        }
        Kind::Gateway => Object::Gateway(parse(value)?),
        Kind::HttpRoute => Object::HttpRoute(parse(value)?),
        Kind::GrpcRoute => Object::GrpcRoute(parse(value)?),
        Kind::TcpRoute => Object::TcpRoute(parse(value)?),
        Kind::TlsRoute => Object::TlsRoute(parse(value)?),
        Kind::ReferenceGrant => Object::ReferenceGrant(parse(value)?),
        Kind::Secret => Object::Secret(parse::<RawSecret>(value)?.try_into()?),
        Kind::ConfigMap => Object::MeshConfig(mesh_config(value)?),
    })
}

/// Its text is YAML within YAML: mistakes are named by the field within, or the line.
fn mesh_config(value: Value) -> Result<MeshConfig, Mistake> {
    let RawConfigMap { metadata, data } = parse(value)?;
    let within = format!("data.{}", mesh_config::KEY);
    let text = data.get(mesh_config::KEY).map(String::as_str).unwrap_or_default();
    let malformed = |mistake: yaml::Mistake| Mistake {
        field: within.clone(),
        message: format!("line {}: {}", mistake.line, mistake.message),
    };
    let mut documents = yaml::documents(text, &yaml::Limits::default()).map_err(malformed)?;
    if let Some(mistake) = documents.iter_mut().find_map(|document| document.mistake.take()) {
        return Err(malformed(mistake));
    }
    let mut mesh = documents.first().map_or_else(|| Value::Object(Map::new()), |document| document.root.value());
    drop_nulls(&mut mesh);
    let named = |mistake: Mistake| Mistake { field: format!("{within}.{}", mistake.field), ..mistake };
    parse::<RawMeshConfig>(mesh).and_then(|raw| raw.read(metadata)).map_err(named)
}

fn parse<T: DeserializeOwned>(value: Value) -> Result<T, Mistake> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = match error.path().to_string() {
            root if root == "." => String::new(),
            path => path,
        };
        Mistake { field, message: error.into_inner().to_string() }
    })
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

//! Istio 1.30: networking, security, telemetry and extensions. All served versions of a kind have the same fields.

mod virtual_service;
mod destination_rule;
mod gateway;
mod service_entry;
mod workload;
mod sidecar;
mod extension;
mod peer_authentication;
mod request_authentication;
mod authorization_policy;
mod telemetry;
mod traffic_policy;
mod server_tls;
mod port;
mod selector;
mod status;

use crate::schema::Kind;

/// Every kind, in the order of the CRDs' names.
pub(super) static KINDS: &[&Kind] = &[
    &extension::WASM_PLUGIN,
    &destination_rule::DESTINATION_RULE,
    &extension::ENVOY_FILTER,
    &gateway::GATEWAY,
    &extension::PROXY_CONFIG,
    &service_entry::SERVICE_ENTRY,
    &sidecar::SIDECAR,
    &virtual_service::VIRTUAL_SERVICE,
    &workload::WORKLOAD_ENTRY,
    &workload::WORKLOAD_GROUP,
    &authorization_policy::AUTHORIZATION_POLICY,
    &peer_authentication::PEER_AUTHENTICATION,
    &request_authentication::REQUEST_AUTHENTICATION,
    &telemetry::TELEMETRY,
];

const NETWORKING: &str = "networking.istio.io";
const NETWORKING_CATEGORIES: &[&str] = &["istio-io", "networking-istio-io"];
const NETWORKING_VERSIONS: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const SECURITY: &str = "security.istio.io";
const SECURITY_CATEGORIES: &[&str] = &["istio-io", "security-istio-io"];
const SECURITY_VERSIONS: &[&str] = &["v1", "v1beta1"];
const TELEMETRY: &str = "telemetry.istio.io";
const TELEMETRY_CATEGORIES: &[&str] = &["istio-io", "telemetry-istio-io"];
const EXTENSIONS: &str = "extensions.istio.io";
const EXTENSIONS_CATEGORIES: &[&str] = &["istio-io", "extensions-istio-io"];

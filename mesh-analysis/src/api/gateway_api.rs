//! Gateway API 1.6, standard channel: ten kinds, with the fields of the experimental one that waypoints carry out. Versions that the bundle lists and does not serve are left out, since
//! nothing can be stored in them where the CRDs are first installed.

mod gateway_class;
mod gateway;
mod listener_set;
mod listener;
mod http_route;
mod grpc_route;
mod http_filter;
mod experimental;
mod stream_route;
mod backend_tls_policy;
mod reference_grant;
mod condition;
mod reference;

use crate::schema::Kind;

/// Release of the Gateway API that the tables are from, as its CRDs say it.
pub(crate) const BUNDLE_VERSION: &str = "v1.6.0";

/// Every kind, in the order of the CRDs' names.
pub(super) static KINDS: &[&Kind] = &[
    &backend_tls_policy::BACKEND_TLS_POLICY,
    &gateway_class::GATEWAY_CLASS,
    &gateway::GATEWAY,
    &grpc_route::GRPC_ROUTE,
    &http_route::HTTP_ROUTE,
    &listener_set::LISTENER_SET,
    &reference_grant::REFERENCE_GRANT,
    &stream_route::TCP_ROUTE,
    &stream_route::TLS_ROUTE,
    &stream_route::UDP_ROUTE,
];

const GROUP: &str = "gateway.networking.k8s.io";
const CATEGORIES: &[&str] = &["gateway-api"];

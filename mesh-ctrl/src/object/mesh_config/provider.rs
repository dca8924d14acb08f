//! `extensionProviders`: services that waypoints ask or tell.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::l7::authorization::{ExternalAuthorizer, ExternalProtocol};
use mesh_core::l7::text::TextMatch;
use mesh_core::workload::ServiceKey;
use serde::Deserialize;
use serde_json::Value;

use super::tracer::{OpenTelemetry, Tracer, Zipkin};
use crate::object::scalar::{PortNumber, duration};
use crate::object::security::Mistake;
use crate::object::text::wildcard;

#[derive(Clone, Debug, PartialEq)]
pub enum Provider {
    Authorizer(Authorizer),
    Tracer(Tracer),
    /// Of a kind that nobody here speaks with, by its field.
    Other(Arc<str>),
}

/// Who is asked about requests; as the waypoint's, but for the service, which is not looked up yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Authorizer {
    /// `hostname` or `namespace/hostname`.
    pub service: Arc<str>,
    pub port: u16,
    protocol: ExternalProtocol,
    timeout: Duration,
    fail_open: bool,
    status_on_error: u16,
    path_prefix: Arc<str>,
    include_request_headers: Vec<TextMatch>,
    include_additional_headers: Vec<(Arc<str>, Arc<str>)>,
    body: Body,
    headers_to_upstream: Vec<TextMatch>,
    headers_to_downstream_on_deny: Vec<TextMatch>,
    headers_to_downstream_on_allow: Vec<TextMatch>,
}

impl Authorizer {
    pub fn at(&self, provider: &Arc<str>, service: ServiceKey) -> ExternalAuthorizer {
        ExternalAuthorizer {
            provider: provider.clone(),
            protocol: self.protocol,
            service,
            port: self.port,
            timeout: self.timeout,
            fail_open: self.fail_open,
            status_on_error: self.status_on_error,
            path_prefix: self.path_prefix.clone(),
            include_request_headers: self.include_request_headers.clone(),
            include_additional_headers: self.include_additional_headers.clone(),
            max_body_bytes: self.body.max_request_bytes,
            allow_partial_body: self.body.allow_partial_message,
            headers_to_upstream: self.headers_to_upstream.clone(),
            headers_to_downstream_on_deny: self.headers_to_downstream_on_deny.clone(),
            headers_to_downstream_on_allow: self.headers_to_downstream_on_allow.clone(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawProvider {
    pub(super) name: Arc<str>,
    #[serde(default)]
    envoy_ext_authz_http: Option<Http>,
    #[serde(default)]
    envoy_ext_authz_grpc: Option<Grpc>,
    #[serde(default)]
    zipkin: Option<Zipkin>,
    #[serde(default)]
    opentelemetry: Option<OpenTelemetry>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Grpc {
    service: Arc<str>,
    port: PortNumber,
    #[serde(default, deserialize_with = "duration")]
    timeout: Option<Duration>,
    #[serde(default)]
    fail_open: bool,
    /// Routes are looked for after an authorizer was asked in any case.
    #[serde(default, rename = "clearRouteCache")]
    _clear_route_cache: bool,
    #[serde(default)]
    status_on_error: String,
    #[serde(default)]
    include_request_body_in_check: Body,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Http {
    service: Arc<str>,
    port: PortNumber,
    #[serde(default, deserialize_with = "duration")]
    timeout: Option<Duration>,
    #[serde(default)]
    path_prefix: Arc<str>,
    #[serde(default)]
    fail_open: bool,
    #[serde(default, rename = "clearRouteCache")]
    _clear_route_cache: bool,
    #[serde(default)]
    status_on_error: String,
    /// The deprecated name.
    #[serde(default)]
    include_headers_in_check: Vec<Arc<str>>,
    #[serde(default)]
    include_request_headers_in_check: Vec<Arc<str>>,
    #[serde(default)]
    include_additional_headers_in_check: BTreeMap<Arc<str>, Arc<str>>,
    #[serde(default)]
    include_request_body_in_check: Body,
    #[serde(default)]
    headers_to_upstream_on_allow: Vec<Arc<str>>,
    #[serde(default)]
    headers_to_downstream_on_deny: Vec<Arc<str>>,
    #[serde(default)]
    headers_to_downstream_on_allow: Vec<Arc<str>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Body {
    /// 0: none of it.
    max_request_bytes: u32,
    allow_partial_message: bool,
    pack_as_bytes: bool,
}

/// As in the reference.
const TIMEOUT: Duration = Duration::from_secs(600);
const STATUS: u16 = 403;

impl RawProvider {
    pub(super) fn read(self, at: &str, unused: &mut Vec<(String, String)>) -> Result<Provider, Mistake> {
        if let Some(http) = self.envoy_ext_authz_http {
            let headers = |names: &[Arc<str>]| names.iter().map(wildcard).collect::<Vec<_>>();
            let mut told = headers(&http.include_request_headers_in_check);
            told.extend(headers(&http.include_headers_in_check));
            return Ok(Provider::Authorizer(Authorizer {
                service: http.service,
                port: http.port.0,
                protocol: ExternalProtocol::Http,
                timeout: http.timeout.unwrap_or(TIMEOUT),
                fail_open: http.fail_open,
                status_on_error: status(&http.status_on_error, &format!("{at}.envoyExtAuthzHttp"))?,
                path_prefix: http.path_prefix,
                include_request_headers: told,
                include_additional_headers: http.include_additional_headers_in_check.into_iter().collect(),
                body: body(http.include_request_body_in_check, &format!("{at}.envoyExtAuthzHttp"), unused),
                headers_to_upstream: headers(&http.headers_to_upstream_on_allow),
                headers_to_downstream_on_deny: headers(&http.headers_to_downstream_on_deny),
                headers_to_downstream_on_allow: headers(&http.headers_to_downstream_on_allow),
            }));
        }
        if let Some(grpc) = self.envoy_ext_authz_grpc {
            return Ok(Provider::Authorizer(Authorizer {
                service: grpc.service,
                port: grpc.port.0,
                protocol: ExternalProtocol::Grpc,
                timeout: grpc.timeout.unwrap_or(TIMEOUT),
                fail_open: grpc.fail_open,
                status_on_error: status(&grpc.status_on_error, &format!("{at}.envoyExtAuthzGrpc"))?,
                path_prefix: "".into(),
                include_request_headers: Vec::new(),
                include_additional_headers: Vec::new(),
                body: body(grpc.include_request_body_in_check, &format!("{at}.envoyExtAuthzGrpc"), unused),
                headers_to_upstream: Vec::new(),
                headers_to_downstream_on_deny: Vec::new(),
                headers_to_downstream_on_allow: Vec::new(),
            }));
        }
        if let Some(zipkin) = self.zipkin {
            return Ok(Provider::Tracer(zipkin.read(&format!("{at}.zipkin"), unused)?));
        }
        if let Some(opentelemetry) = self.opentelemetry {
            return Ok(Provider::Tracer(opentelemetry.read(&format!("{at}.opentelemetry"), unused)?));
        }
        let kind: Arc<str> = self.rest.keys().next().map_or("", String::as_str).into();
        unused.push((at.to_owned(), format!("a provider of kind {kind:?} is not spoken with")));
        Ok(Provider::Other(kind))
    }
}

fn status(text: &str, at: &str) -> Result<u16, Mistake> {
    let refused = || Mistake {
        field: format!("{at}.statusOnError"),
        message: format!("{text:?} is no HTTP status from 200 to 599"),
    };
    match text {
        "" => Ok(STATUS),
        _ => text.parse().ok().filter(|status| (200..600).contains(status)).ok_or_else(refused),
    }
}

fn body(body: Body, at: &str, unused: &mut Vec<(String, String)>) -> Body {
    if body.pack_as_bytes {
        let why = "the body is told as text";
        unused.push((format!("{at}.includeRequestBodyInCheck.packAsBytes"), why.to_owned()));
    }
    body
}

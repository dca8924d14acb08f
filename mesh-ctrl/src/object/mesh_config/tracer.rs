//! Providers of `extensionProviders` that are told spans.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use mesh_core::l7::telemetry::{self, FieldValue, Place, ProviderProtocol};
use mesh_core::workload::ServiceKey;
use serde::Deserialize;
use serde_json::Value;

use crate::object::scalar::{PortNumber, duration};
use crate::object::security::Mistake;

/// Who is told spans; as the waypoint's, but for the service, which is not looked up yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracer {
    /// `hostname` or `namespace/hostname`.
    pub service: Arc<str>,
    pub port: u16,
    protocol: ProviderProtocol,
    path: Arc<str>,
    headers: Vec<(Arc<str>, FieldValue)>,
    timeout: Option<Duration>,
    longest_path: Option<u32>,
    short_ids: bool,
}

impl Tracer {
    pub fn at(&self, service: ServiceKey) -> telemetry::Provider {
        telemetry::Provider {
            protocol: self.protocol,
            place: Place::Service(service),
            port: self.port,
            path: self.path.clone(),
            headers: self.headers.clone(),
            timeout: self.timeout,
            longest_path: self.longest_path,
            short_ids: self.short_ids,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Zipkin {
    service: Arc<str>,
    port: PortNumber,
    #[serde(default)]
    max_tag_length: Option<u32>,
    #[serde(default, rename = "enable64bitTraceId")]
    enable_64bit_trace_id: bool,
    /// Empty: `/api/v2/spans`
    #[serde(default)]
    path: Arc<str>,
    #[serde(default, deserialize_with = "duration")]
    timeout: Option<Duration>,
    #[serde(default)]
    headers: Vec<Field>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OpenTelemetry {
    service: Arc<str>,
    port: PortNumber,
    #[serde(default)]
    max_tag_length: Option<u32>,
    /// `None`: over gRPC.
    #[serde(default)]
    http: Option<OverHttp>,
    #[serde(default)]
    grpc: OverGrpc,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct OverHttp {
    path: Arc<str>,
    #[serde(deserialize_with = "duration")]
    timeout: Option<Duration>,
    headers: Vec<Field>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct OverGrpc {
    #[serde(deserialize_with = "duration")]
    timeout: Option<Duration>,
    initial_metadata: Vec<Field>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Field {
    name: Arc<str>,
    #[serde(default)]
    value: Option<Arc<str>>,
    /// Of the process that sends.
    #[serde(default)]
    env_name: Option<Arc<str>>,
}

impl Zipkin {
    pub(super) fn read(self, at: &str, unused: &mut Vec<(String, String)>) -> Result<Tracer, Mistake> {
        unread(&self.rest, at, unused);
        Ok(Tracer {
            service: self.service,
            port: self.port.0,
            protocol: ProviderProtocol::Zipkin,
            path: path(&self.path, &format!("{at}.path"))?,
            headers: fields(self.headers, &format!("{at}.headers"))?,
            timeout: self.timeout.filter(|timeout| !timeout.is_zero()),
            longest_path: self.max_tag_length,
            short_ids: self.enable_64bit_trace_id,
        })
    }
}

impl OpenTelemetry {
    pub(super) fn read(self, at: &str, unused: &mut Vec<(String, String)>) -> Result<Tracer, Mistake> {
        unread(&self.rest, at, unused);
        let (protocol, path, headers, timeout) = match self.http {
            Some(http) => {
                let path = path(&http.path, &format!("{at}.http.path"))?;
                (ProviderProtocol::OtlpHttp, path, fields(http.headers, &format!("{at}.http.headers"))?, http.timeout)
            }
            None => {
                let headers = fields(self.grpc.initial_metadata, &format!("{at}.grpc.initialMetadata"))?;
                (ProviderProtocol::OtlpGrpc, "".into(), headers, self.grpc.timeout)
            }
        };
        Ok(Tracer {
            service: self.service,
            port: self.port.0,
            protocol,
            path,
            headers,
            timeout: timeout.filter(|timeout| !timeout.is_zero()),
            longest_path: self.max_tag_length,
            short_ids: false,
        })
    }
}

fn unread(rest: &BTreeMap<String, Value>, at: &str, unused: &mut Vec<(String, String)>) {
    unused.extend(rest.keys().map(|field| (format!("{at}.{field}"), "has no effect on spans".to_owned())));
}

fn path(path: &Arc<str>, at: &str) -> Result<Arc<str>, Mistake> {
    let is_path = path.is_empty() || path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok();
    let refused = || Mistake { field: at.to_owned(), message: format!("{path:?} is no path that begins with '/'") };
    is_path.then(|| path.clone()).ok_or_else(refused)
}

/// Fields that say how a message is sent (RFC 9110, sections 7 and 8) and not what is sent with it.
const OWN: [&str; 8] =
    ["connection", "content-length", "content-type", "host", "keep-alive", "te", "transfer-encoding", "upgrade"];

fn fields(from: Vec<Field>, at: &str) -> Result<Vec<(Arc<str>, FieldValue)>, Mistake> {
    let read = from.into_iter().enumerate().map(|(i, field)| {
        let refused = |part: &str, message: String| Mistake { field: format!("{at}[{i}]{part}"), message };
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let name = name.map_err(|_| refused(".name", format!("{:?} is no name of a header", field.name)))?;
        if OWN.contains(&name.as_str()) {
            return Err(refused(".name", format!("{name} is written by whoever sends")));
        }
        let value = match (field.value, field.env_name) {
            (Some(text), None) if HeaderValue::from_str(&text).is_ok() => FieldValue::Literal(text),
            (Some(_), None) => return Err(refused(".value", "is no value of a header".to_owned())),
            (None, Some(variable)) => FieldValue::Environment(variable),
            _ => return Err(refused("", "has to have one of value and envName".to_owned())),
        };
        Ok((name.as_str().into(), value))
    });
    read.collect()
}

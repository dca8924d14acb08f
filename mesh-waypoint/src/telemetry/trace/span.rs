//! A span of a waypoint, with the tags that the reference's proxy gives its own.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::context::{Ids, Outgoing};
use crate::telemetry::record::{Record, Word};

/// Who makes spans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// `gateway.namespace`
    pub service: String,
    pub gateway: Arc<str>,
    pub namespace: Arc<str>,
    pub cluster: Arc<str>,
    /// The trust domain.
    pub mesh: Arc<str>,
    pub pod: Arc<str>,
}

/// One request, answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub ids: Ids,
    pub parent: Option<u64>,
    /// Trace ids of this trace have 8 bytes.
    pub is_short: bool,
    /// Of its traceparent.
    pub flags: u8,
    /// What came as `tracestate`.
    pub state: String,
    /// `host:port/*`, as the reference names them.
    pub name: String,
    pub began: SystemTime,
    pub took: Duration,
    pub peer: SocketAddr,
    pub origin: Arc<Origin>,
    pub tags: Vec<(Cow<'static, str>, String)>,
    pub is_error: bool,
}

impl Span {
    /// `longest_path`: in bytes, in its URL.
    pub(super) fn new(
        outgoing: &Outgoing,
        origin: &Arc<Origin>,
        record: &Record,
        longest_path: usize,
        began: SystemTime,
        state: String,
        own: Vec<(Arc<str>, String)>,
    ) -> Self {
        let word = |word| record.texts.get(word);
        let service = record.service.as_ref().map(|service| &service.key.hostname);
        let port = record.asked.port();
        let to = service.map_or_else(|| record.asked.to_string(), |host| format!("{host}:{port}"));
        let cluster = service.map_or_else(|| "-".to_owned(), |host| format!("inbound-vip|{port}|http|{host}"));
        let is_error = record.status >= 500 || record.status == 0 || record.grpc_status.is_some_and(|s| s.0 != 0);
        let path = word(Word::Path);
        let path = &path[..path.floor_char_boundary(longest_path)];
        let mut tags: Vec<(Cow<'static, str>, String)> = Vec::with_capacity(32);
        let mut tag = |name: &'static str, value: &str| {
            if !value.is_empty() {
                tags.push((name.into(), value.to_owned()));
            }
        };
        tag("component", "proxy");
        tag("node_id", &origin.pod);
        tag("http.method", word(Word::Method));
        tag("http.url", &format!("http://{}{path}", word(Word::Authority)));
        tag("http.protocol", record.protocol);
        tag("http.status_code", &record.status.to_string());
        if let Some(status) = record.grpc_status {
            tag("grpc.status_code", &status.0.to_string());
        }
        if is_error {
            tag("error", "true");
        }
        tag("guid:x-request-id", word(Word::RequestId));
        tag("user_agent", word(Word::UserAgent));
        tag("request_size", &record.received.to_string());
        tag("response_size", &record.sent.to_string());
        tag("response_flags", record.flags);
        tag("downstream_cluster", "-");
        tag("peer.address", &record.client.address.ip().to_string());
        tag("upstream_cluster", &cluster);
        tag("upstream_cluster.name", &cluster);
        if let Some(upstream) = record.upstream {
            tag("upstream_address", &upstream.to_string());
        }
        tag("istio.canonical_service", &origin.gateway);
        tag("istio.canonical_revision", "latest");
        tag("istio.namespace", &origin.namespace);
        tag("istio.cluster_id", &origin.cluster);
        tag("istio.mesh_id", &origin.mesh);
        let (source, destination) = (&record.client.workload, &record.destination);
        tag("istio.source_principal", record.client.identity.uri());
        tag("istio.source_workload", source.as_ref().map_or("", |workload| &workload.workload_name));
        tag("istio.source_namespace", source.as_ref().map_or("", |workload| &workload.namespace));
        tag("istio.destination_workload", destination.as_ref().map_or("", |workload| &workload.workload_name));
        tag("istio.destination_namespace", destination.as_ref().map_or("", |workload| &workload.namespace));
        tag("istio.destination_service", service.map_or("", |host| host));
        for (name, value) in own {
            tags.retain(|(other, _)| **other != *name);
            tags.push((name.to_string().into(), value));
        }
        Self {
            ids: outgoing.own,
            parent: outgoing.parent,
            is_short: outgoing.is_short,
            flags: outgoing.flags(),
            state,
            name: format!("{to}/*"),
            began,
            took: record.took,
            peer: record.client.address,
            origin: origin.clone(),
            tags,
            is_error,
        }
    }
}

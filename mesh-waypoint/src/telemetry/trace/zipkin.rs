//! Spans as Zipkin's second version of its JSON says them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use super::span::Span;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    trace_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<String>,
    id: String,
    kind: &'static str,
    name: &'a str,
    /// Microseconds since 1970.
    timestamp: u64,
    /// Microseconds; 0 would be no duration.
    duration: u64,
    local_endpoint: Endpoint<'a>,
    remote_endpoint: Endpoint<'a>,
    tags: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    service_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

/// A list of spans.
pub fn request(spans: &[Span]) -> Vec<u8> {
    let written: Vec<_> = spans.iter().map(written).collect();
    // Texts and numbers can always be written.
    serde_json::to_vec(&written).unwrap_or_default()
}

fn written(span: &Span) -> Written<'_> {
    let began = span.began.duration_since(UNIX_EPOCH).unwrap_or_default();
    let microseconds = |since: Duration| u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    let trace = span.ids.trace;
    Written {
        trace_id: if span.is_short { format!("{trace:016x}") } else { format!("{trace:032x}") },
        parent_id: span.parent.map(|parent| format!("{parent:016x}")),
        id: format!("{:016x}", span.ids.span),
        kind: "SERVER",
        name: &span.name,
        timestamp: microseconds(began),
        duration: microseconds(span.took).max(1),
        local_endpoint: Endpoint { service_name: Some(&span.origin.service), ipv4: None, ipv6: None, port: None },
        remote_endpoint: endpoint(span.peer),
        tags: span.tags.iter().map(|(name, value)| (&**name, &**value)).collect(),
    }
}

fn endpoint(at: SocketAddr) -> Endpoint<'static> {
    let text = at.ip().to_string();
    let (ipv4, ipv6) = if at.is_ipv4() { (Some(text), None) } else { (None, Some(text)) };
    Endpoint { service_name: None, ipv4, ipv6, port: Some(at.port()) }
}

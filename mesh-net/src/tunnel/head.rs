//! What a stream is for: the head of its CONNECT request, and the strict parsers of its fields.

use std::net::SocketAddr;

use mesh_core::workload::WorkloadKind;

/// A request for a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// `podIP:port`, or `hostname:port` at waypoints and gateways.
    pub authority: String,
    pub baggage: Option<Baggage>,
    pub forwarded: Option<Forwarded>,
    /// W3C trace context, version 00.
    pub traceparent: Option<String>,
}

impl Head {
    pub fn to(authority: impl Into<String>) -> Self {
        Self { authority: authority.into(), baggage: None, forwarded: None, traceparent: None }
    }
}

/// Who the workload at one end says it is: names for logs and metrics, never proof.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    pub cluster: Option<String>,
    pub namespace: Option<String>,
    /// Kind and name of what owns the workload.
    pub workload: Option<(WorkloadKind, String)>,
    pub service_name: Option<String>,
    pub service_version: Option<String>,
}

/// The application's own address and what it asked for (RFC 7239).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    pub for_: SocketAddr,
    pub host: Option<String>,
}

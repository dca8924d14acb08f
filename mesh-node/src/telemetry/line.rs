//! A connection's line of the access log.

use std::sync::Arc;

use mesh_core::identity::SpiffeId;
use mesh_core::workload::Workload;
use mesh_net::log_field;
use mesh_net::logging::line::Line;

use crate::connection::{End, Live};

pub(super) const MESSAGE: &str = "connection complete";

/// Writes the fields of a connection that is over.
pub(super) fn fill(live: &Live, end: &End, line: &mut Line<'_>) {
    let facts = &live.facts;
    let (source, destination) = (facts.source.as_ref(), facts.destination.as_ref());
    line.text(log_field!("direction"), facts.direction.as_str());
    line.shown(log_field!("src.addr"), facts.client.0);
    line.text(log_field!("src.workload"), of(source, |workload| &workload.name));
    line.text(log_field!("src.namespace"), of(source, |workload| &workload.namespace));
    line.text(log_field!("src.identity"), facts.source_identity.as_ref().map_or("", SpiffeId::uri));
    if facts.from_node {
        line.flag(log_field!("src.node"), true);
    }
    line.shown(log_field!("dst.addr"), facts.target.map_or(facts.asked.0, |target| target.0));
    if let Some(tunnel) = facts.tunnel {
        line.quoted(log_field!("dst.hbone_addr"), tunnel.0);
    }
    line.text(log_field!("dst.service"), facts.service.as_ref().map_or("", |service| &service.key.hostname));
    line.text(log_field!("dst.workload"), of(destination, |workload| &workload.name));
    line.text(log_field!("dst.namespace"), of(destination, |workload| &workload.namespace));
    line.text(log_field!("dst.identity"), facts.destination_identity.as_ref().map_or("", SpiffeId::uri));
    line.text(log_field!("security"), facts.security.as_str());
    if let Some(policy) = end.policy.as_ref().or(facts.policy.as_ref()) {
        line.text(log_field!("policy"), &policy.to_string());
    }
    line.number(log_field!("bytes_sent"), live.sent());
    line.number(log_field!("bytes_recv"), live.received());
    let duration = u64::try_from(live.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
    line.number(log_field!("duration_ms"), duration);
    line.text(log_field!("reason"), end.reason);
    if end.reason != End::COMPLETE {
        line.text(log_field!("error"), if end.detail.is_empty() { end.reason } else { &end.detail });
    }
}

fn of(workload: Option<&Arc<Workload>>, text: fn(&Workload) -> &Arc<str>) -> &str {
    workload.map_or("", |workload| text(workload))
}

#[cfg(test)]
mod tests;

//! A line of the access log.

use mesh_net::log_field;
use mesh_net::logging::line::{Clock, Form, Line};

use super::ACCESS;
use super::record::{Record, Word};

/// Appends the line of what `record` tells, which is over.
pub(super) fn append(record: &Record, form: Form, clock: &mut Clock, to: &mut Vec<u8>) {
    let at = record.began_at + record.took;
    let mut line = Line::begin(to, form, clock, at, ACCESS, "request complete");
    let duration = u64::try_from(record.took.as_millis()).unwrap_or(u64::MAX);
    line.text(log_field!("method"), record.texts.get(Word::Method));
    line.text(log_field!("path"), record.texts.get(Word::Path));
    line.text(log_field!("protocol"), record.protocol);
    line.text(log_field!("authority"), record.texts.get(Word::Authority));
    line.number(log_field!("response_code"), record.status.into());
    line.text(log_field!("response_flags"), record.flags);
    line.text(log_field!("response_code_details"), &record.details);
    if let Some(status) = record.grpc_status {
        line.quoted(log_field!("grpc_status"), status.0);
    }
    line.text(log_field!("upstream_transport_failure_reason"), &record.failure);
    line.number(log_field!("bytes_received"), record.received);
    line.number(log_field!("bytes_sent"), record.sent);
    line.number(log_field!("duration"), duration);
    line.number(log_field!("attempts"), record.attempts.into());
    line.text(log_field!("x_forwarded_for"), record.texts.get(Word::ForwardedFor));
    line.text(log_field!("user_agent"), record.texts.get(Word::UserAgent));
    line.text(log_field!("request_id"), record.texts.get(Word::RequestId));
    if let Some(upstream) = record.upstream {
        line.quoted(log_field!("upstream_host"), upstream);
    }
    line.text(log_field!("upstream_cluster"), record.service.as_ref().map_or("", |service| &service.key.hostname));
    line.text(log_field!("upstream_workload"), record.destination.as_ref().map_or("", |workload| &workload.name));
    line.shown(log_field!("downstream_local_address"), record.asked);
    line.shown(log_field!("downstream_remote_address"), record.client.address);
    line.shown(log_field!("downstream_identity"), record.client.identity.uri());
    line.text(log_field!("downstream_workload"), record.client.workload.as_ref().map_or("", |workload| &workload.name));
    line.text(log_field!("route_name"), record.route.as_deref().unwrap_or_default());
    line.end();
}

#[cfg(test)]
mod tests;

//! Istio's standard labels.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use mesh_core::workload::Workload;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};

use super::record::Record;
use super::rules::Change;

/// The labels of one series, in the order in which they are told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Labels(Arc<[(Cow<'static, str>, Arc<str>)]>);

impl Labels {
    pub(super) fn of(record: &Record) -> Self {
        let unknown: Arc<str> = "unknown".into();
        let known = |text: &Arc<str>| if text.is_empty() { unknown.clone() } else { text.clone() };
        let (source, to) = (record.client.workload.as_ref(), record.destination.as_ref());
        let of = |workload: Option<&Arc<Workload>>, field: fn(&Workload) -> &Arc<str>| {
            workload.map_or_else(|| unknown.clone(), |workload| known(field(workload)))
        };
        let service = record.service.as_ref();
        let principal = to.map_or_else(|| unknown.clone(), |to| to.identity.uri().into());
        let protocol = match (record.protocol, record.is_grpc) {
            ("-", _) => "tcp",
            (_, true) => "grpc",
            (_, false) => "http",
        };
        let labels: [(&'static str, Arc<str>); 25] = [
            ("reporter", "waypoint".into()),
            ("source_workload", of(source, |w| &w.workload_name)),
            ("source_canonical_service", of(source, |w| &w.canonical_name)),
            ("source_canonical_revision", of(source, |w| &w.canonical_revision)),
            ("source_workload_namespace", of(source, |w| &w.namespace)),
            ("source_principal", record.client.identity.uri().into()),
            ("source_app", of(source, |w| &w.canonical_name)),
            ("source_version", of(source, |w| &w.canonical_revision)),
            ("source_cluster", of(source, |w| &w.cluster)),
            ("destination_service", service.map_or_else(|| unknown.clone(), |s| known(&s.key.hostname))),
            ("destination_service_namespace", service.map_or_else(|| unknown.clone(), |s| known(&s.key.namespace))),
            ("destination_service_name", service.map_or_else(|| unknown.clone(), |s| known(&s.name))),
            ("destination_workload", of(to, |w| &w.workload_name)),
            ("destination_canonical_service", of(to, |w| &w.canonical_name)),
            ("destination_canonical_revision", of(to, |w| &w.canonical_revision)),
            ("destination_workload_namespace", of(to, |w| &w.namespace)),
            ("destination_principal", principal),
            ("destination_app", of(to, |w| &w.canonical_name)),
            ("destination_version", of(to, |w| &w.canonical_revision)),
            ("destination_cluster", of(to, |w| &w.cluster)),
            ("request_protocol", protocol.into()),
            ("response_code", record.status.to_string().into()),
            ("grpc_response_status", record.grpc_status.map(|s| s.0.to_string()).unwrap_or_default().into()),
            ("response_flags", record.flags.into()),
            ("connection_security_policy", "mutual_tls".into()),
        ];
        Self(labels.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)).collect())
    }
}

impl Labels {
    /// With labels that have other values, are left out, or come last.
    pub(super) fn changed(&self, change: &Change, values: &[Arc<str>]) -> Self {
        let mut labels: Vec<_> = self.0.to_vec();
        for (label, at) in &change.labels {
            let Some(at) = at else {
                labels.retain(|(name, _)| **name != **label);
                continue;
            };
            let value = values[*at].clone();
            match labels.iter_mut().find(|(name, _)| **name == **label) {
                Some((_, own)) => *own = value,
                None => labels.push((Cow::Owned(label.to_string()), value)),
            }
        }
        Self(labels.into())
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        (&*self.0).encode(encoder)
    }
}

//! What is said of objects in their status: whether they are in force, and if not, why.
//!
//! ```text
//! index (findings, bindings, how objects stand) + outcomes of waypoints ──> status as it should be ──> what differs, slowly
//! ```
//! The first arrow is pure. The leader alone writes, only where something differs, and a bounded number in a second.

mod writer;
mod gateways;
mod routes;
mod services;
mod policies;
mod distributed;

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::distribution::Told;
use crate::index::Index;
use crate::instances::Outcomes;
use crate::object::{Kind, ObjectKey, Standing};
use crate::source::Finding;

pub(crate) use writer::{Writer, Writes};

/// What of an object's status is to be written.
#[derive(Clone, Debug, PartialEq)]
struct Write {
    key: ObjectKey,
    api_version: Arc<str>,
    /// Of the object that this follows from.
    version: Arc<str>,
    /// Fields of `status`, each whole.
    status: Map<String, Value>,
}

/// What all statuses follow from.
struct Sight<'a> {
    index: &'a Index,
    findings: HashMap<ObjectKey, Vec<Finding>>,
    outcomes: &'a Outcomes,
    told: &'a Told,
    /// RFC 3339 in UTC.
    now: &'a str,
}

/// All that differs from how it should be: Gateways first, for which somebody waits.
fn writes(index: &Index, outcomes: &Outcomes, told: &Told, now: &str) -> Vec<Write> {
    let mut findings: HashMap<ObjectKey, Vec<Finding>> = HashMap::new();
    for finding in index.findings() {
        if let Some(object) = &finding.object {
            findings.entry(object.clone()).or_default().push(finding);
        }
    }
    let sight = Sight { index, findings, outcomes, told, now };
    let differing = index.standings().filter_map(|(key, standing)| {
        let status = sight.status(key, standing);
        let status: Map<String, Value> =
            status.into_iter().filter(|(field, value)| differs(standing, field, value)).collect();
        let (api_version, version) = (standing.api_version.clone(), standing.version.clone());
        (!status.is_empty()).then(|| Write { key: key.clone(), api_version, version, status })
    });
    let mut writes: Vec<Write> = differing.collect();
    writes.sort_by_key(|write| write.key.kind != Kind::Gateway);
    writes
}

/// An empty list says what a list that is not there says.
fn differs(standing: &Standing, field: &str, value: &Value) -> bool {
    match standing.status.get(field) {
        Some(before) => before != value,
        None => value.as_array().is_none_or(|list| !list.is_empty()),
    }
}

impl Sight<'_> {
    /// Fields of the status that are ours to say, as they should be.
    fn status(&self, key: &ObjectKey, standing: &Standing) -> Map<String, Value> {
        match key.kind {
            Kind::Gateway => self.gateway(key, standing),
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute => self.route(key, standing),
            Kind::Service => self.service(key, standing),
            _ => self.policy(key, standing),
        }
    }

    fn findings(&self, key: &ObjectKey) -> &[Finding] {
        self.findings.get(key).map(Vec::as_slice).unwrap_or_default()
    }
}

/// What findings say, each with its field, as one text.
fn words<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> String {
    let one = |finding: &Finding| match &finding.field {
        Some(field) => format!("{field}: {}", finding.message),
        None => finding.message.clone(),
    };
    findings.into_iter().map(one).collect::<Vec<_>>().join("; ")
}

/// One field of a status.
fn field(name: &str, value: Vec<Value>) -> Map<String, Value> {
    Map::from_iter([(name.to_owned(), Value::Array(value))])
}

#[cfg(test)]
mod tests;

//! Findings about one object, as they are made.

use crate::finding::{Code, Finding, ObjectRef};
use crate::node::Node;

#[derive(Debug)]
pub(crate) struct Report {
    object: ObjectRef,
    findings: Vec<Finding>,
}

impl Report {
    pub(crate) fn new(object: ObjectRef) -> Self {
        Self { object, findings: Vec::new() }
    }

    pub(crate) fn add(&mut self, code: Code, at: &Node, message: impl Into<String>) {
        self.add_at(code, at.path.clone(), message);
    }

    pub(crate) fn add_at(&mut self, code: Code, path: impl Into<String>, message: impl Into<String>) {
        self.findings.push(Finding::new(code, self.object.clone(), path.into(), message.into()));
    }

    /// Errors first, in the order of the object's text within a severity.
    pub(crate) fn finish(mut self) -> Vec<Finding> {
        self.findings.sort_by_key(|finding| finding.severity);
        self.findings
    }
}

//! An agent of a mesh, and what it wrote.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::program::Program;
use crate::wait::{PATIENCE, until};

/// A node's agent.
#[derive(Debug)]
pub struct Agent {
    pub program: Program,
    pub node: String,
    pub(super) run_dir: PathBuf,
}

impl Agent {
    /// Where it keeps its files.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Lines of its access log, each behind the node's name, of connections that did not end well: for a message.
    #[must_use]
    pub fn ended_badly(&self) -> String {
        let lines = self.accesses().into_iter().filter(|line| !line.to_string().contains("\"complete\""));
        lines.take(20).map(|line| format!("{}: {line}\n", self.node)).collect()
    }

    /// Lines of its access log, oldest first.
    #[must_use]
    pub fn accesses(&self) -> Vec<Value> {
        self.lines("access")
    }

    /// Lines of its log that are for `target`, oldest first.
    #[must_use]
    pub fn lines(&self, target: &str) -> Vec<Value> {
        self.program
            .log()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| line["target"] == target)
            .collect()
    }

    /// Waits for a line of the access log in which every one of `facts` stands as it is, and yields it.
    ///
    /// # Errors
    /// When there is none; with those there are.
    pub fn until_access(&self, facts: &[&str]) -> Result<Value> {
        self.until_line("access", facts)
    }

    /// As [`until_access`](Agent::until_access), for the audit log.
    ///
    /// # Errors
    /// When there is none; with those there are.
    pub fn until_audit(&self, facts: &[&str]) -> Result<Value> {
        self.until_line("audit", facts)
    }

    fn until_line(&self, target: &str, facts: &[&str]) -> Result<Value> {
        let waited = until(&format!("a line of {target} with {facts:?} at node {}", self.node), PATIENCE, || {
            self.lines(target).into_iter().find(|line| {
                let text = line.to_string();
                facts.iter().all(|fact| text.contains(fact))
            })
        });
        waited.with_context(|| format!("there are {:#?}", self.lines(target)))
    }
}

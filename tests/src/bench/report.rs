//! How every benchmark ends: the floors that do not hold, and all figures as a document.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::machine::Machine;

/// `--only`: a part of a name. Without it everything is measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Only(String);

impl From<String> for Only {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Only {
    /// Whether the part of that name is to be measured.
    pub(super) fn wants(&self, part: &str) -> bool {
        part.contains(&self.0)
    }
}

/// Prints floors that do not hold. If there is a `file`, writes what the figures hold for into it, and `own`, which is an object
/// with the benchmark's figures.
///
/// # Errors
/// The file cannot be written.
pub(super) fn conclude(machine: &Machine, missed: &[String], own: Value, file: Option<&Path>) -> Result<()> {
    for floor in missed {
        println!("MISSED  {floor}");
    }
    let Some(file) = file else { return Ok(()) };
    let mut document = json!({
        "kernel": machine.kernel, "cpu": machine.cpu, "cores": machine.cores, "congestion_control": machine.congestion_control, "load_before": machine.load,
        "command": std::env::args().skip(1).collect::<Vec<_>>(), "missed": missed,
    });
    for (name, value) in own.as_object().into_iter().flatten() {
        document[name] = value.clone();
    }
    fs::write(file, format!("{document:#}\n")).with_context(|| format!("write {}", file.display()))
}

//! Where objects come from: a source is whatever sends batches of [`Event`] over a channel.
//!
//! There is no trait. The folder source is one producer, a Kubernetes client is another, a test pushes by hand; the index
//! takes `Vec<Event>` and cannot tell them apart.

pub mod kube;
pub mod dir;
mod folder;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::object::{Object, ObjectKey, Standing};
use crate::yaml;
use folder::{Content, Folder};

/// One step of a source. A batch (`Vec<Event>`) is to be applied as a whole before anything is published.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // nearly all are Apply
pub enum Event {
    /// The object is there, new or changed.
    Apply(Object),
    /// It is not there, and nothing is to be said of it.
    Delete(ObjectKey),
    /// What is said of the object in its status, also of one that is refused. Sources without a status send none.
    Standing(ObjectKey, Standing),
    /// Everything that the source found at its start has been sent.
    InitialSynced,
    /// All that the source finds wrong at present; replaces what it reported before.
    Findings(Arc<[Finding]>),
}

/// Something that a person should look at: what, where, and what holds meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub code: Code,
    pub object: Option<ObjectKey>,
    pub file: Option<PathBuf>,
    /// From 1.
    pub line: Option<u32>,
    /// Path within the object, as in `spec.rules[0].from`.
    pub field: Option<String>,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Not in force as written.
    Error,
    /// In force, but hardly as meant.
    Warning,
    Info,
}

/// A closed set, so that it can be a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The source, or a part of it, cannot be read.
    Unreadable,
    /// The file is no YAML; its last good content stays in force.
    Syntax,
    /// The object is wrong; its last good version, if any, stays in force.
    Refused,
    /// The same object stands in two files.
    Duplicate,
    /// A kind that Weft does not read, or a reference to one.
    Skipped,
    /// A rule uses what L4 cannot know; what is enforced is stricter.
    FailsClosed,
    /// The object is read but this part of it has no effect.
    NoEffect,
    /// Two objects claim the same name or hostname.
    Conflict,
    /// It names something that is not there.
    Unresolved,
    /// It names something in another namespace that no ReferenceGrant lets it name.
    NotGranted,
}

impl Code {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Syntax => "syntax",
            Self::Refused => "refused",
            Self::Duplicate => "duplicate",
            Self::Skipped => "skipped",
            Self::FailsClosed => "fails_closed",
            Self::NoEffect => "no_effect",
            Self::Conflict => "conflict",
            Self::Unresolved => "unresolved",
            Self::NotGranted => "not_granted",
        }
    }
}

/// Reads one manifest (YAML or JSON, any number of documents) on its own; findings name it `path`.
pub fn manifest(path: impl Into<PathBuf>, text: &str) -> Vec<Event> {
    Folder::new(yaml::Limits::default()).update(&[(path.into(), Content::Bytes(text.as_bytes().to_vec()))])
}

/// `error refused: a/b.yaml:12: Pod shop/web: spec.nodeName: message`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        };
        write!(f, "{severity} {}: ", self.code.as_str())?;
        if let Some(file) = &self.file {
            write!(f, "{}", file.display())?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
            f.write_str(": ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)
    }
}

//! How a text is compared.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Regular expressions are RE2's and hold for the whole text, never for a part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextMatch {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    Regex(Arc<str>),
    /// There at all; for policies: there and not empty.
    Present,
}

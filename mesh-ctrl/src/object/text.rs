//! The `StringMatch` of Istio's kinds, and texts with a wildcard.

use std::sync::Arc;

use mesh_core::l7::text::TextMatch;
use serde::Deserialize;

/// One of exact, prefix and regex; none of them: there at all.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Raw")]
pub struct Text(pub TextMatch);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    exact: Option<Arc<str>>,
    prefix: Option<Arc<str>>,
    regex: Option<Arc<str>>,
}

impl From<Raw> for Text {
    fn from(raw: Raw) -> Self {
        let exact = raw.exact.map(TextMatch::Exact);
        let found = exact.or(raw.prefix.map(TextMatch::Prefix)).or(raw.regex.map(TextMatch::Regex));
        Self(found.unwrap_or(TextMatch::Present))
    }
}

/// What `*` alone, at the end or at the beginning stands for, as policies and lists of headers have it.
pub fn wildcard(value: &Arc<str>) -> TextMatch {
    match (value.strip_prefix('*'), value.strip_suffix('*')) {
        (Some(""), _) => TextMatch::Present,
        (Some(suffix), _) => TextMatch::Suffix(suffix.into()),
        (None, Some(prefix)) => TextMatch::Prefix(prefix.into()),
        (None, None) => TextMatch::Exact(value.clone()),
    }
}

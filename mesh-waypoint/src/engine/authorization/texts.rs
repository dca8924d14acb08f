//! Sets of patterns for one text.

use std::collections::HashSet;
use std::sync::Arc;

use mesh_core::l7::text::TextMatch;

use super::Unreadable;
use crate::engine::pattern::Pattern;

/// Any of these holds; none of them for a value that is missing or empty, as in [`mesh_core::policy`].
#[derive(Clone, Debug, Default)]
pub(super) struct Texts {
    exact: Exact,
    others: Vec<Other>,
}

/// A policy that names a thousand principals costs one look, one that names two costs no hash.
#[derive(Clone, Debug)]
enum Exact {
    Few(Vec<Arc<str>>),
    Many(HashSet<Box<[u8]>>),
}

impl Default for Exact {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

#[derive(Clone, Debug)]
enum Other {
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    Pattern(Pattern),
    Present,
}

const FEW: usize = 8;

impl Texts {
    /// # Errors
    /// A regular expression that is none.
    pub(super) fn compile(values: &[TextMatch]) -> Result<Self, Unreadable> {
        let (mut exact, mut others) = (Vec::new(), Vec::new());
        for value in values {
            match value {
                TextMatch::Exact(text) => exact.push(text.clone()),
                TextMatch::Prefix(text) => others.push(Other::Prefix(text.clone())),
                TextMatch::Suffix(text) => others.push(Other::Suffix(text.clone())),
                TextMatch::Present => others.push(Other::Present),
                TextMatch::Regex(_) => others.push(Other::Pattern(Pattern::new(value).map_err(|_| Unreadable)?)),
            }
        }
        let exact = match exact.len() <= FEW {
            true => Exact::Few(exact),
            false => Exact::Many(exact.iter().map(|text| text.as_bytes().into()).collect()),
        };
        Ok(Self { exact, others })
    }

    /// For values that [`Self::hold`] is given in lower case.
    pub(super) fn compile_lower_case(values: &[TextMatch]) -> Result<Self, Unreadable> {
        let lower = |text: &Arc<str>| text.to_ascii_lowercase().into();
        let values: Vec<_> = values
            .iter()
            .map(|value| match value {
                TextMatch::Exact(text) => TextMatch::Exact(lower(text)),
                TextMatch::Prefix(text) => TextMatch::Prefix(lower(text)),
                TextMatch::Suffix(text) => TextMatch::Suffix(lower(text)),
                TextMatch::Regex(_) | TextMatch::Present => value.clone(),
            })
            .collect();
        Self::compile(&values)
    }

    pub(super) fn hold(&self, value: &[u8]) -> bool {
        if value.is_empty() {
            return false;
        }
        let exact = match &self.exact {
            Exact::Few(texts) => texts.iter().any(|text| text.as_bytes() == value),
            Exact::Many(texts) => texts.contains(value),
        };
        exact
            || self.others.iter().any(|other| match other {
                Other::Prefix(text) => value.starts_with(text.as_bytes()),
                Other::Suffix(text) => value.ends_with(text.as_bytes()),
                Other::Pattern(pattern) => pattern.holds(value),
                Other::Present => true,
            })
    }
}

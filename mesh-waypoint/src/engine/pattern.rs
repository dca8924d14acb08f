//! Texts to compare with ([`TextMatch`]), compiled.

mod re2;

use std::sync::Arc;

use mesh_core::l7::text::TextMatch;
use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

pub use re2::translated;

#[derive(Clone, Debug)]
pub enum Pattern {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    Regex(Regex),
    Present,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is no regular expression: {why}")]
pub struct BadRegex {
    pub pattern: Arc<str>,
    pub why: String,
}

impl Pattern {
    pub fn new(text: &TextMatch) -> Result<Self, BadRegex> {
        Ok(match text {
            TextMatch::Exact(text) => Self::Exact(text.clone()),
            TextMatch::Prefix(text) => Self::Prefix(text.clone()),
            TextMatch::Suffix(text) => Self::Suffix(text.clone()),
            TextMatch::Regex(pattern) => Self::Regex(whole(pattern)?),
            TextMatch::Present => Self::Present,
        })
    }

    pub fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => value == text.as_bytes(),
            Self::Prefix(text) => value.starts_with(text.as_bytes()),
            Self::Suffix(text) => value.ends_with(text.as_bytes()),
            Self::Regex(regex) => regex.is_match(value),
            Self::Present => true,
        }
    }
}

/// An expression of RE2's that holds for a whole value or not at all.
pub fn whole(pattern: &Arc<str>) -> Result<Regex, BadRegex> {
    compiled(pattern, &anchored(pattern))
}

/// An expression of RE2's that is looked for within a value.
pub fn anywhere(pattern: &Arc<str>) -> Result<Regex, BadRegex> {
    compiled(pattern, &translated(pattern))
}

/// All expressions in one automaton; `None` when that would be too large, or one of them is bad.
pub fn whole_set(patterns: &[Arc<str>]) -> Option<RegexSet> {
    RegexSetBuilder::new(patterns.iter().map(|pattern| anchored(pattern))).size_limit(SIZE_LIMIT).build().ok()
}

fn compiled(pattern: &Arc<str>, translated: &str) -> Result<Regex, BadRegex> {
    let bad = |error: regex::Error| BadRegex { pattern: pattern.clone(), why: error.to_string() };
    // On its own first: `a)|(b` is one within a group.
    regex::bytes::Regex::new(&re2::translated(pattern)).map_err(bad)?;
    RegexBuilder::new(translated).size_limit(SIZE_LIMIT).build().map_err(bad)
}

fn anchored(pattern: &str) -> String {
    format!(r"\A(?:{})\z", translated(pattern))
}

/// Bytes of a compiled program: many times what a hand-written expression needs, and no more than a node can bear.
const SIZE_LIMIT: usize = 10 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: TextMatch, holds: &[&str], fails: &[&str]) {
        let pattern = Pattern::new(&text).unwrap();
        for value in holds {
            assert!(pattern.holds(value.as_bytes()), "{text:?} is for {value:?}");
        }
        for value in fails {
            assert!(!pattern.holds(value.as_bytes()), "{text:?} is not for {value:?}");
        }
    }

    #[test]
    fn a_text_is_whole_a_prefix_or_a_suffix() {
        check(TextMatch::Exact("a".into()), &["a"], &["", "A", "ab"]);
        check(TextMatch::Exact("".into()), &[""], &["a"]);
        check(TextMatch::Prefix("ab".into()), &["ab", "abc"], &["a", "cab"]);
        check(TextMatch::Suffix("ab".into()), &["ab", "cab"], &["b", "abc"]);
        check(TextMatch::Present, &["", "x"], &[]);
    }

    #[test]
    fn a_regular_expression_holds_for_the_whole_value() {
        check(TextMatch::Regex("a|bc".into()), &["a", "bc"], &["ac", "abc", "b", "xa"]);
        check(TextMatch::Regex("/v[0-9]+/.*".into()), &["/v1/", "/v22/x/y"], &["/v1", "/v/x", "//v1/x"]);
        check(TextMatch::Regex("".into()), &[""], &["a"]);
        check(TextMatch::Regex("a$".into()), &["a"], &["a\n"]);
    }

    #[test]
    fn a_bad_expression_says_so() {
        for bad in ["(", "a)|(b", "a{2,1}", r"\8", "(?<!a)b", "[b-a]"] {
            assert!(whole(&bad.into()).is_err(), "{bad}");
            assert!(anywhere(&bad.into()).is_err(), "{bad}");
        }
    }
}

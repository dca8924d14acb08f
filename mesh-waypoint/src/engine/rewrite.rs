//! What the backend is asked for in place of what the client asked for.
//!
//! The odd results are the reference's: a prefix is of bytes, and what stands in its place is not joined with care.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderValue;
use mesh_core::l7::route::{self, PathRewrite};
use regex::bytes::Regex;

use super::matcher::Taken;
use super::pattern::{BadRegex, anywhere};

#[derive(Clone, Debug, Default)]
pub struct Rewrite {
    pub path: Option<NewPath>,
    pub authority: Option<HeaderValue>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRewrite {
    #[error(transparent)]
    Regex(#[from] BadRegex),
    #[error("{0:?} asks for a group that the expression does not have")]
    Group(Arc<str>),
    #[error("{0:?} is no host")]
    Authority(Arc<str>),
}

impl Rewrite {
    pub fn new(rewrite: &route::Rewrite) -> Result<Self, BadRewrite> {
        let authority = |host: &Arc<str>| HeaderValue::from_str(host).map_err(|_| BadRewrite::Authority(host.clone()));
        Ok(Self {
            path: rewrite.path.as_ref().map(NewPath::new).transpose()?,
            authority: rewrite.authority.as_ref().map(authority).transpose()?,
        })
    }
}

/// [`PathRewrite`], compiled.
#[derive(Clone, Debug)]
pub enum NewPath {
    Prefix(Arc<str>),
    Elements(Arc<str>),
    Full(Arc<str>),
    Regex { pattern: Regex, pieces: Vec<Piece> },
}

/// Of a substitution.
#[derive(Clone, Debug)]
pub enum Piece {
    Text(Box<[u8]>),
    Group(usize),
}

impl NewPath {
    pub fn new(path: &PathRewrite) -> Result<Self, BadRewrite> {
        Ok(match path {
            PathRewrite::Prefix(prefix) => Self::Prefix(prefix.clone()),
            PathRewrite::Elements(prefix) => Self::Elements(prefix.clone()),
            PathRewrite::Full(path) => Self::Full(path.clone()),
            PathRewrite::Regex { pattern, substitution } => {
                let pattern = anywhere(pattern)?;
                let bad = || BadRewrite::Group(substitution.clone());
                let pieces = pieces(substitution, pattern.captures_len()).ok_or_else(bad)?;
                Self::Regex { pattern, pieces }
            }
        })
    }

    /// In place of a path of which the entry's match has taken so much.
    pub fn of(&self, path: &str, taken: Taken) -> String {
        match self {
            // Gateway API's prefix `/` takes elements away, but only where a rewrite says so.
            Self::Elements(prefix) if is_root(prefix) => {
                let rest = rest(path, taken);
                format!("/{}", rest.strip_prefix('/').unwrap_or(rest))
            }
            Self::Elements(prefix) => format!("{}{}", prefix.strip_suffix('/').unwrap_or(prefix), rest(path, taken)),
            _ => self.of_bytes(path, taken),
        }
    }

    /// As [`Self::of`], but elements are bytes: as a redirect has it.
    pub fn of_bytes(&self, path: &str, taken: Taken) -> String {
        match self {
            Self::Prefix(prefix) | Self::Elements(prefix) => format!("{prefix}{}", rest(path, taken)),
            Self::Full(path) => path.as_ref().to_owned(),
            Self::Regex { pattern, pieces } => {
                let replaced = pattern.replace_all(path.as_bytes(), Substitution(pieces));
                String::from_utf8_lossy(&replaced).into_owned()
            }
        }
    }

    /// The query that a redirect to this has in place of the request's.
    pub fn has_query(&self) -> bool {
        matches!(self, Self::Full(path) if path.contains('?'))
    }
}

fn is_root(prefix: &str) -> bool {
    prefix.is_empty() || prefix == "/"
}

/// What of the path is not taken; without a prefix that took something, the whole path or its first `/`.
fn rest(path: &str, taken: Taken) -> &str {
    let length = match taken {
        Taken::Prefix(length) | Taken::Elements(length) => length,
        Taken::Whole => path.len(),
        Taken::Nothing => 1,
    };
    path.get(length..).unwrap_or_default()
}

/// `\0` to `\9` are groups and `\\` is a `\`; `None` when there is no such group.
fn pieces(substitution: &str, groups: usize) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut text = Vec::new();
    let mut bytes = substitution.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            text.push(byte);
            continue;
        }
        match bytes.next()? {
            b'\\' => text.push(b'\\'),
            digit if digit.is_ascii_digit() && usize::from(digit - b'0') < groups => {
                pieces.push(Piece::Text(std::mem::take(&mut text).into()));
                pieces.push(Piece::Group(usize::from(digit - b'0')));
            }
            _ => return None,
        }
    }
    pieces.push(Piece::Text(text.into()));
    Some(pieces)
}

struct Substitution<'a>(&'a [Piece]);

impl regex::bytes::Replacer for Substitution<'_> {
    fn replace_append(&mut self, found: &regex::bytes::Captures<'_>, out: &mut Vec<u8>) {
        for piece in self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Group(group) => out.extend_from_slice(found.get(*group).map_or(b"", |group| group.as_bytes())),
            }
        }
    }

    fn no_expansion(&mut self) -> Option<Cow<'_, [u8]>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    fn check(rewrite: PathRewrite, path: &str, taken: Taken, expected: Expect) {
        expected.assert_eq(&NewPath::new(&rewrite).unwrap().of(path, taken));
    }

    fn regex(pattern: &str, substitution: &str) -> PathRewrite {
        PathRewrite::Regex { pattern: pattern.into(), substitution: substitution.into() }
    }

    #[test]
    fn a_prefix_is_replaced_byte_by_byte() {
        check(PathRewrite::Prefix("/".into()), "/v1/a", Taken::Prefix(3), expect!["//a"]);
        check(PathRewrite::Prefix("/".into()), "/v1foo", Taken::Prefix(3), expect!["/foo"]);
        check(PathRewrite::Prefix("/four".into()), "/v4/a", Taken::Prefix(4), expect!["/foura"]);
    }

    #[test]
    fn without_a_prefix_the_whole_path_or_its_slash_is_replaced() {
        check(PathRewrite::Prefix("/new".into()), "/old/x", Taken::Whole, expect!["/new"]);
        check(PathRewrite::Prefix("/rest".into()), "/p/q", Taken::Nothing, expect!["/restp/q"]);
        check(PathRewrite::Full("/new".into()), "/old/x", Taken::Prefix(1), expect!["/new"]);
    }

    #[test]
    fn elements_are_taken_away_whole() {
        check(PathRewrite::Elements("/".into()), "/v1/a", Taken::Elements(3), expect!["/a"]);
        check(PathRewrite::Elements("/".into()), "/v1", Taken::Elements(3), expect!["/"]);
        check(PathRewrite::Elements("/root".into()), "/zzz", Taken::Elements(1), expect!["/rootzzz"]);
        check(PathRewrite::Elements("/v2/".into()), "/v1/a", Taken::Elements(3), expect!["/v2/a"]);
    }

    #[test]
    fn a_regex_replaces_every_occurrence() {
        check(regex("[0-9]+", "N"), "/a1/b22", Taken::Whole, expect!["/aN/bN"]);
        check(regex("/([^/]+)/x", r"/x/\1"), "/a/x/b/x", Taken::Nothing, expect!["/x/a/x/b"]);
        check(regex("z", "y"), "/a", Taken::Nothing, expect!["/a"]);
        check(regex("a(b)?", r"<\1\\\0>"), "/aab", Taken::Nothing, expect![r"/<\a><b\ab>"]);
        check(regex(r"^/api(/|$)", r"/$1"), "/api/x", Taken::Nothing, expect!["/$1x"]);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let bad = |rewrite| NewPath::new(&rewrite).unwrap_err().to_string();
        assert!(bad(regex("(", "")).contains("no regular expression"));
        assert!(bad(regex("(a)", r"\2")).contains("does not have"));
        assert!(bad(regex("a", r"\")).contains("does not have"));
        let rewrite = route::Rewrite { path: None, authority: Some("a\nb".into()) };
        assert!(Rewrite::new(&rewrite).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_rewrites_never_panic(
            pattern in "[a-c()|*ü]{0,8}",
            substitution in "[a\\\\0-3]{0,8}",
            path: String,
            taken in prop_oneof![
                Just(Taken::Nothing), Just(Taken::Whole), (0..20usize).prop_map(Taken::Prefix), (0..20usize).prop_map(Taken::Elements)
            ],
        ) {
            for rewrite in [
                regex(&pattern, &substitution),
                PathRewrite::Prefix(substitution.as_str().into()),
                PathRewrite::Elements(substitution.as_str().into()),
            ] {
                if let Ok(new) = NewPath::new(&rewrite) {
                    new.of(&path, taken);
                    new.of_bytes(&path, taken);
                }
            }
        }
    }
}

//! What one entry asks for, compiled.

use std::sync::Arc;

use mesh_core::l7::route::{Entry, PathKind, PathMatch, SourceMatch};
use mesh_core::l7::text::TextMatch;
use regex::bytes::Regex;

use super::{BadEntry, Taken};
use crate::engine::head::{Client, Field, Fields, Head};
use crate::engine::pattern::{BadRegex, Pattern, whole};

#[derive(Clone, Debug)]
pub(super) struct Condition {
    rule: usize,
    path: Path,
    method: Option<Pattern>,
    scheme: Option<Pattern>,
    authority: Option<Pattern>,
    headers: Vec<HeaderCondition>,
    query: Vec<(Arc<str>, Pattern)>,
    source: Option<SourceMatch>,
}

#[derive(Clone, Debug)]
enum Path {
    Any,
    Text { kind: PathKind, value: Arc<str>, ignore_case: bool },
    Regex(Regex),
}

#[derive(Clone, Debug)]
struct HeaderCondition {
    field: Field,
    value: Pattern,
    inverted: bool,
}

pub(super) enum Bad {
    Regex(BadRegex),
    Header(Arc<str>),
}

impl From<BadRegex> for Bad {
    fn from(bad: BadRegex) -> Self {
        Self::Regex(bad)
    }
}

impl Bad {
    pub(super) fn of(self, entry: usize, rule: &Arc<str>) -> BadEntry {
        let rule = rule.clone();
        match self {
            Self::Regex(source) => BadEntry::Regex { entry, rule, source },
            Self::Header(name) => BadEntry::Header { entry, rule, name },
        }
    }
}

impl Condition {
    pub(super) fn new(entry: &Entry) -> Result<Self, Bad> {
        let matches = &entry.matches;
        let pattern = |text: &Option<TextMatch>| text.as_ref().map(Pattern::new).transpose();
        let path = match &matches.path {
            None => Path::Any,
            Some(PathMatch { kind: PathKind::Regex, value, .. }) => Path::Regex(whole(value)?),
            Some(PathMatch { kind, value, ignore_case }) => Path::Text {
                kind: *kind,
                value: if *kind == PathKind::Elements { elements(value).into() } else { value.clone() },
                ignore_case: *ignore_case,
            },
        };
        let mut headers = Vec::with_capacity(matches.headers.len());
        for header in &matches.headers {
            let field = Field::new(&header.name).ok_or_else(|| Bad::Header(header.name.clone()))?;
            headers.push(HeaderCondition { field, value: Pattern::new(&header.value)?, inverted: header.inverted });
        }
        let query = matches.query.iter().map(|query| Ok((query.name.clone(), Pattern::new(&query.value)?)));
        Ok(Self {
            rule: entry.rule,
            path,
            method: pattern(&matches.method)?,
            scheme: pattern(&matches.scheme)?,
            authority: pattern(&matches.authority)?,
            headers,
            query: query.collect::<Result<_, BadRegex>>()?,
            source: matches.source.clone(),
        })
    }

    pub(super) fn rule(&self) -> usize {
        self.rule
    }

    /// Once it holds.
    pub(super) fn taken(&self) -> Taken {
        match &self.path {
            Path::Any => Taken::Nothing,
            Path::Text { kind: PathKind::Prefix, value, .. } => Taken::Prefix(value.len()),
            // The reference makes a prefix of bytes of `/`, and rewrites by it.
            Path::Text { kind: PathKind::Elements, value, .. } => Taken::Elements(value.len().max(1)),
            Path::Text { .. } | Path::Regex(_) => Taken::Whole,
        }
    }

    pub(super) fn path_holds(&self, path: &str) -> bool {
        let (kind, value, ignore_case) = match &self.path {
            Path::Any => return true,
            Path::Regex(regex) => return regex.is_match(path.as_bytes()),
            Path::Text { kind, value, ignore_case } => (*kind, value.as_bytes(), *ignore_case),
        };
        let Some((start, rest)) = path.as_bytes().split_at_checked(value.len()) else { return false };
        let starts = if ignore_case { start.eq_ignore_ascii_case(value) } else { start == value };
        starts
            && match kind {
                PathKind::Exact => rest.is_empty(),
                PathKind::Elements => is_boundary(rest),
                PathKind::Prefix | PathKind::Regex => true,
            }
    }

    /// All but the path.
    pub(super) fn rest_holds<F: Fields + ?Sized>(&self, head: &Head<'_, F>, client: &Client<'_>) -> bool {
        let holds = |pattern: &Option<Pattern>, value: &str| pattern.as_ref().is_none_or(|p| p.holds(value.as_bytes()));
        holds(&self.method, head.method)
            && holds(&self.scheme, head.scheme)
            && holds(&self.authority, head.authority)
            && self.headers.iter().all(|header| {
                let any = head.field(&header.field).any(|value| header.value.holds(value));
                any != header.inverted
            })
            && self.query.iter().all(|(name, pattern)| {
                let value = head.query.and_then(|query| parameter(query, name));
                value.is_some_and(|value| pattern.holds(value.as_bytes()))
            })
            && self.source.as_ref().is_none_or(|source| is_from(source, client))
    }
}

/// A prefix of elements without the `/` at its end, which does not count; `/` is empty.
pub(super) fn elements(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

/// Whether an element has ended where this begins.
pub(super) fn is_boundary(rest: &[u8]) -> bool {
    matches!(rest.first(), None | Some(b'/'))
}

/// Of the first parameter of that name; `""` when it has no `=`.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (own, value) = pair.split_once('=').unwrap_or((pair, ""));
        (own == name).then_some(value)
    })
}

fn is_from(source: &SourceMatch, client: &Client<'_>) -> bool {
    (source.namespaces.is_empty() || source.namespaces.contains(client.namespace))
        && source.workloads.as_ref().is_none_or(|workloads| client.uid.is_some_and(|uid| workloads.contains(uid)))
}

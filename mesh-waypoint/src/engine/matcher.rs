//! Which entry of a route table a request takes: the first that holds, found without looking at the others.
//!
//! Entries whose path is a text are found by one walk down a radix tree, those whose path is a regular expression by one
//! automaton for all; what else an entry asks for is looked at only while it could still be the first. A short table is read
//! from top to bottom, which is as fast.

mod condition;
mod tree;

use std::sync::Arc;

use mesh_core::l7::route::{Entry, HttpRoutes, PathKind};
use regex::bytes::RegexSet;

use super::head::{Client, Fields, Head};
use super::pattern::{BadRegex, whole_set};
use condition::Condition;
use tree::Tree;

#[derive(Clone, Debug)]
pub struct Matcher {
    conditions: Vec<Condition>,
    index: Option<Index>,
}

/// The entry that a request has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    pub entry: usize,
    /// Index into the rules.
    pub rule: usize,
    pub taken: Taken,
}

/// What of the path the entry's path match stands for: a prefix rewrite puts something else there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The entry says nothing of the path.
    Nothing,
    /// So many bytes.
    Prefix(usize),
    Elements(usize),
    Whole,
}

/// What cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    #[error("entry {entry}, rule {rule}: {source}")]
    Regex { entry: usize, rule: Arc<str>, source: BadRegex },
    #[error("entry {entry}, rule {rule}: no header is called {name:?}")]
    Header { entry: usize, rule: Arc<str>, name: Arc<str> },
    #[error("entry {entry} leads to rule {rule}, of {rules}")]
    NoRule { entry: usize, rule: usize, rules: usize },
}

impl Matcher {
    pub fn new(routes: &HttpRoutes) -> Result<Self, BadEntry> {
        let mut conditions = Vec::with_capacity(routes.entries.len());
        for (at, entry) in routes.entries.iter().enumerate() {
            let Some(rule) = routes.rules.get(entry.rule) else {
                return Err(BadEntry::NoRule { entry: at, rule: entry.rule, rules: routes.rules.len() });
            };
            conditions.push(Condition::new(entry).map_err(|bad| bad.of(at, &rule.origin))?);
        }
        let index = (conditions.len() > LIST).then(|| Index::new(&routes.entries));
        Ok(Self { conditions, index })
    }

    pub fn first<F: Fields + ?Sized>(&self, head: &Head<'_, F>, client: &Client<'_>) -> Option<Matched> {
        // `OPTIONS *` is about no path, whatever an expression would say of it.
        if !head.path.starts_with('/') {
            return None;
        }
        let entry = match &self.index {
            Some(index) => index.first(&self.conditions, head, client)?,
            None => {
                let holds =
                    |condition: &Condition| condition.path_holds(head.path) && condition.rest_holds(head, client);
                self.conditions.iter().position(holds)?
            }
        };
        let condition = &self.conditions[entry];
        Some(Matched { entry, rule: condition.rule(), taken: condition.taken() })
    }
}

/// Entries by what they say of the path.
#[derive(Clone, Debug)]
struct Index {
    exact_case: Tree,
    /// Those that ignore case; `None` when there are none.
    any_case: Option<Tree>,
    regexes: Vec<u32>,
    /// Over `regexes`, in their order; `None`: there are few, or they are too large together.
    set: Option<RegexSet>,
}

impl Index {
    fn new(entries: &[Entry]) -> Self {
        let (mut exact_case, mut any_case) = (Tree::new(false), None);
        let (mut regexes, mut patterns) = (Vec::new(), Vec::new());
        for (at, entry) in (0u32..).zip(entries) {
            match &entry.matches.path {
                Some(path) if path.kind == PathKind::Regex => {
                    regexes.push(at);
                    patterns.push(path.value.clone());
                }
                Some(path) if path.ignore_case => {
                    any_case.get_or_insert_with(|| Tree::new(true)).insert(path.kind, &path.value, at);
                }
                Some(path) => exact_case.insert(path.kind, &path.value, at),
                None => exact_case.insert(PathKind::Prefix, "/", at),
            }
        }
        let set = (regexes.len() > FEW_REGEXES).then(|| whole_set(&patterns)).flatten();
        Self { exact_case, any_case, regexes, set }
    }

    /// Looks at each place that may hold it, for one that comes before the best so far.
    fn first<F: Fields + ?Sized>(
        &self,
        conditions: &[Condition],
        head: &Head<'_, F>,
        client: &Client<'_>,
    ) -> Option<usize> {
        let rest_holds = |entry: u32| conditions[entry as usize].rest_holds(head, client);
        let mut best = u32::MAX;
        for tree in [Some(&self.exact_case), self.any_case.as_ref()].into_iter().flatten() {
            tree.candidates(head.path.as_bytes(), |entries| {
                let earlier = entries.iter().take_while(|entry| **entry < best);
                best = earlier.copied().find(|entry| rest_holds(*entry)).unwrap_or(best);
            });
        }
        let is_earlier = |entry: &u32| *entry < best;
        let earlier = match &self.set {
            Some(set) if self.regexes.first().is_some_and(is_earlier) => {
                let matches = set.matches(head.path.as_bytes());
                let entries = matches.iter().map(|at| self.regexes[at]);
                entries.take_while(is_earlier).find(|entry| rest_holds(*entry))
            }
            Some(_) => None,
            None => {
                let holds = |entry: &u32| rest_holds(*entry) && conditions[*entry as usize].path_holds(head.path);
                self.regexes.iter().copied().take_while(is_earlier).find(holds)
            }
        };
        if let Some(entry) = earlier {
            best = entry;
        }
        (best != u32::MAX).then_some(best as usize)
    }
}

/// Entries up to which reading them in order is as fast as anything: measured, ten prefixes take as long as a tree of a hundred.
const LIST: usize = 10;

/// One automaton for several expressions allocates its answer; one for each, and only while needed, does not.
const FEW_REGEXES: usize = 4;

#[cfg(test)]
mod tests;

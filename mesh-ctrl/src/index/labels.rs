//! Labels to what carries them, and selectors to what they pick, both ways without a walk over everything.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::object::Labels;

/// Whether everything that `selector` asks for is among `labels`.
pub(super) fn matches(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// One label in one scope: a namespace, or the empty text for the whole cluster.
type Pair = (Arc<str>, Arc<str>, Arc<str>);

fn pair(scope: &Arc<str>, (key, value): (&Arc<str>, &Arc<str>)) -> Pair {
    (scope.clone(), key.clone(), value.clone())
}

/// Things found by a label that they have.
#[derive(Debug)]
pub(super) struct ByLabel<T>(HashMap<Pair, BTreeSet<T>>);

/// Selectors found by the labels of what they may pick. Each stands under its first pair: whatever it picks has that one.
#[derive(Debug)]
pub(super) struct BySelector<T>(HashMap<Pair, BTreeSet<T>>);

impl<T> Default for ByLabel<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Default for BySelector<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Ord + Clone> ByLabel<T> {
    pub(super) fn insert(&mut self, scope: &Arc<str>, labels: &Labels, item: &T) {
        for label in labels {
            self.0.entry(pair(scope, label)).or_default().insert(item.clone());
        }
    }

    pub(super) fn remove(&mut self, scope: &Arc<str>, labels: &Labels, item: &T) {
        for label in labels {
            forget(&mut self.0, &pair(scope, label), item);
        }
    }

    /// What has the rarest of the selector's labels: a superset of what the selector picks, often the same.
    pub(super) fn candidates(&self, scope: &Arc<str>, selector: &Labels) -> impl Iterator<Item = &T> {
        let sets = selector.iter().map(|label| self.0.get(&pair(scope, label)));
        let rarest = sets.min_by_key(|set| set.map_or(0, BTreeSet::len)).flatten();
        rarest.into_iter().flatten()
    }
}

impl<T: Ord + Clone> BySelector<T> {
    /// An empty selector picks nothing here; what it means differs by kind.
    pub(super) fn insert(&mut self, scope: &Arc<str>, selector: &Labels, item: &T) {
        if let Some(first) = selector.first_key_value() {
            self.0.entry(pair(scope, first)).or_default().insert(item.clone());
        }
    }

    pub(super) fn remove(&mut self, scope: &Arc<str>, selector: &Labels, item: &T) {
        if let Some(first) = selector.first_key_value() {
            forget(&mut self.0, &pair(scope, first), item);
        }
    }

    /// Selectors that may pick something with these labels.
    pub(super) fn candidates<'a>(&'a self, scope: &'a Arc<str>, labels: &'a Labels) -> impl Iterator<Item = &'a T> {
        labels.iter().filter_map(move |label| self.0.get(&pair(scope, label))).flatten()
    }
}

/// Takes `item` out of the set at `key`, and the set away with its last item.
pub(super) fn forget<K: std::hash::Hash + Eq, T: Ord>(sets: &mut HashMap<K, BTreeSet<T>>, key: &K, item: &T) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(item);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

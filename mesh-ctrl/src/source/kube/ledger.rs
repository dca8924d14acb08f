//! What the API server has said of one kind, and which events follow from what it says next. No socket and no clock.
//!
//! A list that lacks what was there is believed only if little is missing. If all of it is, or more than half, an API
//! server with an empty or old store is as likely as a deletion: what is missing stays until a second list lacks it too.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::object::{Kind, ObjectKey, Read, Refused, Standing, read};
use crate::source::{Code, Event, Finding, Severity};

/// One step of a watch, with complete objects (`apiVersion` and `kind` included).
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A list begins.
    List,
    Listed(Value),
    /// The list is complete.
    ListEnd,
    Changed(Value),
    Deleted(Value),
}

/// What has to be done after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    GoOn,
    /// The list is not believed yet: ask again in a moment.
    ListAgain,
}

#[derive(Debug)]
pub(super) struct Ledger {
    kind: Kind,
    /// In force, by what was sent.
    held: BTreeSet<ObjectKey>,
    /// In the list that is arriving.
    seen: BTreeSet<ObjectKey>,
    /// Missing from the last list, and not removed.
    doubted: BTreeSet<ObjectKey>,
    /// The list that is arriving has something in it that does not say what it is.
    garbled: bool,
    listed: bool,
    refused: BTreeMap<ObjectKey, Finding>,
}

impl Ledger {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            held: BTreeSet::new(),
            seen: BTreeSet::new(),
            doubted: BTreeSet::new(),
            garbled: false,
            listed: false,
            refused: BTreeMap::new(),
        }
    }

    /// Takes a step; what follows from it is added to `events`.
    pub(super) fn take(&mut self, step: Step, events: &mut Vec<Event>) -> Next {
        match step {
            Step::List => {
                self.seen.clear();
                self.garbled = false;
            }
            Step::Listed(value) => {
                if let Some(key) = self.put(value, events) {
                    self.seen.insert(key);
                }
            }
            Step::ListEnd => return self.conclude(events),
            Step::Changed(value) => {
                if let Some(key) = self.put(value, events) {
                    self.doubted.remove(&key);
                }
            }
            Step::Deleted(value) => {
                let key = match read(value) {
                    Read::Object(object) => Some(object.key()),
                    Read::Refused(refused) => refused.key,
                    Read::Skipped { .. } => None,
                };
                if let Some(key) = key {
                    self.remove(&key, events);
                }
            }
        }
        Next::GoOn
    }

    /// Whether a first list was complete.
    pub(super) fn is_listed(&self) -> bool {
        self.listed
    }

    /// How many objects are kept although the last list lacks them.
    pub(super) fn doubted(&self) -> usize {
        self.doubted.len()
    }

    /// What is wrong with objects at present.
    pub(super) fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.refused.values()
    }

    fn put(&mut self, value: Value, events: &mut Vec<Event>) -> Option<ObjectKey> {
        let standing = Standing::of(self.kind, &value);
        let key = match read(value) {
            Read::Object(object) if object.kind() == self.kind => {
                let key = object.key();
                self.refused.remove(&key);
                self.held.insert(key.clone());
                events.push(Event::Apply(object));
                key
            }
            Read::Refused(Refused { key: Some(key), field, message }) if key.kind == self.kind => {
                // Its last good version stays in force, as a file's does.
                let finding = Finding {
                    severity: Severity::Error,
                    code: Code::Refused,
                    object: Some(key.clone()),
                    file: None,
                    line: None,
                    field: Some(field).filter(|field| !field.is_empty()),
                    message,
                };
                self.refused.insert(key.clone(), finding);
                key
            }
            _ => {
                self.garbled = true;
                return None;
            }
        };
        events.extend(standing.map(|standing| Event::Standing(key.clone(), standing)));
        Some(key)
    }

    fn conclude(&mut self, events: &mut Vec<Event>) -> Next {
        // Of those that were never in force nothing but their standing was told.
        let gone: Vec<ObjectKey> = self.refused.keys().filter(|key| !self.seen.contains(*key)).cloned().collect();
        for key in gone {
            self.refused.remove(&key);
            if !self.held.contains(&key) {
                events.push(Event::Delete(key));
            }
        }
        let missing: BTreeSet<ObjectKey> = self.held.difference(&self.seen).cloned().collect();
        if self.garbled && !missing.is_empty() {
            self.doubted = missing;
            return Next::ListAgain;
        }
        self.listed = true;
        let (confirmed, fresh): (BTreeSet<_>, BTreeSet<_>) =
            missing.into_iter().partition(|key| self.doubted.contains(key));
        let before = self.held.len();
        for key in &confirmed {
            self.remove(key, events);
        }
        self.doubted.clear();
        // Half of what was left without the confirmed ones says nothing new.
        let suspicious = !fresh.is_empty() && (self.seen.is_empty() || fresh.len() * 2 > before);
        if suspicious {
            self.doubted = fresh;
            return Next::ListAgain;
        }
        for key in &fresh {
            self.remove(key, events);
        }
        Next::GoOn
    }

    fn remove(&mut self, key: &ObjectKey, events: &mut Vec<Event>) {
        let was_refused = self.refused.remove(key).is_some();
        self.doubted.remove(key);
        if self.held.remove(key) || was_refused {
            events.push(Event::Delete(key.clone()));
        }
    }
}

#[cfg(test)]
mod tests;

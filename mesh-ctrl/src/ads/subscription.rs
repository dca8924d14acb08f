//! What an agent asks for of one kind, and what it has been told of that. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use mesh_core::wire::discovery::DeltaDiscoveryRequest;
use mesh_net::control::Kind;
use mesh_net::grpc::EVERYTHING;
use thiserror::Error;

use crate::store::part::Part;
use crate::store::{Collection, Image, PART_BYTES, Resource};

/// Removed names in one response; names are at most a few hundred bytes.
const CHUNK_NAMES: usize = 4096;
/// Names that one agent may ask for on demand.
const MAX_ASKED: usize = 100_000;
/// Answers remembered until they are acknowledged.
const MAX_IN_FLIGHT: usize = 1024;
/// Longest text of a refusal that is kept.
const MAX_NACK_CHARS: usize = 1024;

/// Why a stream cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum SessionError {
    #[error("resources of type {0:?} are not served here")]
    Type(String),
    #[error("more than {MAX_ASKED} names asked for")]
    TooManyNames,
    #[error("too far behind to be told what was removed; reconnect with initial_resource_versions")]
    TooFarBehind,
}

/// What one request was, for the log and the debug page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Subscribed { kind: Kind },
    Acknowledged { kind: Kind },
    Refused { kind: Kind, message: String },
}

#[derive(Debug, Default)]
pub(crate) struct Subscription {
    started: bool,
    /// It said a digest that is not known here: it is asked for names and versions.
    unknown: bool,
    pub(crate) wildcard: bool,
    pub(crate) asked: BTreeSet<Arc<str>>,
    /// Services whose endpoints are told because the service was asked for, by name or by address.
    following: HashSet<Arc<str>>,
    /// Resources that the agent holds; kept only without the wildcard.
    held: HashSet<Arc<str>>,
    /// Resources that the agent held when it came, and whether as they were at that moment; each is dropped once looked up. With the
    /// wildcard only those that it asked for all the same.
    brought: HashMap<Arc<str>, bool>,
    /// Names to answer whether they changed or not.
    lookups: VecDeque<Arc<str>>,
    gone: VecDeque<String>,
    /// What is told to one that holds nothing, and how many parts of it have been.
    image: Option<(Arc<Image>, usize)>,
    /// Place in the log up to which the agent has been told.
    pub(crate) cursor: u64,
    /// Place at which it subscribed: what was removed before, it never heard of.
    born: u64,
    /// The first request is answered even with nothing to say, so that the agent knows it is in sync.
    pub(super) due: bool,
    in_flight: BTreeMap<u64, u64>,
    pub(crate) acknowledged: u64,
    pub(crate) responses: u64,
    pub(crate) nacks: u64,
    pub(crate) last_nack: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) resources: Vec<Bytes>,
    bytes: usize,
    pub(super) part: Option<Arc<Part>>,
    pub(super) removed: Vec<String>,
    pub(super) unknown: bool,
    /// Looked up in this batch: several names may lead to one resource.
    settled: HashSet<Arc<str>>,
    pub(super) partial: bool,
}

impl Batch {
    fn full(&self) -> bool {
        self.part.is_some() || self.bytes >= PART_BYTES || self.removed.len() >= CHUNK_NAMES
    }

    fn push(&mut self, resource: &Resource) {
        self.bytes += resource.encoded.len();
        self.resources.push(resource.encoded.clone());
    }
}

impl Subscription {
    pub(crate) fn started(&self) -> bool {
        self.started
    }

    /// Whether everything that was told is acknowledged.
    pub(super) fn is_heard(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Where nothing that it was told is open, that is as far as there was something to tell.
    pub(super) fn place(&self) -> u64 {
        match self.started {
            false if self.unknown => 0,
            false => u64::MAX,
            true if self.is_heard() && !self.is_amid() && self.last_nack.is_none() => self.cursor,
            true => self.acknowledged,
        }
    }

    pub(super) fn answered(&mut self, kind: Kind, request: &DeltaDiscoveryRequest) -> Option<Heard> {
        let nonce: u64 = request.response_nonce.parse().ok()?;
        let place = self.in_flight.remove(&nonce)?;
        // The stream is in order: what was sent before is answered too, or never will be.
        self.in_flight.retain(|earlier, _| *earlier > nonce);
        match &request.error_detail {
            None => {
                self.acknowledged = self.acknowledged.max(place);
                self.last_nack = None;
                Some(Heard::Acknowledged { kind })
            }
            Some(error) => {
                let message: String = error.message.chars().take(MAX_NACK_CHARS).collect();
                self.nacks += 1;
                self.last_nack = Some(message.clone());
                Some(Heard::Refused { kind, message })
            }
        }
    }

    pub(super) fn start(&mut self, all: &Collection, request: DeltaDiscoveryRequest) -> Result<(), SessionError> {
        self.started = true;
        self.due = true;
        self.born = all.head();
        let (subscribe, unsubscribe) = (request.resource_names_subscribe, request.resource_names_unsubscribe);
        // An empty subscription is the wildcard; taking "*" back at once is how an agent asks on demand from its start.
        self.wildcard =
            subscribe.iter().any(|name| name == "*") || (subscribe.is_empty() && !unsubscribe.iter().any(|n| n == "*"));
        let mut brought = request.initial_resource_versions;
        if let Some(digest) = brought.remove(EVERYTHING) {
            // Names beside it would be of something else.
            brought.clear();
            match all.place_of(&digest).filter(|_| self.wildcard) {
                Some(place) => (self.cursor, self.born) = (place, place),
                // As if it had said nothing yet: it begins again.
                None => (self.started, self.unknown) = (false, true),
            }
        } else if self.wildcard && brought.is_empty() {
            let image = all.image();
            (self.cursor, self.born) = (image.at, image.at);
            self.image = Some((image, 0));
        } else {
            self.cursor = all.head();
            if !brought.is_empty() {
                self.compare(all, &brought, &subscribe.iter().map(String::as_str).collect());
            }
        }
        self.gone = brought.into_keys().filter(|name| all.get(name).is_none()).collect();
        self.change(all, subscribe.into_iter().filter(|name| name != "*").collect(), Vec::new())
    }

    /// Finds what the agent has to be told to hold what `all` has now.
    fn compare(&mut self, all: &Collection, brought: &BTreeMap<String, String>, asked: &HashSet<&str>) {
        for (_, name, resource) in all.since(0) {
            let Some(resource) = resource else { continue };
            let version = brought.get(&**name);
            let fresh = version == Some(&resource.version);
            if version.is_some() && (!self.wildcard || asked.contains(&**name)) {
                self.brought.insert(name.clone(), fresh);
            }
            if self.wildcard {
                if !fresh {
                    self.lookups.push_back(name.clone());
                }
            } else if version.is_some() {
                self.held.insert(name.clone());
                self.lookups.push_back(name.clone());
            }
        }
    }

    pub(super) fn change(
        &mut self,
        all: &Collection,
        subscribe: Vec<String>,
        unsubscribe: Vec<String>,
    ) -> Result<(), SessionError> {
        for name in unsubscribe {
            if name == "*" {
                self.wildcard = false;
            } else {
                self.asked.remove(name.as_str());
            }
        }
        for name in subscribe {
            if name == "*" {
                // From the start again; what was removed since it was last told is still to be told.
                self.wildcard = true;
                self.born = self.cursor;
                self.cursor = 0;
                self.due = true;
                continue;
            }
            if self.asked.len() >= MAX_ASKED {
                return Err(SessionError::TooManyNames);
            }
            let name: Arc<str> = name.into();
            self.lookups.push_back(name.clone());
            self.asked.insert(name);
        }
        let asked = &self.asked;
        self.following.retain(|name| {
            asked.contains(name)
                || all.get(name).is_some_and(|service| service.aliases.iter().any(|alias| asked.contains(alias)))
        });
        if !self.wildcard {
            let following = &self.following;
            self.held.retain(|name| {
                all.get(name).is_some_and(|resource| wanted(asked, following, name, resource))
                    || self.brought.contains_key(name)
            });
        }
        Ok(())
    }

    pub(super) fn is_amid(&self) -> bool {
        self.unknown || self.due || self.image.is_some() || !self.gone.is_empty() || !self.lookups.is_empty()
    }

    pub(super) fn has_work(&self, all: &Collection) -> bool {
        self.unknown
            || self.started
                && (self.due
                    || self.image.is_some()
                    || !self.lookups.is_empty()
                    || !self.gone.is_empty()
                    || self.cursor < all.head())
    }

    pub(super) fn next(&mut self, all: &Collection) -> Result<Option<Batch>, SessionError> {
        if self.cursor < all.floor() && self.born < all.floor() {
            return Err(SessionError::TooFarBehind);
        }
        let mut batch = Batch::default();
        if std::mem::take(&mut self.unknown) {
            batch.unknown = true;
            return Ok(Some(batch));
        }
        if let Some((image, told)) = &mut self.image {
            batch.part = image.parts.get(*told).cloned();
            *told += 1;
            if *told >= image.parts.len() {
                self.image = None;
            }
        }
        while !batch.full()
            && let Some(name) = self.gone.pop_front()
        {
            batch.removed.push(name);
        }
        while !batch.full()
            && let Some(asked) = self.lookups.pop_front()
        {
            self.look_up(all, &asked, &mut batch);
        }
        if !batch.full() {
            self.read_log(all, &mut batch);
        }
        batch.partial =
            self.image.is_some() || !self.gone.is_empty() || !self.lookups.is_empty() || self.cursor < all.head();
        if batch.part.is_none() && batch.resources.is_empty() && batch.removed.is_empty() && !self.due {
            return Ok(None);
        }
        self.due &= batch.partial;
        if !batch.partial {
            // What the agent brought has been looked up in full.
            self.brought = HashMap::new();
        }
        Ok(Some(batch))
    }

    fn look_up(&mut self, all: &Collection, asked: &Arc<str>, batch: &mut Batch) {
        let names = all.resolve(asked);
        if names.is_empty() {
            batch.removed.push(asked.to_string());
        }
        for name in names {
            let Some(resource) = all.get(&name) else { continue };
            if self.asked.contains(asked) && (*name == **asked || resource.aliases.contains(asked)) {
                self.following.insert(name.clone());
            }
            if batch.settled.insert(name.clone()) && self.brought.remove(&name) != Some(true) {
                batch.push(resource);
            }
            if !self.wildcard {
                self.held.insert(name);
            }
        }
    }

    fn read_log(&mut self, all: &Collection, batch: &mut Batch) {
        for (place, name, resource) in all.since(self.cursor) {
            match resource {
                Some(resource) => {
                    let told = self.wildcard
                        || self.held.contains(name)
                        || wanted(&self.asked, &self.following, name, resource);
                    if told {
                        if !batch.settled.contains(name) {
                            batch.push(resource);
                        }
                        if !self.wildcard {
                            if self.asked.contains(name) || resource.aliases.iter().any(|a| self.asked.contains(a)) {
                                self.following.insert(name.clone());
                            }
                            self.held.insert(name.clone());
                        }
                    }
                }
                None if self.wildcard => {
                    if place > self.born {
                        batch.removed.push(name.to_string());
                    }
                }
                None => {
                    if self.held.remove(name) {
                        batch.removed.push(name.to_string());
                    }
                }
            }
            self.cursor = place;
            if batch.full() {
                return;
            }
        }
        self.cursor = all.head();
    }

    pub(super) fn sent(&mut self, nonce: u64) {
        self.responses += 1;
        // Of an image it has a part: that counts from the last one on.
        let place = if self.image.is_some() { 0 } else { self.cursor };
        self.in_flight.insert(nonce, place);
        while self.in_flight.len() > MAX_IN_FLIGHT {
            self.in_flight.pop_first();
        }
    }
}

/// Whether an agent that asked for `asked` is to be told of a resource: by its name, its address or its service.
fn wanted(asked: &BTreeSet<Arc<str>>, following: &HashSet<Arc<str>>, name: &Arc<str>, resource: &Resource) -> bool {
    asked.contains(name)
        || resource.aliases.iter().any(|alias| asked.contains(alias))
        || resource.services.iter().any(|service| following.contains(service))
}

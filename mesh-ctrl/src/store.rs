//! What agents are told, encoded once: each resource as the bytes that go to every one of them, with a version that is a
//! hash of its content (so a restarted controller, or another one, gives the same version to the same content).
//!
//! A [`World`] is a value; each batch of changes makes the next one, sharing what did not change. Its log has exactly one
//! place for each name, that of its latest change: a subscriber that stands at place `n` reads what lies beyond `n`, and
//! however slow it is, it sees each name at most once and as it is at that moment. Who begins with nothing is told an
//! [`Image`], which all who begin at about the same time share.

mod digest;
mod image;
pub(crate) mod part;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, Weak};

use aws_lc_rs::digest::{SHA256, digest as hash_of};
use bytes::Bytes;
use imbl::{HashMap, OrdMap, OrdSet};
use mesh_core::wire::{self, Address};
use mesh_net::control::Kind;
use prost::Message;

use crate::index::{self, Change};
use digest::Digests;

pub(crate) use image::{Image, PART_BYTES};

/// Removals kept in the log. A subscriber that stands before one that was dropped must resume with the versions that it
/// holds, as if it had been away.
const MAX_REMOVALS: usize = 50_000;
/// Changes after which an image is made anew: they would be told right after it.
const MAX_BEHIND: u64 = 1000;

#[derive(Debug)]
pub struct Resource {
    pub version: String,
    /// A `Resource` message of the discovery protocol.
    pub encoded: Bytes,
    /// Other names by which it is asked for: `network/ip` of each address; of a model, its waypoint.
    pub aliases: Vec<Arc<str>>,
    /// Services that it is an endpoint of: who asked for the service is told of it too.
    pub services: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Default)]
pub struct World {
    /// Whether the source has said everything that it found at its start. Until then nobody is answered: to an agent that
    /// resumes, a resource that has not been read yet would look removed.
    pub synced: bool,
    addresses: Collection,
    policies: Collection,
    layer7: Collection,
}

#[derive(Clone, Debug, Default)]
pub struct Collection {
    head: u64,
    /// Removals up to this place are no longer in the log.
    floor: u64,
    slots: HashMap<Arc<str>, Slot>,
    log: OrdMap<u64, Arc<str>>,
    removals: OrdSet<u64>,
    /// Names of the resources that an alias or a service stands for.
    by_alias: HashMap<Arc<str>, OrdSet<Arc<str>>>,
    by_service: HashMap<Arc<str>, OrdSet<Arc<str>>>,
    digests: Digests,
    /// Lives for as long as somebody is told it.
    image: Arc<Mutex<Weak<Image>>>,
}

#[derive(Clone, Debug)]
struct Slot {
    place: u64,
    resource: Option<Arc<Resource>>,
}

impl World {
    pub fn of(&self, kind: Kind) -> &Collection {
        match kind {
            Kind::Address => &self.addresses,
            Kind::Authorization => &self.policies,
            Kind::Layer7 => &self.layer7,
        }
    }

    /// Applies a batch; false if it changed nothing that an agent would see.
    pub fn apply(&mut self, changes: Vec<Change>) -> bool {
        let mut changed = false;
        for change in changes {
            let (kind, resource) = encode(&change);
            let collection = match kind {
                Kind::Address => &mut self.addresses,
                Kind::Authorization => &mut self.policies,
                Kind::Layer7 => &mut self.layer7,
            };
            let version = resource.as_ref().map(|r| &r.version);
            if collection.get(&change.name).map(|r| &r.version) != version {
                collection.put(change.name, resource.map(Arc::new));
                changed = true;
            }
        }
        for (kind, collection) in [
            (Kind::Address, &mut self.addresses),
            (Kind::Authorization, &mut self.policies),
            (Kind::Layer7, &mut self.layer7),
        ] {
            collection.settle(kind);
        }
        changed
    }
}

impl Collection {
    /// Place of the latest change; 0 before any.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// A subscriber at a place before this one has missed removals.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// A text that says all that it holds, as of the last batch.
    pub fn digest(&self) -> Option<&Arc<str>> {
        self.digests.current()
    }

    /// The place from which on a subscriber has to be told that holds what `digest` says; none if that is not known.
    pub fn place_of(&self, digest: &str) -> Option<u64> {
        self.digests.place(digest).filter(|place| *place >= self.floor)
    }

    /// All that it holds, or did a moment ago.
    pub(crate) fn image(&self) -> Arc<Image> {
        let mut kept = self.image.lock().unwrap_or_else(|e| e.into_inner());
        // Never a later one: who is told it would hold more than this collection's digest says.
        let fresh =
            |image: &Arc<Image>| (self.floor..=self.head).contains(&image.at) && self.head - image.at <= MAX_BEHIND;
        if let Some(image) = kept.upgrade().filter(fresh) {
            return image;
        }
        let image = Arc::new(Image::new(self.head, self.since(0).filter_map(|(_, _, resource)| resource)));
        *kept = Arc::downgrade(&image);
        image
    }

    fn settle(&mut self, kind: Kind) {
        let slots = &self.slots;
        let version = |name: &str| slots.get(name)?.resource.as_ref().map(|resource| resource.version.as_str());
        if self.digests.is_stale() {
            self.digests.settle(kind, self.head, version);
        }
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.removals.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.slots.get(name)?.resource.as_ref()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Resource>)> {
        self.slots.iter().filter_map(|(name, slot)| Some((name, slot.resource.as_ref()?)))
    }

    /// Names that changed after `place`, in the order of their latest change, with what they are now.
    pub fn since(&self, place: u64) -> impl Iterator<Item = (u64, &Arc<str>, Option<&Arc<Resource>>)> {
        self.log
            .range(place.saturating_add(1)..)
            .filter_map(|(at, name)| Some((*at, name, self.slots.get(name)?.resource.as_ref())))
    }

    /// Names of the resources that `asked` stands for: itself, those at the address, and with a service its endpoints.
    pub fn resolve(&self, asked: &str) -> BTreeSet<Arc<str>> {
        let mut found = BTreeSet::new();
        if let Some((name, _)) = self.slots.get_key_value(asked).filter(|(_, slot)| slot.resource.is_some()) {
            found.insert(name.clone());
        }
        found.extend(self.by_alias.get(asked).into_iter().flatten().cloned());
        let endpoints: Vec<_> = found.iter().filter_map(|name| self.by_service.get(name)).flatten().cloned().collect();
        found.extend(endpoints);
        found
    }

    fn put(&mut self, name: Arc<str>, resource: Option<Arc<Resource>>) {
        self.head += 1;
        self.digests.note(&name, resource.is_some());
        let old = self.slots.insert(name.clone(), Slot { place: self.head, resource: resource.clone() });
        if let Some(slot) = &old {
            self.log.remove(&slot.place);
            self.removals.remove(&slot.place);
        }
        self.log.insert(self.head, name.clone());
        if let Some(old) = old.and_then(|slot| slot.resource) {
            unlink(&mut self.by_alias, &old.aliases, &name);
            unlink(&mut self.by_service, &old.services, &name);
        }
        match resource {
            Some(resource) => {
                for alias in &resource.aliases {
                    self.by_alias.entry(alias.clone()).or_default().insert(name.clone());
                }
                for service in &resource.services {
                    self.by_service.entry(service.clone()).or_default().insert(name.clone());
                }
            }
            None => {
                self.removals.insert(self.head);
                while self.removals.len() > MAX_REMOVALS {
                    self.forget_oldest_removal();
                }
            }
        }
    }

    fn forget_oldest_removal(&mut self) {
        if let Some(place) = self.removals.get_min().copied() {
            self.removals.remove(&place);
            if let Some(name) = self.log.remove(&place) {
                self.slots.remove(&name);
            }
            self.floor = place;
        }
    }
}

fn unlink(index: &mut HashMap<Arc<str>, OrdSet<Arc<str>>>, keys: &[Arc<str>], name: &Arc<str>) {
    for key in keys {
        if let Some(names) = index.get_mut(key) {
            names.remove(name);
            if names.is_empty() {
                index.remove(key);
            }
        }
    }
}

fn encode(change: &Change) -> (Kind, Option<Resource>) {
    match &change.resource {
        index::Resource::Address(address) => {
            let resource = address.as_ref().map(|address| {
                let body = wire::workload::Address::from(address).encode_to_vec();
                let mut resource = Resource::new(Kind::Address, &change.name, body);
                let aliases: Vec<String> = match address {
                    Address::Workload(w) => w.network_addresses().map(|a| a.to_string()).collect(),
                    Address::Service(s) => s.addresses.iter().map(ToString::to_string).collect(),
                };
                resource.aliases = aliases.into_iter().map(Arc::from).collect();
                if let Address::Workload(w) = address {
                    resource.services = w.services.keys().map(|key| key.to_string().into()).collect();
                }
                resource
            });
            (Kind::Address, resource)
        }
        index::Resource::Authorization(policy) => {
            let resource = policy.as_ref().map(|policy| {
                let body = wire::security::Authorization::from(policy).encode_to_vec();
                Resource::new(Kind::Authorization, &change.name, body)
            });
            (Kind::Authorization, resource)
        }
        index::Resource::Layer7(model) => {
            let resource = model.as_ref().map(|model| {
                let body = wire::extensions::Layer7::from(model).encode_to_vec();
                let mut resource = Resource::new(Kind::Layer7, &change.name, body);
                resource.aliases = vec![model.waypoint.to_string().into()];
                resource
            });
            (Kind::Layer7, resource)
        }
    }
}

impl Resource {
    fn new(kind: Kind, name: &str, body: Vec<u8>) -> Self {
        // Half of SHA-256: a collision would make an agent keep an old version.
        let hash = hash_of(&SHA256, &body);
        let version: String = hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let message = wire::discovery::Resource {
            version: version.clone(),
            resource: Some(prost_types::Any { type_url: kind.type_url().to_owned(), value: body }),
            name: name.to_owned(),
            aliases: Vec::new(),
        };
        Resource { version, encoded: message.encode_to_vec().into(), aliases: Vec::new(), services: Vec::new() }
    }
}

#[cfg(test)]
pub(crate) mod tests;

//! The dynamic table of a peer's decoder, as its encoder knows it (RFC 7541, section 2.3.2).

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::OVERHEAD;

pub(super) struct Mirror {
    /// Oldest first.
    entries: VecDeque<Entry>,
    /// Entries by their hash: how many had entered before each.
    places: HashTable<u64>,
    /// How many have entered.
    entered: u64,
    size: usize,
    most: usize,
    hasher: RandomState,
}

struct Entry {
    hash: u64,
    /// Name and value, in memory of their own: what they were sent from may be part of something large.
    text: Box<[u8]>,
    name: usize,
}

impl Entry {
    fn size(&self) -> usize {
        self.text.len() + OVERHEAD
    }

    fn is(&self, name: &[u8], value: &[u8]) -> bool {
        self.name == name.len() && self.text.len() == name.len() + value.len() && {
            let (own_name, own_value) = self.text.split_at(self.name);
            own_value == value && own_name == name
        }
    }
}

impl Mirror {
    /// Of up to `most` bytes.
    pub(super) fn new(most: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            places: HashTable::new(),
            entered: 0,
            size: 0,
            most,
            hasher: RandomState::default(),
        }
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    pub(super) fn resize(&mut self, most: usize) {
        self.most = most;
        self.make_room(0);
    }

    pub(super) fn hash(&self, name: &[u8], value: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(name);
        hasher.write(value);
        hasher.finish()
    }

    /// How many fields ago this one entered, the newest being 0.
    pub(super) fn find(&self, hash: u64, name: &[u8], value: &[u8]) -> Option<usize> {
        let gone = self.entered - self.entries.len() as u64;
        let found = self.places.find(hash, |place| {
            let entry = &self.entries[(*place - gone) as usize];
            entry.hash == hash && entry.is(name, value)
        });
        found.map(|place| (self.entered - 1 - place) as usize)
    }

    /// Adds what is not in it; what is larger than all of it only empties it (section 4.4).
    pub(super) fn insert(&mut self, hash: u64, name: &[u8], value: &[u8]) {
        let entry = Entry { hash, text: [name, value].concat().into(), name: name.len() };
        self.make_room(entry.size());
        if entry.size() > self.most {
            return;
        }
        self.size += entry.size();
        self.entries.push_back(entry);
        let gone = self.entered + 1 - self.entries.len() as u64;
        self.places.insert_unique(hash, self.entered, |place| self.entries[(*place - gone) as usize].hash);
        self.entered += 1;
    }

    fn make_room(&mut self, size: usize) {
        while self.size + size > self.most
            && let Some(oldest) = self.entries.pop_front()
        {
            self.size -= oldest.size();
            let place = self.entered - 1 - self.entries.len() as u64;
            if let Ok(own) = self.places.find_entry(oldest.hash, |own| *own == place) {
                own.remove();
            }
        }
    }
}

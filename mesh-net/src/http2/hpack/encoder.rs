//! Writes field sections for one peer.
//!
//! A field enters the peer's table when it is sent for the second time: values that never come again (most paths, identifiers
//! of requests and traces, dates, lengths) are never in it, so that what does come again stays. What enters is coded to be
//! short, which costs time once; all else is sent as it is.

use http::header::{self, HeaderName};

use super::fixed::{self, FIXED};
use super::mirror::Mirror;
use super::{OVERHEAD, TABLE, huffman, integer};
use crate::header_list::HeaderList;
use crate::http2::fields::Pseudo;

/// See the module's description.
pub(in crate::http2) struct Encoder {
    mirror: Mirror,
    recent: Recent,
    /// The smallest size that the table had since the last section, if the peer is to be told of sizes.
    smallest: Option<usize>,
}

/// How a field may be sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Indexed,
    /// As a literal.
    Plain,
    /// As a literal that no table on its way may ever have (section 6.2.3).
    Never,
}

impl Encoder {
    pub(in crate::http2) fn new() -> Self {
        Self { mirror: Mirror::new(TABLE), recent: Recent::default(), smallest: None }
    }

    /// The peer's table takes `size` bytes.
    pub(in crate::http2) fn resize(&mut self, size: u32) {
        let size = (size as usize).min(TABLE);
        if size != self.mirror.most() {
            self.mirror.resize(size);
            self.smallest = Some(self.smallest.map_or(size, |smallest| smallest.min(size)));
        }
    }

    /// Appends a section.
    pub(in crate::http2) fn encode(&mut self, pseudo: &Pseudo, headers: &HeaderList, to: &mut Vec<u8>) {
        if let Some(smallest) = self.smallest.take() {
            integer::write(smallest, 5, 0x20, to);
            // It may have grown again meanwhile (section 4.2).
            if self.mirror.most() != smallest {
                integer::write(self.mirror.most(), 5, 0x20, to);
            }
        }
        self.pseudo(pseudo, to);
        for (name, value) in headers {
            let way = match () {
                () if value.is_sensitive() => Way::Never,
                () if is_somebodys(name) => Way::Plain,
                () => Way::Indexed,
            };
            self.field(name.as_str().as_bytes(), value.as_bytes(), way, to);
        }
    }

    fn pseudo(&mut self, pseudo: &Pseudo, to: &mut Vec<u8>) {
        let Pseudo { method, scheme, authority, path, protocol, status } = pseudo;
        // With the first index of each name.
        let fields = [
            (":method", Some(2), method.as_ref().map(|method| method.as_str().as_bytes())),
            (":scheme", Some(6), scheme.as_deref()),
            (":authority", Some(1), authority.as_deref()),
            (":path", Some(4), path.as_deref()),
            (":protocol", None, protocol.as_deref()),
            (":status", Some(8), status.as_ref().map(|status| status.as_str().as_bytes())),
        ];
        for (name, first, value) in fields {
            let Some(value) = value else { continue };
            // What the static table has whole is looked for there first: it is most of what these say.
            match first.and_then(|first| fixed::with_value(first, name.as_bytes(), value)) {
                Some(index) => integer::write(index, 7, 0x80, to),
                None => self.field(name.as_bytes(), value, Way::Indexed, to),
            }
        }
    }

    fn field(&mut self, name: &[u8], value: &[u8], way: Way, to: &mut Vec<u8>) {
        if way != Way::Indexed {
            let pattern = if way == Way::Never { 0x10 } else { 0 };
            return literal(FIXED.index(name), 4, pattern, name, |to| plain(value, to), to);
        }
        let hash = self.mirror.hash(name, value);
        if let Some(ago) = self.mirror.find(hash, name, value) {
            return integer::write(fixed::COUNT + 1 + ago, 7, 0x80, to);
        }
        let known = FIXED.index(name);
        if let Some(index) = known.and_then(|first| fixed::with_value(first, name, value)) {
            return integer::write(index, 7, 0x80, to);
        }
        // What is large would drive much out of the table.
        let small = name.len() + value.len() + OVERHEAD <= self.mirror.most() / 4;
        if small && self.recent.saw(hash) {
            literal(known, 6, 0x40, name, |to| short(value, to), to);
            self.mirror.insert(hash, name, value);
        } else {
            literal(known, 4, 0, name, |to| plain(value, to), to);
        }
    }
}

/// Fields that were sent as literals of late, by their hash.
struct Recent {
    hashes: [u32; RECENT],
    /// Where the oldest is.
    oldest: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self { hashes: [0; RECENT], oldest: 0 }
    }
}

impl Recent {
    /// Whether a field is one of them; from now on it is. Two that look the same here do no harm: one enters early.
    fn saw(&mut self, hash: u64) -> bool {
        let hash = hash as u32;
        // Without a way out between, so that many are compared at once.
        if self.hashes.iter().fold(false, |seen, own| seen | (*own == hash)) {
            return true;
        }
        self.hashes[self.oldest] = hash;
        self.oldest = (self.oldest + 1) % RECENT;
        false
    }
}

/// Whether a field is of one person, whom others that share the connection are not to find out about by what a guess of theirs
/// makes shorter (section 7.1.3).
fn is_somebodys(name: &HeaderName) -> bool {
    [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE, header::SET_COOKIE].contains(name)
}

/// Writes a literal with the index of its name, if there is one, in the first byte's `prefix`.
fn literal(
    index: Option<usize>,
    prefix: u32,
    pattern: u8,
    name: &[u8],
    value: impl FnOnce(&mut Vec<u8>),
    to: &mut Vec<u8>,
) {
    integer::write(index.unwrap_or(0), prefix, pattern, to);
    if index.is_none() {
        plain(name, to);
    }
    value(to);
}

fn plain(text: &[u8], to: &mut Vec<u8>) {
    integer::write(text.len(), 7, 0, to);
    to.extend_from_slice(text);
}

fn short(text: &[u8], to: &mut Vec<u8>) {
    let length = huffman::length(text);
    if length >= text.len() {
        return plain(text, to);
    }
    integer::write(length, 7, 0x80, to);
    huffman::encode(text, to);
}

/// How many are remembered: some sections' worth of what changes with each.
const RECENT: usize = 64;

//! Reads the field sections of one peer, one after the other.

use std::collections::VecDeque;

use bytes::Bytes;

use super::field::{Field, Name};
use super::fixed::{self, FIXED};
use super::section::Section;
use super::{NotHpack, OVERHEAD, TABLE, huffman, integer};

pub(in crate::http2) use super::section::Decoded;

/// See the module's description.
pub(in crate::http2) struct Decoder {
    /// The dynamic table, newest first: each field with its size.
    table: VecDeque<(Field, usize)>,
    /// Bytes in it, and the most that the peer uses.
    size: usize,
    most: usize,
    /// What a string is decoded into.
    text: Vec<u8>,
}

impl Decoder {
    pub(in crate::http2) fn new() -> Self {
        Self { table: VecDeque::new(), size: 0, most: TABLE, text: Vec::new() }
    }

    /// Reads a section; one of more than `most` bytes, counted as section 6.5.2 of RFC 9113 does, is not kept.
    ///
    /// # Errors
    /// It is no HPACK.
    pub(in crate::http2) fn decode(&mut self, block: &[u8], most: usize) -> Result<Decoded, NotHpack> {
        let mut section = Section::new(block, most);
        let mut rest = block;
        let mut begun = false;
        while let Some(first) = rest.first() {
            match first {
                0x80.. => {
                    let (field, size) = self.get(integer::read(&mut rest, 7)?)?;
                    if section.takes(*size) {
                        section.add_known(field);
                    }
                }
                0x40.. => self.entering(&mut rest, &mut section)?,
                // Only before the first field (section 4.2).
                0x20.. if begun => return Err(NotHpack),
                0x20.. => {
                    self.resize(integer::read(&mut rest, 5)?)?;
                    continue;
                }
                _ => self.passing(&mut rest, &mut section)?,
            }
            begun = true;
        }
        if self.text.capacity() > TABLE {
            self.text = Vec::new();
        }
        Ok(section.end())
    }

    /// A literal that enters the table (section 6.2.1).
    fn entering(&mut self, rest: &mut &[u8], section: &mut Section<'_>) -> Result<(), NotHpack> {
        let name = self.name(rest, 6)?;
        let value = string(rest, &mut self.text)?;
        let size = name.len() + value.len() + OVERHEAD;
        // A copy of its own: what the section's other values lie in would live as long as the table has it.
        let field = Field::new(name, Bytes::copy_from_slice(value));
        if section.takes(size) {
            section.add_known(&field);
        }
        self.make_room(size);
        // One that is larger than the table only empties it (section 4.4).
        if size <= self.most {
            self.size += size;
            self.table.push_front((field, size));
        }
        Ok(())
    }

    /// A literal of which the table learns nothing (sections 6.2.2 and 6.2.3).
    fn passing(&mut self, rest: &mut &[u8], section: &mut Section<'_>) -> Result<(), NotHpack> {
        let never = rest.first().is_some_and(|first| first & 0x10 != 0);
        let name = self.name(rest, 4)?;
        let coded = is_coded(rest);
        let value = string(rest, &mut self.text)?;
        if section.takes(name.len() + value.len() + OVERHEAD) {
            let value = if coded { Bytes::copy_from_slice(value) } else { section.slice(value.len(), rest.len()) };
            let mut field = Field::new(name, value);
            if let Field::Header(_, value) = &mut field {
                value.set_sensitive(never);
            }
            section.add(field);
        }
        Ok(())
    }

    fn name(&mut self, rest: &mut &[u8], prefix: u32) -> Result<Name, NotHpack> {
        match integer::read(rest, prefix)? {
            0 => Ok(Name::read(string(rest, &mut self.text)?)),
            index => Ok(self.get(index)?.0.name()),
        }
    }

    fn get(&self, index: usize) -> Result<&(Field, usize), NotHpack> {
        match index.checked_sub(fixed::COUNT + 1) {
            Some(at) => self.table.get(at).ok_or(NotHpack),
            None => FIXED.get(index).ok_or(NotHpack),
        }
    }

    /// The peer's encoder uses `most` bytes from here on (section 6.3).
    fn resize(&mut self, most: usize) -> Result<(), NotHpack> {
        if most > TABLE {
            return Err(NotHpack);
        }
        self.most = most;
        self.make_room(0);
        Ok(())
    }

    /// Bytes in the table.
    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        assert_eq!(self.size, self.table.iter().map(|(_, size)| *size).sum::<usize>());
        self.size
    }

    /// Fields in the table.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Removes the oldest until there is room for `size` bytes, or nothing is left.
    fn make_room(&mut self, size: usize) {
        while self.size + size > self.most
            && let Some((_, oldest)) = self.table.pop_back()
        {
            self.size -= oldest;
        }
    }
}

/// Takes a string (section 5.2), which is a part of `rest` or, if it [`is_coded`], decoded into `text`.
fn string<'a, 'b: 'a>(rest: &mut &'b [u8], text: &'a mut Vec<u8>) -> Result<&'a [u8], NotHpack> {
    let coded = is_coded(rest);
    let length = integer::read(rest, 7)?;
    let (string, after) = rest.split_at_checked(length).ok_or(NotHpack)?;
    *rest = after;
    if !coded {
        return Ok(string);
    }
    text.clear();
    huffman::decode(string, text)?;
    Ok(text)
}

fn is_coded(string: &[u8]) -> bool {
    string.first().is_some_and(|first| first & 0x80 != 0)
}

//! Memory for records, lent by the thread to a connection for as long as it has bytes in hand.

use std::cell::RefCell;

use super::record::LONGEST;

/// Filled from the front and emptied from the front; given back on drop.
pub(super) struct Lent {
    memory: Box<[u8]>,
    start: usize,
    end: usize,
}

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

impl Lent {
    pub(super) fn take() -> Self {
        let spare = SPARE.with_borrow_mut(Vec::pop);
        Self { memory: spare.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice()), start: 0, end: 0 }
    }

    /// With what an earlier one held.
    pub(super) fn with(bytes: &[u8]) -> Self {
        let mut lent = Self::take();
        lent.space()[..bytes.len()].copy_from_slice(bytes);
        lent.filled(bytes.len());
        lent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.end]
    }

    /// Where more can be put.
    pub(super) fn space(&mut self) -> &mut [u8] {
        &mut self.memory[self.end..]
    }

    /// The first `n` bytes of [`Lent::space`] hold something now.
    pub(super) fn filled(&mut self, n: usize) {
        self.end += n;
        debug_assert!(self.end <= self.memory.len());
    }

    /// The first `n` bytes are done with. They stay where they are until [`Lent::make_room`].
    pub(super) fn consume(&mut self, n: usize) {
        self.start += n;
        debug_assert!(self.start <= self.end);
    }

    /// Makes room for a record at least, given that one is not complete yet.
    pub(super) fn make_room(&mut self) {
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        } else if self.memory.len() - self.start < LONGEST || self.space().len() < self.memory.len() / 2 {
            self.memory.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    /// Where [`Lent::bytes`] begins: stands for itself until [`Lent::make_room`].
    pub(super) fn start(&self) -> usize {
        self.start
    }

    /// Bytes by where they lie, also such as are done with.
    pub(super) fn at(&self, place: std::ops::Range<usize>) -> &[u8] {
        &self.memory[place]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        // The thread may be ending, and its memory with it.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < KEPT {
                spare.push(memory);
            }
        });
    }
}

/// Sixteen records: one system call moves 256 KiB of data.
pub(super) const SIZE: usize = 16 * LONGEST;
/// Most that a thread keeps; more are made when more connections have bytes in hand at once, and freed after.
const KEPT: usize = 4;

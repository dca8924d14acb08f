//! Memory for records that are to be sent, lent by the thread to a connection for as long as it has bytes in hand.

use std::cell::RefCell;

use super::budget::{BATCH, LARGE, Leave};
use super::record::{CONTENT, OVERHEAD};

/// Filled from the front and emptied from the front; given back on drop.
pub(super) struct Lent {
    memory: Box<[u8]>,
    /// For a large one.
    leave: Option<Leave>,
    start: usize,
    end: usize,
}

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static LARGE_SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

impl Lent {
    /// Room for a batch of records, or for one when many connections hold a batch that their sockets do not take.
    pub(super) fn take() -> Self {
        Self::by(Leave::take())
    }

    /// As much as may be had at once.
    pub(super) fn largest() -> Self {
        Self::by(Leave::largest())
    }

    fn by(leave: Option<Leave>) -> Self {
        let new = |records| vec![0; size(records)].into_boxed_slice();
        let memory = match leave.as_ref().map(Leave::records) {
            Some(LARGE) => LARGE_SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| new(LARGE)),
            Some(_) => SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| new(BATCH)),
            None => new(1),
        };
        Self { memory, leave, start: 0, end: 0 }
    }

    /// Whole records that it has room for while it is empty.
    pub(super) fn records(&self) -> usize {
        self.leave.as_ref().map_or(1, Leave::records)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.end]
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

    /// The first `n` bytes are done with.
    pub(super) fn consume(&mut self, n: usize) {
        self.start += n;
        debug_assert!(self.start <= self.end);
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let (spare, kept) = match self.leave.as_ref().map(Leave::records) {
            Some(LARGE) => (&LARGE_SPARE, KEPT / (LARGE / BATCH)),
            Some(_) => (&SPARE, KEPT),
            None => return,
        };
        // The thread may be ending, and its memory with it.
        let _ = spare.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < kept {
                spare.push(memory);
            }
        });
    }
}

/// Bytes of so many records, with room for the small things that go before and behind them.
const fn size(records: usize) -> usize {
    records * (CONTENT + OVERHEAD) + RESERVE
}

const RESERVE: usize = 1 << 10;
/// Most that a thread keeps, 4 MiB, and as much in large ones; more are made when more connections have bytes in hand at once, and freed after.
const KEPT: usize = 32;

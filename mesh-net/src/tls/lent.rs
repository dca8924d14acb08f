//! Memory for records that are to be sent, lent by the thread to a connection for as long as it has bytes in hand.

use std::cell::RefCell;

use super::budget::Leave;
use super::link::BATCH;
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
}

impl Lent {
    /// Room for a batch of records, or for one when many connections hold a batch that their sockets do not take.
    pub(super) fn take() -> Self {
        let leave = Leave::take();
        let memory = match &leave {
            Some(_) => SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE].into_boxed_slice()),
            None => vec![0; SMALL].into_boxed_slice(),
        };
        Self { memory, leave, start: 0, end: 0 }
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
        if self.leave.is_none() {
            return;
        }
        // The thread may be ending, and its memory with it.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < KEPT {
                spare.push(memory);
            }
        });
    }
}

/// A batch of records, with room for the small things that go before and behind it.
const SIZE: usize = BATCH * (CONTENT + OVERHEAD) + RESERVE;
const SMALL: usize = CONTENT + OVERHEAD + RESERVE;
const RESERVE: usize = 1 << 10;
/// Most that a thread keeps, 4 MiB; more are made when more connections have bytes in hand at once, and freed after.
const KEPT: usize = 32;

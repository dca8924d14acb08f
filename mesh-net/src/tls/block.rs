//! Memory that records are read into and handed out from, the thread's: used again once all that was cut from it is gone.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};

use bytes::BytesMut;

use super::link::BATCH;
use super::record::LONGEST;

/// Bytes that were read and not yet handed out, given back on drop.
pub(super) struct Block(BytesMut);

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    /// Blocks taken and not given back.
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

impl Block {
    /// Room for a whole batch, and the rest of a record that was begun before it.
    pub(super) fn take() -> Self {
        TAKEN.set(TAKEN.get() + 1);
        Self(SPARE.with_borrow_mut(|spare| {
            let free = spare.iter_mut().position(|block| block.try_reclaim(SIZE));
            free.map(|at| spare.swap_remove(at)).unwrap_or_else(|| BytesMut::with_capacity(SIZE))
        }))
    }

    /// Whether it may be kept while the rest of a record is awaited.
    pub(super) fn may_be_kept(&self) -> bool {
        TAKEN.get() <= IN_HAND
    }
}

impl Deref for Block {
    type Target = BytesMut;

    fn deref(&self) -> &BytesMut {
        &self.0
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.0
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut block = std::mem::take(&mut self.0);
        block.clear();
        // The thread may be ending, and its memory with it.
        let _ = TAKEN.try_with(|taken| taken.set(taken.get().saturating_sub(1)));
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < KEPT {
                spare.push(block);
            }
        });
    }
}

const SIZE: usize = (BATCH + 1) * LONGEST;
/// Most that a thread keeps, those included from which something is still in use: large blocks are dear to the allocator, which
/// takes them from the system page by page and gives them back each time.
const KEPT: usize = 32;
/// Blocks of a thread that wait for the rest of a record: 5 MiB. A peer that sends halves of records on many connections gets
/// no more memory than those halves.
const IN_HAND: usize = 32;

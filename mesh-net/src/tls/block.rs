//! Memory that records are read into and handed out from, the thread's: used again once all that was cut from it is gone.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

use bytes::BytesMut;

use super::budget::{BATCH, LARGE};
use super::record::LONGEST;

/// Bytes that were read and not yet handed out, given back on drop.
pub(super) struct Block {
    bytes: BytesMut,
    records: usize,
}

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static LARGE_SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    /// Blocks taken and not given back.
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

impl Block {
    /// Room for a batch of so many records or more, and the rest of a record that was begun before it.
    pub(super) fn take(records: usize) -> Self {
        TAKEN.set(TAKEN.get() + 1);
        let records = if records > BATCH { LARGE } else { BATCH };
        let (size, (spare, _)) = ((records + 1) * LONGEST, spare(records));
        let bytes = spare.with_borrow_mut(|spare| {
            let free = spare.iter_mut().position(|block| block.try_reclaim(size));
            free.map(|at| spare.swap_remove(at)).unwrap_or_else(|| BytesMut::with_capacity(size))
        });
        Self { bytes, records }
    }

    /// The batch that it has room for.
    pub(super) fn records(&self) -> usize {
        self.records
    }

    /// Whether it may be kept while the rest of a record is awaited.
    pub(super) fn may_be_kept(&self) -> bool {
        TAKEN.get() <= IN_HAND
    }
}

impl Deref for Block {
    type Target = BytesMut;

    fn deref(&self) -> &BytesMut {
        &self.bytes
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut block = std::mem::take(&mut self.bytes);
        let (spare, kept) = spare(self.records);
        block.clear();
        // The thread may be ending, and its memory with it.
        let _ = TAKEN.try_with(|taken| taken.set(taken.get().saturating_sub(1)));
        let _ = spare.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < kept {
                spare.push(block);
            }
        });
    }
}

/// Where blocks for so many records are kept, and how many.
fn spare(records: usize) -> (&'static LocalKey<RefCell<Vec<BytesMut>>>, usize) {
    if records > BATCH { (&LARGE_SPARE, KEPT / (LARGE / BATCH)) } else { (&SPARE, KEPT) }
}

/// Most that a thread keeps, and as many bytes in large ones, those included from which something is still in use: large blocks are dear to the allocator, which
/// takes them from the system page by page and gives them back each time.
const KEPT: usize = 32;
/// Blocks of a thread that wait for the rest of a record: 5 MiB. A peer that sends halves of records on many connections gets
/// no more memory than those halves.
const IN_HAND: usize = 32;

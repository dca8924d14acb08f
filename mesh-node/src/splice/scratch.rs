//! Memory that a worker lends to whichever of its connections has bytes in hand.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};

/// Most bytes moved in one go: large enough that system calls stop mattering, small enough that what is in hand stays in a
/// core's own cache (256 KiB carried 7 % less over tunnels than 64 or 128; redo with
/// `cargo xtask bench --only throughput`) and that a busy connection yields to its neighbours.
pub(super) const CHUNK: usize = 8 * (16 << 10) - FRAME_HEADER;

/// With its frame header (RFC 9113, section 4.1) a chunk fills eight TLS records to the last byte.
const FRAME_HEADER: usize = 9;

/// Memory set aside at once for bytes on their way into tunnels; chunks are cut from it without copying.
const BLOCK: usize = 4 * CHUNK;

thread_local! {
    static PLAIN: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static BLOCKS: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Runs `fill` on borrowed memory and gives the filled part away, or returns what `fill` failed with.
pub(super) fn fill<E>(
    most: usize,
    fill: impl FnOnce(&mut bytes::buf::Limit<&mut BytesMut>) -> Result<usize, E>,
) -> Result<Bytes, E> {
    BLOCKS.with_borrow_mut(|block| {
        let most = most.min(CHUNK);
        if block.capacity() - block.len() < most {
            // Reuses the block when every chunk cut from it is gone; else the old one lives on until they are.
            block.reserve(BLOCK);
        }
        let read = fill(&mut bytes::BufMut::limit(&mut *block, most))?;
        debug_assert_eq!(read, block.len());
        Ok(block.split().freeze())
    })
}

/// A buffer of [`CHUNK`] bytes, given back on drop.
pub(super) struct Scratch(Option<Box<[u8]>>);

/// Most buffers kept by a worker; more are made when more connections have bytes in hand at once, and freed after.
const KEPT: usize = 4;

impl Scratch {
    pub(super) fn take() -> Self {
        let kept = PLAIN.with_borrow_mut(Vec::pop);
        Self(Some(kept.unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice())))
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        self.0.as_mut().expect("taken only by drop")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(buffer) = self.0.take() {
            // The thread may be ending, and its memory with it.
            let _ = PLAIN.try_with(|kept| {
                let mut kept = kept.borrow_mut();
                if kept.len() < KEPT {
                    kept.push(buffer);
                }
            });
        }
    }
}

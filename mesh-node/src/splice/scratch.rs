//! Memory that a worker lends to whichever of its connections has bytes in hand.

use std::cell::RefCell;

/// Most bytes moved in one go: large enough that system calls stop mattering, small enough that what is in hand stays in a
/// core's own cache (redo with `cargo xtask bench --only throughput`) and that a busy connection yields to its neighbours.
pub(super) const CHUNK: usize = 128 << 10;

thread_local! {
    static PLAIN: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
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

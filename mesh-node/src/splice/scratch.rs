//! Memory that a worker lends to whichever of its connections has bytes in hand.

use std::cell::RefCell;

use mesh_net::tls::budget::Leave;

/// Most bytes moved in one go: large enough that system calls stop mattering, small enough that what is in hand stays in a
/// core's own cache (redo with `cargo xtask bench --only throughput`) and that a busy connection yields to its neighbours.
pub(super) const CHUNK: usize = 128 << 10;

thread_local! {
    static PLAIN: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of [`CHUNK`] bytes, given back on drop; of [`SMALL`], where the pod has too many of these in hand already.
pub(super) struct Scratch {
    buffer: Option<Box<[u8]>>,
    leave: Option<Leave>,
}

const SMALL: usize = 16 << 10;

/// Most buffers kept by a worker; more are made when more connections have bytes in hand at once, and freed after.
const KEPT: usize = 4;

impl Scratch {
    pub(super) fn take() -> Self {
        let leave = Leave::take();
        let kept = leave.as_ref().and_then(|_| PLAIN.with_borrow_mut(Vec::pop));
        let size = if leave.is_some() { CHUNK } else { SMALL };
        Self { buffer: Some(kept.unwrap_or_else(|| vec![0; size].into_boxed_slice())), leave }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        self.buffer.as_mut().expect("taken only by drop")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let (Some(buffer), Some(_)) = (self.buffer.take(), &self.leave) {
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

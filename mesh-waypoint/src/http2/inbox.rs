//! Data of a stream that nobody has taken: no more memory is held for it than windows allow, however small the pieces in which
//! it comes and however much else comes with them.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Bytes in the order in which they came.
#[derive(Default)]
pub(super) struct Inbox {
    /// Slices of what one read brought, that of number `read`.
    slices: VecDeque<Bytes>,
    read: u64,
    /// What came behind those: copies, since a byte that is a slice holds all with which it came.
    copied: BytesMut,
}

/// Bytes below which a slice costs more than a copy.
const SMALL: usize = 1 << 10;

impl Inbox {
    /// Adds what the read of that number brought.
    pub(super) fn put(&mut self, bytes: Bytes, read: u64) {
        if self.is_empty() {
            self.read = read;
            self.slices.push_back(bytes);
        } else if self.copied.is_empty() && self.read == read && bytes.len() >= SMALL {
            self.slices.push_back(bytes);
        } else {
            self.copied.extend_from_slice(&bytes);
        }
    }

    pub(super) fn take(&mut self) -> Option<Bytes> {
        let copied = || (!self.copied.is_empty()).then(|| std::mem::take(&mut self.copied).freeze());
        self.slices.pop_front().or_else(copied)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces() == 0
    }

    /// How often something may be taken.
    pub(super) fn pieces(&self) -> usize {
        self.slices.len() + usize::from(!self.copied.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_that_come_one_by_one_hold_little() {
        let mut inbox = Inbox::default();
        let all: Vec<Bytes> = (0..1000_u64)
            .map(|read| {
                let whole = Bytes::from(vec![0; 100_000]);
                inbox.put(whole.slice(..1), read);
                whole
            })
            .collect();
        assert_eq!(inbox.pieces(), 2);
        // The first is a slice; nobody else holds what the others came with.
        assert_eq!(all.iter().filter(|whole| !whole.is_unique()).count(), 1);
    }

    proptest! {
        #[test]
        fn what_is_put_is_taken_in_order(
            steps in prop::collection::vec((any::<bool>(), any::<u8>(), 1..3000_usize, 0..3_u64), 0..40),
        ) {
            let (mut inbox, mut put, mut taken, mut now) = (Inbox::default(), Vec::new(), Vec::new(), 0);
            for (takes, byte, length, later) in steps {
                now += later;
                if takes {
                    taken.extend(inbox.take().unwrap_or_default());
                }
                put.extend(vec![byte; length]);
                inbox.put(vec![byte; length].into(), now);
            }
            while let Some(some) = inbox.take() {
                taken.extend(some);
            }
            prop_assert!(inbox.is_empty() && taken == put);
        }
    }
}

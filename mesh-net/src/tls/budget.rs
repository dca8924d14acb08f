//! How much of a thread's memory connections have in hand while somebody does not take it: a batch of records for a few of them, a single
//! record for each of the others. Who those few are is counted by owner, so that one pod's thousand slow readers leave its neighbours'
//! connections what they need.
//!
//! Whose work a thread does, its caller says ([`owned_by`]). Work that nobody owns is counted together.

use std::cell::{Cell, RefCell};

/// Batches that one owner's connections may have in hand on a thread, 4 MiB; twice as many if nobody owns them.
const OWN: usize = 32;
/// Batches that all connections of a thread may, 17 MiB.
const ALL: usize = 128;

thread_local! {
    static OWNER: Cell<u32> = const { Cell::new(NOBODY) };
    /// Who has how many; nobody who has none. Few have, so a list is as good as a table.
    static HELD: RefCell<Vec<(u32, usize)>> = const { RefCell::new(Vec::new()) };
}

const NOBODY: u32 = 0;

/// Does work for `owner`, a number above zero.
pub fn owned_by<T>(owner: u32, work: impl FnOnce() -> T) -> T {
    struct Before(u32);
    impl Drop for Before {
        fn drop(&mut self) {
            // The thread may be ending.
            let _ = OWNER.try_with(|owner| owner.set(self.0));
        }
    }
    let _before = Before(OWNER.replace(owner));
    work()
}

/// Leave to have a batch in hand, until it is dropped.
#[derive(Debug)]
pub struct Leave(u32);

impl Leave {
    /// `None`: there are too many.
    pub fn take() -> Option<Self> {
        let owner = OWNER.get();
        HELD.with_borrow_mut(|held| {
            if !is_left(held, owner) {
                return None;
            }
            match held.iter_mut().find(|(who, _)| *who == owner) {
                Some((_, count)) => *count += 1,
                None => held.push((owner, 1)),
            }
            Some(Self(owner))
        })
    }

    /// Whether there is one for whom this thread works.
    pub(crate) fn is_left() -> bool {
        HELD.with_borrow(|held| is_left(held, OWNER.get()))
    }
}

fn is_left(held: &[(u32, usize)], owner: u32) -> bool {
    let own = held.iter().find(|(who, _)| *who == owner).map_or(0, |(_, count)| *count);
    let most = if owner == NOBODY { 2 * OWN } else { OWN };
    own < most && held.iter().map(|(_, count)| count).sum::<usize>() < ALL
}

impl Drop for Leave {
    fn drop(&mut self) {
        // The thread may be ending.
        let _ = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(at) = held.iter().position(|(who, _)| *who == self.0) {
                held[at].1 -= 1;
                if held[at].1 == 0 {
                    held.swap_remove(at);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_leaves_the_others_their_share_and_all_together_have_a_limit() {
        let take = |owner: u32, count: usize| -> Vec<Leave> {
            owned_by(owner, || std::iter::repeat_with(Leave::take).take(count).flatten().collect())
        };
        let greedy = take(1, 1000);
        assert_eq!(greedy.len(), OWN);
        assert!(!owned_by(1, Leave::is_left) && owned_by(2, Leave::is_left));
        let nobodys = take(NOBODY, 1000);
        assert_eq!(nobodys.len(), 2 * OWN);
        let modest = take(2, 1000);
        assert_eq!(modest.len(), ALL - 3 * OWN);
        assert!(take(3, 1).is_empty());
        drop(greedy);
        assert_eq!(take(3, 1000).len(), OWN);
        assert_eq!(owned_by(2, || owned_by(3, Leave::take).map(|leave| leave.0)), Some(3));
        drop((nobodys, modest));
        assert!(HELD.with_borrow(Vec::is_empty), "nothing is left of them");
    }

    #[test]
    fn work_that_fails_is_nobodys_afterwards() {
        let failed = std::panic::catch_unwind(|| owned_by(1, || panic!("a defect")));
        assert!(failed.is_err() && OWNER.get() == NOBODY);
    }
}

//! How much of a thread's memory connections have in hand while somebody does not take it: a batch of records for a few of them, a single
//! record for each of the others. Who those few are is counted by owner, so that one pod's thousand slow readers leave its neighbours'
//! connections what they need.
//!
//! Whose work a thread does, its caller says ([`owned_by`]). Work that nobody owns is counted together.
//!
//! While one owner has the thread to itself ([`alone`]) a batch is four times as large: nobody waits until it is through, and fewer system calls
//! and wake-ups carry a sixth to a quarter more (redo with `cargo xtask bench --only throughput`). Half of what an owner may have in hand
//! can be such.

use std::cell::{Cell, RefCell};

/// Records of a batch, 128 KiB: what is in hand should stay in a core's own cache, and others wait for their turn.
pub(super) const BATCH: usize = 8;
/// Records of a batch while nobody else wants the thread, 512 KiB.
pub(super) const LARGE: usize = 32;

/// Batches that one owner's connections may have in hand on a thread, 4 MiB; twice as many if nobody owns them.
const OWN: usize = 32;
/// Batches that all connections of a thread may, 17 MiB.
const ALL: usize = 128;

thread_local! {
    static OWNER: Cell<u32> = const { Cell::new(NOBODY) };
    static ALONE: Cell<bool> = const { Cell::new(false) };
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

/// Says whether whoever this thread works for from now on has it to itself. Nobody has before that is said.
pub fn alone(is: bool) {
    ALONE.set(is);
}

/// Leave to have a batch in hand, until it is dropped.
#[derive(Debug)]
pub struct Leave {
    owner: u32,
    batches: usize,
}

impl Leave {
    /// For a batch of [`BATCH`] records. `None`: there are too many.
    pub fn take() -> Option<Self> {
        Self::of(1)
    }

    /// For the largest batch that may be had: see [`Leave::records`].
    pub(crate) fn largest() -> Option<Self> {
        Self::of(HELD.with_borrow(|held| left(held, OWNER.get())))
    }

    fn of(batches: usize) -> Option<Self> {
        let owner = OWNER.get();
        HELD.with_borrow_mut(|held| {
            if left(held, owner) < batches.max(1) {
                return None;
            }
            match held.iter_mut().find(|(who, _)| *who == owner) {
                Some((_, count)) => *count += batches,
                None => held.push((owner, batches)),
            }
            Some(Self { owner, batches })
        })
    }

    /// How many records it is for: [`BATCH`] or [`LARGE`].
    pub(super) fn records(&self) -> usize {
        self.batches * BATCH
    }

    /// How many records could be had in hand by whom this thread works for: 1, [`BATCH`] or [`LARGE`].
    pub(super) fn left() -> usize {
        (HELD.with_borrow(|held| left(held, OWNER.get())) * BATCH).max(1)
    }
}

/// Batches that `owner` may take in one: none, one, or what makes a large one.
fn left(held: &[(u32, usize)], owner: u32) -> usize {
    let own = held.iter().find(|(who, _)| *who == owner).map_or(0, |(_, count)| *count);
    let all = held.iter().map(|(_, count)| count).sum::<usize>();
    let most = if owner == NOBODY { 2 * OWN } else { OWN };
    let large = LARGE / BATCH;
    if ALONE.get() && own + large <= most / 2 && all + large <= ALL / 2 {
        large
    } else {
        usize::from(own < most && all < ALL)
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        // The thread may be ending.
        let _ = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(at) = held.iter().position(|(who, _)| *who == self.owner) {
                held[at].1 -= self.batches;
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
        assert_eq!((owned_by(1, Leave::left), owned_by(2, Leave::left)), (1, BATCH));
        let nobodys = take(NOBODY, 1000);
        assert_eq!(nobodys.len(), 2 * OWN);
        let modest = take(2, 1000);
        assert_eq!(modest.len(), ALL - 3 * OWN);
        assert!(take(3, 1).is_empty());
        drop(greedy);
        assert_eq!(take(3, 1000).len(), OWN);
        assert_eq!(owned_by(2, || owned_by(3, Leave::take).map(|leave| leave.owner)), Some(3));
        drop((nobodys, modest));
        assert!(HELD.with_borrow(Vec::is_empty), "nothing is left of them");
    }

    #[test]
    fn half_of_what_an_owner_may_have_is_in_large_batches_while_it_is_alone() {
        let batches = |leave: &Leave| leave.records() / BATCH;
        let (of_one, of_another) = owned_by(1, || {
            alone(true);
            let large: Vec<_> = std::iter::repeat_with(Leave::largest).take(1000).flatten().collect();
            alone(false);
            (large, owned_by(2, Leave::largest))
        });
        assert_eq!(of_one.iter().map(batches).collect::<Vec<_>>(), [vec![4; OWN / 8], vec![1; OWN / 2]].concat());
        assert_eq!(of_another.as_ref().map(batches), Some(1), "others wait");
        drop(of_one);
        assert_eq!(owned_by(1, Leave::left), BATCH);
        alone(true);
        assert_eq!((owned_by(1, Leave::left), Leave::left()), (LARGE, LARGE));
        assert_eq!(owned_by(1, Leave::take).as_ref().map(batches), Some(1));
        alone(false);
        drop(of_another);
        assert!(HELD.with_borrow(Vec::is_empty), "nothing is left of them");
    }

    #[test]
    fn work_that_fails_is_nobodys_afterwards() {
        let failed = std::panic::catch_unwind(|| owned_by(1, || panic!("a defect")));
        assert!(failed.is_err() && OWNER.get() == NOBODY);
    }
}

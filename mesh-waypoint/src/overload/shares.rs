//! A bound, and who may have how much of it.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Shed;

/// What clients have of one thing. While there is plenty everybody gets more; beyond, who has its fair share gets none.
#[derive(Debug)]
pub(super) struct Shares {
    bound: usize,
    all: AtomicUsize,
    /// Clients that have some.
    clients: AtomicUsize,
}

/// What one client has.
#[derive(Debug, Default)]
pub(super) struct Share(AtomicUsize);

impl Shares {
    pub(super) fn new(bound: usize) -> Self {
        Self { bound, all: AtomicUsize::new(0), clients: AtomicUsize::new(0) }
    }

    /// One more for a client. Only the worker takes; anybody may give back.
    ///
    /// # Errors
    /// There is none for this client.
    pub(super) fn take(&self, own: &Share) -> Result<(), Shed> {
        let (all, has) = (self.all(), own.0.load(Ordering::Relaxed));
        if all >= self.bound / 2 {
            let clients = self.clients.load(Ordering::Relaxed) + usize::from(has == 0);
            // Who has nothing may always have one.
            if has > 0 && has >= self.bound / clients {
                return Err(Shed::Share);
            }
            if all >= self.bound.saturating_mul(2) {
                return Err(Shed::Bound);
            }
        }
        self.all.fetch_add(1, Ordering::Relaxed);
        if own.0.fetch_add(1, Ordering::Relaxed) == 0 {
            self.clients.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn give_back(&self, own: &Share) {
        self.all.fetch_sub(1, Ordering::Relaxed);
        if own.0.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.clients.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn all(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }

    pub(super) fn bound(&self) -> usize {
        self.bound
    }

    /// Whether everybody may have more.
    pub(super) fn has_plenty(&self) -> bool {
        self.all() < self.bound.div_ceil(2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take(shares: &Shares, own: &Share, most: usize) -> (usize, Option<Shed>) {
        for taken in 0..most {
            if let Err(shed) = shares.take(own) {
                return (taken, Some(shed));
            }
        }
        (most, None)
    }

    #[test]
    fn the_greedy_are_refused_and_others_served() {
        let shares = Shares::new(100);
        let [greedy, modest, third] = [(); 3].map(|()| Share::default());
        assert_eq!(take(&shares, &greedy, 1000), (100, Some(Shed::Share)), "alone it may have all");
        assert_eq!(take(&shares, &modest, 10), (10, None), "who comes later is served");
        assert_eq!(take(&shares, &greedy, 1), (0, Some(Shed::Share)));
        assert_eq!(take(&shares, &modest, 1000), (40, Some(Shed::Share)), "up to half, as it is one of two");
        assert_eq!(take(&shares, &third, 1000), (33, Some(Shed::Share)));
        for _ in 0..100 {
            shares.give_back(&greedy);
        }
        assert_eq!(take(&shares, &third, 1000), (17, Some(Shed::Share)), "who has nothing is not counted");
    }

    #[test]
    fn a_crowd_of_modest_clients_is_bounded() {
        let shares = Shares::new(10);
        let clients: Vec<Share> = (0..30).map(|_| Share::default()).collect();
        let taken: Vec<_> = clients.iter().map(|own| shares.take(own)).collect();
        assert_eq!(taken.iter().filter(|taken| taken.is_ok()).count(), 20);
        assert!(taken[20..].iter().all(|taken| *taken == Err(Shed::Bound)));
    }

    proptest! {
        #[test]
        fn all_is_counted_and_twice_the_bound_is_the_end(
            bound in 1..20_usize, steps in prop::collection::vec((0..5_usize, any::<bool>()), 0..300),
        ) {
            let shares = Shares::new(bound);
            let clients = [(); 5].map(|()| Share::default());
            let mut has = [0_usize; 5];
            for (client, takes) in steps {
                match takes {
                    true => has[client] += usize::from(shares.take(&clients[client]).is_ok()),
                    false if has[client] > 0 => {
                        shares.give_back(&clients[client]);
                        has[client] -= 1;
                    }
                    false => {}
                }
                prop_assert_eq!(shares.all(), has.iter().sum::<usize>());
                prop_assert_eq!(shares.clients.load(Ordering::Relaxed), has.iter().filter(|has| **has > 0).count());
                prop_assert!(shares.all() <= 2 * bound);
                prop_assert!(has.iter().all(|has| *has <= bound));
            }
        }
    }
}

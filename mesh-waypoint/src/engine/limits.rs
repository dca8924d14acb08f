//! Limits on what is under way to a service at once, by its DestinationRule's connection pool.
//!
//! Counted for the waypoint, not for a worker: a limit of one is one. Limits are given with each question, so that a changed rule
//! holds for what comes next and ends nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::l7::destination::{Pool, RetryBudget};
use thiserror::Error;

use super::experience::Target;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limited {
    /// Open, or being opened.
    Connections,
    /// Requests that wait for a connection; those for which one is ready do not count.
    Pending,
    /// Requests that have a connection, HTTP/1.1's as well.
    Requests,
    /// Retries under way. One over the limit is not made: the first answer stands.
    Retries,
}

/// There are as many as there may be. The answer is 503 at once, and is not retried by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("upstream connect error or disconnect/reset before headers. reset reason: overflow")]
pub struct Overflow(pub Limited);

/// Counts of all targets.
#[derive(Debug, Default)]
pub struct Breakers(Mutex<HashMap<Target, Arc<Breaker>>>);

impl Breakers {
    pub fn of(&self, target: &Target) -> Arc<Breaker> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get(target) {
            Some(breaker) => breaker.clone(),
            None => all.entry(target.clone()).or_default().clone(),
        }
    }

    /// Forgets targets that are gone; what is under way to them goes on.
    pub fn retain(&self, is_there: impl Fn(&Target) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|target, _| is_there(target));
    }
}

/// Counts of one target.
#[derive(Debug, Default)]
pub struct Breaker {
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
}

impl Breaker {
    /// Counts one more for as long as what is returned lives.
    ///
    /// # Errors
    /// There is no room.
    pub fn take(self: &Arc<Self>, what: Limited, pool: &Pool) -> Result<Taken, Overflow> {
        let most = match what {
            Limited::Connections => pool.max_connections,
            Limited::Pending => pool.max_pending,
            Limited::Requests => pool.max_requests,
            Limited::Retries => pool.retry_budget.map(|budget| self.within(budget)).or(pool.max_retries),
        };
        let more = |count: u32| count.checked_add(1).filter(|count| most.is_none_or(|most| *count <= most));
        // Nothing else is published by a count.
        let counted = self.count(what).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.map(|_| Taken { breaker: self.clone(), what }).map_err(|_| Overflow(what))
    }

    /// Retries that may be under way now, as the reference counts: of what is under way and what waits, rounded down.
    fn within(&self, budget: RetryBudget) -> u32 {
        let all = u64::from(self.used(Limited::Requests)) + u64::from(self.used(Limited::Pending));
        let share = all * u64::from(budget.millipercent) / 100_000;
        u32::try_from(share).unwrap_or(u32::MAX).max(budget.least)
    }

    pub fn used(&self, what: Limited) -> u32 {
        self.count(what).load(Ordering::Relaxed)
    }

    fn count(&self, what: Limited) -> &AtomicU32 {
        match what {
            Limited::Connections => &self.connections,
            Limited::Pending => &self.pending,
            Limited::Requests => &self.requests,
            Limited::Retries => &self.retries,
        }
    }
}

/// One of those that are counted.
#[derive(Debug)]
pub struct Taken {
    breaker: Arc<Breaker>,
    what: Limited,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.breaker.count(self.what).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::workload::ServiceKey;
    use proptest::prelude::*;

    use super::*;

    const ALL: [Limited; 4] = [Limited::Connections, Limited::Pending, Limited::Requests, Limited::Retries];

    fn pool(most: Option<u32>) -> Pool {
        let (max_connections, max_pending, max_requests, max_retries) = (most, most, most, most);
        Pool { max_connections, max_pending, max_requests, max_retries, ..Pool::default() }
    }

    #[test]
    fn one_over_the_limit_overflows_until_another_ends() {
        for what in ALL {
            let breaker = Arc::new(Breaker::default());
            let first = breaker.take(what, &pool(Some(2))).expect("room for two");
            let second = breaker.take(what, &pool(Some(2))).expect("room for two");
            assert_eq!(breaker.take(what, &pool(Some(2))).err(), Some(Overflow(what)));
            // The others have room of their own.
            assert!(
                ALL.iter().filter(|other| **other != what).all(|other| breaker.take(*other, &pool(Some(1))).is_ok())
            );
            drop(first);
            assert!(breaker.take(what, &pool(Some(2))).is_ok());
            drop(second);
            assert_eq!(breaker.used(what), 0);
        }
    }

    #[test]
    fn no_limit_is_none_and_zero_is_no_room() {
        let breaker = Arc::new(Breaker::default());
        let many: Vec<_> = (0..1000).map(|_| breaker.take(Limited::Requests, &pool(None))).collect();
        assert!(many.iter().all(Result::is_ok));
        assert!(
            breaker.take(Limited::Requests, &pool(Some(1000))).is_err(),
            "a limit that comes later holds for the next"
        );
        assert!(breaker.take(Limited::Pending, &pool(Some(0))).is_err());
    }

    #[test]
    fn a_budget_lets_retries_grow_with_what_is_under_way() {
        let pool = |millipercent: u32, least: u32| Pool {
            max_retries: Some(1),
            retry_budget: Some(RetryBudget { millipercent, least }),
            ..Pool::default()
        };
        for (requests, waiting, millipercent, least, retries) in [
            (0, 0, 20_000, 3, 3),
            (14, 5, 20_000, 3, 3),
            (15, 5, 20_000, 3, 4),
            (100, 0, 12_500, 0, 12),
            (9, 0, 0, 0, 0),
        ] {
            let breaker = Arc::new(Breaker::default());
            let none = Pool::default();
            let _held: Vec<_> = std::iter::repeat_n(Limited::Requests, requests)
                .chain(std::iter::repeat_n(Limited::Pending, waiting))
                .map(|what| breaker.take(what, &none))
                .collect();
            let pool = pool(millipercent, least);
            let taken: Vec<_> = std::iter::from_fn(|| breaker.take(Limited::Retries, &pool).ok()).collect();
            assert_eq!(taken.len(), retries, "{requests} and {waiting} at {millipercent}, {least} at least");
        }
    }

    #[test]
    fn a_subset_has_counts_of_its_own() {
        let service = ServiceKey { namespace: "shop".into(), hostname: "web".into() };
        let of = |subset: Option<&str>| Target { service: service.clone(), port: 80, subset: subset.map(Into::into) };
        let breakers = Breakers::default();
        let taken = breakers.of(&of(None)).take(Limited::Requests, &pool(Some(1))).expect("room for one");
        assert!(breakers.of(&of(None)).take(Limited::Requests, &pool(Some(1))).is_err());
        assert!(breakers.of(&of(Some("v2"))).take(Limited::Requests, &pool(Some(1))).is_ok());
        breakers.retain(|target| target.subset.is_some());
        drop(taken);
        assert_eq!(breakers.of(&of(None)).used(Limited::Requests), 0);
    }

    #[test]
    fn many_threads_never_have_more_than_the_limit() {
        let breaker = Arc::new(Breaker::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let taken = breaker.take(Limited::Requests, &pool(Some(3)));
                        assert!(breaker.used(Limited::Requests) <= 3);
                        drop(taken);
                    }
                });
            }
        });
        assert_eq!(breaker.used(Limited::Requests), 0);
    }

    proptest! {
        #[test]
        fn arbitrary_comings_and_goings_are_counted_right(steps in prop::collection::vec((any::<bool>(), 0usize..4, 0u32..5), 0..200)) {
            let breaker = Arc::new(Breaker::default());
            let mut held: [Vec<Taken>; 4] = Default::default();
            for (is_coming, which, most) in steps {
                if is_coming {
                    let room = (held[which].len() as u32) < most;
                    let taken = breaker.take(ALL[which], &pool(Some(most)));
                    prop_assert_eq!(taken.is_ok(), room);
                    held[which].extend(taken);
                } else {
                    held[which].pop();
                }
                prop_assert_eq!(breaker.used(ALL[which]) as usize, held[which].len());
            }
        }
    }
}

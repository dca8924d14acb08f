//! When an agent is told again: once it has acknowledged what it was told, and has rested for as long as that calls for.
//!
//! A change is told at once to an agent that has nothing else to do, and so is the next one if it does not come in a hurry. Where
//! changes gather while an agent rests, its next rest is twice as long, so that a response carries several of them: telling
//! costs the same whether it is one or a hundred. Where nothing gathers any more, rests become short again. So what one core spends
//! on telling is bounded however often the world changes. Pure.

use std::time::{Duration, Instant};

/// Shortest rest. Changes that are further apart than this are told one by one.
const MIN_REST: Duration = Duration::from_millis(10);
/// Longest rest: what a change waits for the sake of others.
const MAX_REST: Duration = Duration::from_millis(40);
/// Times of what it took to be acknowledged that are left free: that says how busy the agent, the way and this controller are.
const RESTS: u32 = 2;
/// An agent that does not acknowledge is told all the same after this long.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Pace {
    /// When it was told what it has not acknowledged yet.
    told: Option<Instant>,
    rests_until: Option<Instant>,
    rest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { told: None, rests_until: None, rest: MIN_REST }
    }
}

impl Pace {
    /// A response is on its way.
    pub(super) fn told(&mut self, now: Instant) {
        self.told.get_or_insert(now);
    }

    /// Everything that was told is acknowledged.
    pub(super) fn acknowledged(&mut self, now: Instant) {
        if let Some(told) = self.told.take() {
            let busy = (now.saturating_duration_since(told) * RESTS).min(MAX_REST);
            self.rests_until = Some(now + self.rest.max(busy));
        }
    }

    /// When it may be told again.
    pub(super) fn free_at(&self) -> Option<Instant> {
        match self.told {
            Some(told) => Some(told + PATIENCE),
            None => self.rests_until,
        }
    }

    /// That time has come; `gathered`: and there is something to tell.
    pub(super) fn rested(&mut self, gathered: bool) {
        self.rest = if gathered { (self.rest * 2).min(MAX_REST) } else { (self.rest / 2).max(MIN_REST) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Tells at `at` milliseconds what is acknowledged `took` later; yields for how long it rests then.
    fn rest(pace: &mut Pace, at: u32, took: u32) -> Duration {
        let now = Instant::now() + at * MS;
        pace.told(now);
        pace.acknowledged(now + took * MS);
        pace.free_at().unwrap() - now - took * MS
    }

    #[test]
    fn rests_grow_while_changes_gather_in_them_and_shrink_after() {
        let mut pace = Pace::default();
        assert_eq!(pace.free_at(), None);
        let rests: Vec<u128> = [true, true, true, false, false, false]
            .into_iter()
            .map(|gathered| {
                let rest = rest(&mut pace, 0, 1).as_millis();
                pace.rested(gathered);
                rest
            })
            .collect();
        assert_eq!(rests, [10, 20, 40, 40, 20, 10]);
    }

    #[test]
    fn what_is_slow_rests_in_proportion_and_not_for_long() {
        let mut pace = Pace::default();
        assert_eq!(rest(&mut pace, 0, 9), 18 * MS);
        assert_eq!(rest(&mut pace, 100, 200), MAX_REST);
    }

    #[test]
    fn an_agent_that_says_nothing_is_told_again_after_a_second() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        pace.told(start);
        pace.told(start + 5 * MS);
        assert_eq!(pace.free_at(), Some(start + PATIENCE));
        // An answer to what was never asked.
        let mut pace = Pace::default();
        pace.acknowledged(start);
        assert_eq!(pace.free_at(), None);
    }
}

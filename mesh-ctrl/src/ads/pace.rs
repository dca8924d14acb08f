//! When an agent is told again: once it has acknowledged what it was told, and has rested for as long as that calls for.
//!
//! A change is told at once to an agent that has nothing else to do. The time that it took to be acknowledged says how busy the
//! agent, the way and this controller are; several times that is left free, in which changes gather. So what one core spends on telling
//! is bounded however often the world changes and however many agents there are. Pure.

use std::time::{Duration, Instant};

/// Times of what it took that are left free.
const RESTS: u32 = 6;
/// Longest rest.
const MAX_REST: Duration = Duration::from_millis(40);
/// An agent that does not acknowledge is told all the same after this long.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When it was told what it has not acknowledged yet.
    told: Option<Instant>,
    rests_until: Option<Instant>,
}

impl Pace {
    /// A response is on its way.
    pub(super) fn told(&mut self, now: Instant) {
        self.told.get_or_insert(now);
    }

    /// Everything that was told is acknowledged.
    pub(super) fn acknowledged(&mut self, now: Instant) {
        if let Some(told) = self.told.take() {
            self.rests_until = Some(now + (now.saturating_duration_since(told) * RESTS).min(MAX_REST));
        }
    }

    /// When it may be told again.
    pub(super) fn free_at(&self) -> Option<Instant> {
        match self.told {
            Some(told) => Some(told + PATIENCE),
            None => self.rests_until,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn an_agent_rests_in_proportion_to_what_it_took_and_not_for_long() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert_eq!(pace.free_at(), None);
        pace.told(start);
        pace.acknowledged(start + 2 * MS);
        assert_eq!(pace.free_at(), Some(start + 14 * MS));
        pace.told(start + 20 * MS);
        pace.acknowledged(start + 220 * MS);
        assert_eq!(pace.free_at(), Some(start + 260 * MS));
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

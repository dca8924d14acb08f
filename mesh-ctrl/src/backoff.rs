//! Pauses between attempts: quick at first, so that an API server that restarts is found again within a second.

use std::time::Duration;

#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    pause: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { pause: FIRST }
    }
}

impl Backoff {
    /// The next pause, from half of it to the whole: many controllers do not come back in one moment.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LAST);
        pause.mul_f64(rand::random_range(0.5..=1.0))
    }
}

const FIRST: Duration = Duration::from_millis(200);
const LAST: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_quarter_of_a_minute() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..9).map(|_| backoff.next()).collect();
        for (step, pause) in pauses.iter().enumerate() {
            let whole = (FIRST * 2u32.pow(u32::try_from(step).unwrap())).min(LAST);
            assert!(*pause >= whole / 2 && *pause <= whole, "{pauses:?}");
        }
    }
}

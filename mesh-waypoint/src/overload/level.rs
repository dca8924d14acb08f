//! How near the process is to the end of its memory.

use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use super::memory;

/// See the module's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Calm,
    /// What is kept only to be quick is let go: connections on which nothing is under way, and what is read ahead of a reader.
    Tight,
    /// No new request is taken on.
    Critical,
}

/// How often it is looked.
const PAUSE: Duration = Duration::from_millis(250);
/// Of a hundred parts of the limit: where a level begins.
const TIGHT: u64 = 80;
const CRITICAL: u64 = 90;
/// And how far below it that level ends, so that it does not come and go.
const BACK: u64 = 5;

impl Level {
    /// The level behind this one, with so many bytes of `limit` in use.
    fn next(self, resident: u64, limit: u64) -> Self {
        let part = u64::try_from(u128::from(resident) * 100 / u128::from(limit.max(1))).unwrap_or(u64::MAX);
        let is_at = |begins: u64, level| part >= if self >= level { begins - BACK } else { begins };
        match (is_at(CRITICAL, Self::Critical), is_at(TIGHT, Self::Tight)) {
            (true, _) => Self::Critical,
            (false, true) => Self::Tight,
            (false, false) => Self::Calm,
        }
    }
}

/// Looks at the memory of this process in the background, for as long as somebody listens. `limit`: bytes that it may have; without one
/// it is never short of memory.
pub fn follow(limit: Option<u64>) -> watch::Receiver<Level> {
    let (tell, told) = watch::channel(Level::Calm);
    if let Some(limit) = limit {
        tokio::spawn(async move {
            let mut pause = tokio::time::interval(PAUSE);
            loop {
                tokio::select! {
                    _ = pause.tick() => {}
                    () = tell.closed() => return,
                }
                let Some(resident) = memory::resident() else { continue };
                let before = *tell.borrow();
                let now = before.next(resident, limit);
                if now > before {
                    warn!(resident, limit, level = ?now, "memory runs short");
                } else if now < before {
                    info!(resident, limit, level = ?now, "there is more memory again");
                }
                tell.send_if_modified(|level| std::mem::replace(level, now) != now);
            }
        });
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_begin_and_end_apart() {
        use Level::{Calm, Critical, Tight};
        let mut level = Calm;
        for (resident, then) in [
            (79, Calm),
            (80, Tight),
            (76, Tight),
            (89, Tight),
            (90, Critical),
            (86, Critical),
            (84, Tight),
            (75, Tight),
            (74, Calm),
            (500, Critical),
            (0, Calm),
        ] {
            level = level.next(resident << 20, 100 << 20);
            assert_eq!(level, then, "{resident}");
        }
        assert_eq!(Calm.next(u64::MAX, 1), Critical);
        assert_eq!(Calm.next(1, 0), Critical);
    }

    #[tokio::test]
    async fn a_limit_below_what_is_in_use_is_told() {
        let mut told = follow(Some(1 << 20));
        let critical = told.wait_for(|level| *level == Level::Critical);
        tokio::time::timeout(Duration::from_secs(20), critical).await.expect("it is never told").unwrap();
        assert_eq!(*follow(None).borrow(), Level::Calm);
    }
}

//! A worker that was busy just now looks for what comes next itself, in place of sleeping until the kernel wakes it. To be
//! woken costs tens of microseconds where a core must leave its rest for that, on either side: the one that wakes it, too.
//!
//! Looking takes time of a core that may have better to do, so it goes on only for as long as it tends to find something,
//! and other threads of the core are let past at every look. Whoever moves much gains nothing by it: then a worker sleeps.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Pause after the first look that found nothing; twice as long after each further one.
const SHORTEST: Duration = Duration::from_micros(500);
/// Longest pause.
const LONGEST: Duration = Duration::from_millis(64);
/// What takes so long moves much: 64 KiB and more.
const LONG: Duration = Duration::from_micros(50);
/// Pause after that.
const BULK: Duration = Duration::from_millis(1);
/// A core on which others ran so long while we let them past is theirs.
const THEIRS: Duration = Duration::from_micros(250);

/// Whether it is worth to look. Pure.
#[derive(Debug, Default)]
struct Worth {
    pause: Duration,
    until: Option<Instant>,
}

impl Worth {
    fn is_paused(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    fn found(&mut self) {
        self.pause /= 2;
    }

    fn found_nothing(&mut self, now: Instant) {
        self.rest(now, (self.pause * 2).clamp(SHORTEST, LONGEST));
    }

    /// Much was moved until `now`.
    fn moved_much(&mut self, now: Instant) {
        self.until = Some(self.until.map_or(now + BULK, |until| until.max(now + BULK)));
    }

    /// Others want the core.
    fn in_the_way(&mut self, now: Instant) {
        self.rest(now, LONGEST);
    }

    fn rest(&mut self, now: Instant, pause: Duration) {
        (self.pause, self.until) = (pause, Some(now + pause));
    }
}

thread_local! {
    static WORTH: RefCell<Worth> = RefCell::default();
    /// When this worker was busy last.
    static BUSY: Cell<Option<Instant>> = const { Cell::new(None) };
    static LOOKING: Cell<bool> = const { Cell::new(true) };
    static BEGIN: Arc<Notify> = Arc::default();
}

/// Says that something was done on this worker until `now`, for how long.
pub fn busy(now: Instant, took: Duration) {
    if took >= LONG {
        return WORTH.with_borrow_mut(|worth| worth.moved_much(now));
    }
    BUSY.set(Some(now));
    if !LOOKING.get() && !WORTH.with_borrow(|worth| worth.is_paused(now)) {
        LOOKING.set(true);
        BEGIN.with(|begin| begin.notify_one());
    }
}

/// Keeps a worker looking for up to `most` after it was busy; to be run by each for as long as it lives. What it takes goes to
/// `spent`, in nanoseconds.
pub async fn keep(most: Duration, spent: Arc<AtomicU64>) {
    if most.is_zero() {
        return;
    }
    let begin = BEGIN.with(Arc::clone);
    loop {
        LOOKING.set(false);
        begin.notified().await;
        let mut since = BUSY.get();
        let mut begun = Instant::now();
        loop {
            // With nothing else to run, the runtime asks the kernel and comes back at once.
            tokio::task::yield_now().await;
            let looked = Instant::now();
            let last = BUSY.get();
            if WORTH.with_borrow(|worth| worth.is_paused(looked)) {
                break;
            }
            if last != since {
                since = last;
                WORTH.with_borrow_mut(Worth::found);
                begun = looked;
                continue;
            }
            spent.fetch_add(u64::try_from((looked - begun).as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
            if last.is_none_or(|last| looked.saturating_duration_since(last) > most) {
                WORTH.with_borrow_mut(|worth| worth.found_nothing(looked));
                break;
            }
            thread::yield_now();
            let back = Instant::now();
            if back - looked > THEIRS {
                WORTH.with_borrow_mut(|worth| worth.in_the_way(back));
                break;
            }
            begun = back;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_nothing_looks_less_and_less_and_who_finds_something_more() {
        let (mut worth, now) = (Worth::default(), Instant::now());
        assert!(!worth.is_paused(now));
        worth.found_nothing(now);
        assert!(worth.is_paused(now + SHORTEST / 2) && !worth.is_paused(now + SHORTEST));
        for _ in 0..20 {
            worth.found_nothing(now);
        }
        assert!(worth.is_paused(now + LONGEST - SHORTEST) && !worth.is_paused(now + LONGEST));
        for _ in 0..7 {
            worth.found();
        }
        worth.found_nothing(now);
        assert!(worth.is_paused(now) && !worth.is_paused(now + 2 * SHORTEST));
        worth.moved_much(now);
        assert!(worth.is_paused(now + BULK / 2));
        worth.in_the_way(now);
        assert!(worth.is_paused(now + LONGEST - SHORTEST));
    }

    #[test]
    fn a_worker_looks_while_there_is_something_and_then_sleeps() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let most = Duration::from_millis(2);
        runtime.block_on(async {
            let spent: Arc<AtomicU64> = Arc::default();
            tokio::spawn(keep(most, spent.clone()));
            tokio::task::yield_now().await;
            assert!(!LOOKING.get(), "nothing was done yet");
            busy(Instant::now(), LONG);
            assert!(!LOOKING.get(), "much is moved");
            tokio::time::sleep(BULK).await;
            busy(Instant::now(), LONG / 10);
            assert!(LOOKING.get());
            tokio::time::sleep(4 * most).await;
            assert!(!LOOKING.get(), "nothing comes any more");
            let spent = Duration::from_nanos(spent.load(Ordering::Relaxed));
            assert!(!spent.is_zero() && spent < 4 * most, "{spent:?}");
        });
    }
}

//! Endpoints that fail and are left alone for a while. The time is an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mesh_core::traffic::OutlierDetection;
use mesh_core::workload::Uid;

/// An ejection is never longer than this, unless `base_ejection` is.
const LONGEST: Duration = Duration::from_secs(300);

/// The endpoints of one target that have failed lately.
#[derive(Debug, Default)]
pub(super) struct Outliers(HashMap<Uid, Host>);

#[derive(Debug, Default)]
struct Host {
    /// In a row, since the last success or ejection.
    failures: u32,
    /// Ejections in a row: each makes the next one longer.
    times: u32,
    /// When the last ejection ends or ended.
    until: Option<Instant>,
}

impl Outliers {
    /// Counts a failure of one of `endpoints` endpoints; `Some`: it is ejected for that long from now on.
    pub(super) fn failed(
        &mut self,
        uid: &Uid,
        rule: &OutlierDetection,
        endpoints: usize,
        now: Instant,
    ) -> Option<Duration> {
        let ejected = self.ejected(now).count();
        let host = self.0.entry(uid.clone()).or_default();
        host.failures += 1;
        let is_due = rule.consecutive_failures > 0 && host.failures >= rule.consecutive_failures;
        if !is_due || host.until.is_some_and(|until| now < until) {
            return None;
        }
        host.failures = 0;
        if ejected + 1 > endpoints * usize::from(rule.max_ejection_percent) / 100 {
            return None;
        }
        if let Some(until) = host.until {
            let quiet = now.duration_since(until).as_nanos() / rule.interval.as_nanos().max(1);
            host.times = host.times.saturating_sub(u32::try_from(quiet).unwrap_or(u32::MAX));
        }
        host.times = host.times.saturating_add(1);
        let time = rule.base_ejection.saturating_mul(host.times).min(LONGEST.max(rule.base_ejection));
        host.until = Some(now + time);
        Some(time)
    }

    pub(super) fn succeeded(&mut self, uid: &Uid) {
        if let Some(host) = self.0.get_mut(uid) {
            host.failures = 0;
            if host.until.is_none() {
                self.0.remove(uid);
            }
        }
    }

    pub(super) fn ejected(&self, now: Instant) -> impl Iterator<Item = Uid> + '_ {
        self.0.iter().filter(move |(_, host)| host.until.is_some_and(|until| now < until)).map(|(uid, _)| uid.clone())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: OutlierDetection = OutlierDetection {
        consecutive_failures: 3,
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejection_percent: 50,
        min_health_percent: 0,
    };

    fn uid(name: &str) -> Uid {
        Uid::pod("c", "shop", name)
    }

    fn fail(outliers: &mut Outliers, name: &str, times: u32, endpoints: usize, now: Instant) -> Option<u64> {
        (0..times).fold(None, |_, _| outliers.failed(&uid(name), &RULE, endpoints, now)).map(|d| d.as_secs())
    }

    #[test]
    fn the_nth_failure_in_a_row_ejects_at_once() {
        let (mut outliers, now) = (Outliers::default(), Instant::now());
        assert_eq!(fail(&mut outliers, "a", 2, 4, now), None);
        outliers.succeeded(&uid("a"));
        assert!(outliers.is_empty(), "an endpoint that is well costs no memory");
        assert_eq!(fail(&mut outliers, "a", 2, 4, now), None);
        assert_eq!(outliers.ejected(now).count(), 0);
        assert_eq!(fail(&mut outliers, "a", 1, 4, now), Some(30));
        assert_eq!(outliers.ejected(now).collect::<Vec<_>>(), [uid("a")]);
        assert_eq!(outliers.ejected(now + Duration::from_secs(30)).count(), 0);
    }

    #[test]
    fn no_more_than_the_share_is_ejected() {
        let now = Instant::now();
        for (endpoints, name, expect) in
            [(1, "of one, half is none", None), (2, "of two, one", Some(30)), (3, "of three, one", Some(30))]
        {
            let mut outliers = Outliers::default();
            assert_eq!(fail(&mut outliers, "a", 3, endpoints, now), expect, "{name}");
            assert_eq!(fail(&mut outliers, "b", 3, endpoints, now), None, "{name}, and no second");
        }
    }

    #[test]
    fn a_relapse_is_ejected_for_longer_and_quiet_intervals_are_forgiven() {
        let (mut outliers, mut now) = (Outliers::default(), Instant::now());
        for expect in [30, 60, 90] {
            assert_eq!(fail(&mut outliers, "a", 3, 4, now), Some(expect));
            assert_eq!(fail(&mut outliers, "a", 9, 4, now), None, "once is enough");
            now += Duration::from_secs(expect);
            outliers.succeeded(&uid("a"));
        }
        now += Duration::from_secs(20);
        assert_eq!(fail(&mut outliers, "a", 3, 4, now), Some(60), "three, less two quiet intervals, and one");
        for _ in 0..20 {
            now += Duration::from_secs(300);
            let rule = OutlierDetection { interval: Duration::from_secs(3600), ..RULE };
            let times: Vec<_> = (0..3).filter_map(|_| outliers.failed(&uid("a"), &rule, 4, now)).collect();
            assert!(times.len() == 1 && times[0] <= LONGEST, "{times:?}");
        }
    }

    #[test]
    fn zero_ejects_nobody() {
        let (mut outliers, rule) = (Outliers::default(), OutlierDetection { consecutive_failures: 0, ..RULE });
        assert!((0..99).all(|_| outliers.failed(&uid("a"), &rule, 9, Instant::now()).is_none()));
    }
}

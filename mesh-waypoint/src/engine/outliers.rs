//! Endpoints that fail and are left alone for a while, with the reference's arithmetic. The time is an argument.
//!
//! ```text
//!           the N-th error in a row, and the share allows it
//!   in use ------------------------------------------------> ejected, times + 1
//!     ^ |                                                       |
//!     | +--> each interval: times - 1                           | the first interval's end after
//!     +---------------------------------------------------------+ base x times, at most LONGEST
//! ```

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use mesh_core::l7::destination::Outliers as Rule;
use mesh_core::workload::Uid;

/// An ejection is never longer than this, unless `base_ejection` is.
const LONGEST: Duration = Duration::from_secs(300);

/// What became of a request at an endpoint, or of a connection to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered. For gRPC the status that its code stands for.
    Status(u16),
    /// A connection was opened.
    Connected,
    /// A connection could not be opened, or broke before the answer.
    Failed,
    /// It did not answer in time.
    TimedOut,
}

/// The endpoints of one set that have failed lately.
#[derive(Debug, Default)]
pub struct Outliers {
    hosts: HashMap<Uid, Host>,
    /// When the running interval ends; `None` before the first failure.
    next: Option<Instant>,
}

/// Counts are in a row.
#[derive(Debug, Default)]
struct Host {
    errors: u32,
    gateway_errors: u32,
    local_errors: u32,
    ejected: Option<Instant>,
    times: u32,
}

impl Outliers {
    /// Counts what became of a request at one of `endpoints` endpoints. `true`: it is ejected, from now on.
    pub fn record(&mut self, uid: &Uid, outcome: Outcome, rule: &Rule, endpoints: usize, now: Instant) -> bool {
        self.pass(rule, now);
        let active = self.active();
        let host = match self.hosts.get_mut(uid) {
            Some(host) => host,
            // An endpoint that is well costs no memory.
            None if !is_failure(outcome) => return false,
            None => self.hosts.entry(uid.clone()).or_default(),
        };
        let is_due = host.count(outcome, rule) && host.ejected.is_none();
        // Strict: a share that is less than one endpoint ejects nobody.
        let is_allowed = 100 * (active + 1) <= usize::from(rule.max_ejection_percent.min(100)) * endpoints;
        let is_ejected = is_due && is_allowed;
        if is_ejected {
            host.ejected = Some(now);
            if rule.base_ejection.saturating_mul(host.times) < longest(rule).saturating_add(rule.base_ejection) {
                host.times += 1;
            }
        }
        if self.next.is_none() {
            self.next = Some(now + interval(rule));
        }
        is_ejected
    }

    /// Those that are to get nothing.
    pub fn ejected(&mut self, rule: &Rule, now: Instant) -> HashSet<Uid> {
        self.pass(rule, now);
        self.hosts.iter().filter(|(_, host)| host.ejected.is_some()).map(|(uid, _)| uid.clone()).collect()
    }

    /// Forgets endpoints that are gone, whose ejections would count against the others.
    pub fn retain(&mut self, is_there: impl Fn(&Uid) -> bool) {
        self.hosts.retain(|uid, _| is_there(uid));
    }

    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    fn active(&self) -> usize {
        self.hosts.values().filter(|host| host.ejected.is_some()).count()
    }

    /// Does what was to be done at the end of each interval up to `now`.
    fn pass(&mut self, rule: &Rule, now: Instant) {
        let Some(mut next) = self.next else { return };
        while next <= now {
            if self.hosts.values().all(|host| host.ejected.is_none() && host.times == 0) {
                // Nothing changes any more: on to the interval that runs now.
                let left = interval(rule).as_nanos() - (now - next).as_nanos() % interval(rule).as_nanos();
                next = now + Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX));
                break;
            }
            self.hosts.values_mut().for_each(|host| host.pass(rule, next));
            next += interval(rule);
        }
        self.hosts.retain(|_, host| !host.is_well());
        self.next = (!self.hosts.is_empty()).then_some(next);
    }
}

fn is_failure(outcome: Outcome) -> bool {
    !matches!(outcome, Outcome::Connected | Outcome::Status(..500 | 600..))
}

fn longest(rule: &Rule) -> Duration {
    LONGEST.max(rule.base_ejection)
}

fn interval(rule: &Rule) -> Duration {
    rule.interval.max(Duration::from_millis(1))
}

impl Host {
    /// Whether this is the error that ejects. Which it is has to be the N-th, not one after it: an error that was not allowed to
    /// eject starts the count anew.
    fn count(&mut self, outcome: Outcome, rule: &Rule) -> bool {
        // Without a count of their own, failures of connections are what a gateway would answer.
        let status = match outcome {
            Outcome::Status(status) => status,
            Outcome::Connected => {
                self.local_errors = 0;
                return false;
            }
            Outcome::Failed | Outcome::TimedOut if rule.split_local => {
                return reaches(&mut self.local_errors, rule.consecutive_local);
            }
            Outcome::Failed => 503,
            Outcome::TimedOut => 504,
        };
        if !(500..600).contains(&status) {
            (self.errors, self.gateway_errors) = (0, 0);
            return false;
        }
        let is_gateway_due = match status {
            502..=504 => reaches(&mut self.gateway_errors, rule.consecutive_gateway),
            _ => {
                self.gateway_errors = 0;
                false
            }
        };
        reaches(&mut self.errors, rule.consecutive_5xx) || is_gateway_due
    }

    fn pass(&mut self, rule: &Rule, now: Instant) {
        match self.ejected {
            None => self.times = self.times.saturating_sub(1),
            Some(since) => {
                let time = rule.base_ejection.saturating_mul(self.times).min(longest(rule));
                if now.duration_since(since) >= time {
                    *self = Self { times: self.times, ..Self::default() };
                }
            }
        }
    }

    fn is_well(&self) -> bool {
        self.ejected.is_none() && [self.errors, self.gateway_errors, self.local_errors, self.times] == [0; 4]
    }
}

/// Counts one more. At the limit it starts anew; 0 is no limit.
fn reaches(count: &mut u32, limit: u32) -> bool {
    *count = count.saturating_add(1);
    let is_reached = limit > 0 && *count == limit;
    if is_reached {
        *count = 0;
    }
    is_reached
}

#[cfg(test)]
mod tests;

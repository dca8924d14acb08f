//! What happens, as a table.
//!
//! ```text
//! events   a:500 ok is a:200    a+ connected    a! failed    a? timed out    @30 that many seconds later
//! seen     the endpoints that are ejected, after each @ and at the end
//! ```

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

const RULE: Rule = Rule {
    consecutive_5xx: 3,
    consecutive_gateway: 0,
    split_local: false,
    consecutive_local: 0,
    interval: Duration::from_secs(10),
    base_ejection: Duration::from_secs(30),
    max_ejection_percent: 100,
    min_health_percent: 0,
};

fn uid(name: &str) -> Uid {
    Uid::pod("c", "shop", name)
}

fn check(rule: Rule, endpoints: usize, events: &str, expect: Expect) {
    let (mut outliers, start) = (Outliers::default(), Instant::now());
    let mut now = start;
    let mut seen = Vec::new();
    let mut look = |outliers: &mut Outliers, now: Instant| {
        let mut names: Vec<_> =
            outliers.ejected(&rule, now).iter().map(|uid| uid.0[uid.0.len() - 1..].to_owned()).collect();
        names.sort();
        seen.push(format!("{}: {}", (now - start).as_secs(), names.join(" ")).trim_end().to_owned());
    };
    for event in events.split_whitespace() {
        if let Some(seconds) = event.strip_prefix('@') {
            look(&mut outliers, now);
            now = start + Duration::from_secs(seconds.parse().expect("seconds"));
            continue;
        }
        let (name, what) = event.split_at(1);
        let outcome = match what {
            "+" => Outcome::Connected,
            "!" => Outcome::Failed,
            "?" => Outcome::TimedOut,
            status => Outcome::Status(status[1..].parse().expect("a status")),
        };
        outliers.record(&uid(name), outcome, &rule, endpoints, now);
    }
    look(&mut outliers, now);
    expect.assert_eq(&seen.join("; "));
}

#[test]
fn the_nth_error_in_a_row_ejects_at_once() {
    check(RULE, 4, "a:500 a:500", expect!["0:"]);
    check(RULE, 4, "a:500 a:500 a:500", expect!["0: a"]);
    check(RULE, 4, "a:500 a:500 a:200 a:500", expect!["0:"]);
    check(RULE, 4, "a:500 a:500 a:404 a:500", expect!["0:"]);
    check(RULE, 4, "a:500 b:500 a:503 b:200 a:599", expect!["0: a"]);
    check(RULE, 4, "a! a? a:500", expect!["0: a"]);
    check(RULE, 4, "a! a! a+ a!", expect!["0: a"]);
    check(Rule { consecutive_5xx: 0, ..RULE }, 4, "a! a! a! a:500 a:500 a:500", expect!["0:"]);
}

#[test]
fn gateway_errors_leave_500_out() {
    let rule = Rule { consecutive_gateway: 2, consecutive_5xx: 5, ..RULE };
    check(rule, 4, "a:502 a:504", expect!["0: a"]);
    check(rule, 4, "a:503 a:500 a:503", expect!["0:"]);
    check(rule, 4, "a! a?", expect!["0: a"]);
    check(rule, 4, "a:500 a:500 a:500 a:500", expect!["0:"]);
    check(rule, 4, "a:500 a:500 a:500 a:500 a:500", expect!["0: a"]);
}

#[test]
fn split_counts_failed_connections_alone() {
    let rule = Rule { split_local: true, consecutive_local: 2, ..RULE };
    check(rule, 4, "a! a?", expect!["0: a"]);
    check(rule, 4, "a! a+ a!", expect!["0:"]);
    check(rule, 4, "a! a:200 a!", expect!["0: a"]);
    check(rule, 4, "a:500 a:500 a! a:500", expect!["0: a"]);
    check(Rule { consecutive_local: 0, ..rule }, 4, "a! a! a! a! a!", expect!["0:"]);
}

#[test]
fn no_more_than_the_share_is_ejected() {
    let of = |percent| Rule { consecutive_5xx: 1, max_ejection_percent: percent, ..RULE };
    check(of(10), 9, "a:500 b:500", expect!["0:"]);
    check(of(10), 10, "a:500 b:500", expect!["0: a"]);
    check(of(50), 1, "a:500", expect!["0:"]);
    check(of(50), 2, "a:500 b:500", expect!["0: a"]);
    check(of(34), 3, "a:500 b:500", expect!["0: a"]);
    check(of(33), 3, "a:500 b:500", expect!["0:"]);
    check(of(100), 3, "a:500 b:500 c:500", expect!["0: a b c"]);
    check(of(0), 3, "a:500", expect!["0:"]);
    // One that was not allowed starts to count anew.
    let two = Rule { consecutive_5xx: 2, max_ejection_percent: 50, interval: Duration::from_secs(1), ..RULE };
    check(two, 2, "a:500 a:500 b:500 b:500 @60 b:500 @61 b:500", expect!["0: a; 60:; 61: b"]);
}

#[test]
fn an_ejection_ends_with_an_interval_and_the_next_is_longer() {
    check(RULE, 4, "a! a! a! @29 @30", expect!["0: a; 29: a; 30:"]);
    let rule = Rule { consecutive_5xx: 1, ..RULE };
    // Intervals end at 10, 20 ..: ejected at 5 for 30, which is over at 40.
    check(rule, 4, "b! @5 a! @39 @40", expect!["0: b; 5: a b; 39: a; 40:"]);
    // Twice in a row: 60 s.
    check(rule, 4, "a! @30 a! @89 @90", expect!["0: a; 30: a; 89: a; 90:"]);
    // One interval in good health makes up for one ejection.
    check(rule, 4, "a! @30 @41 a! @60 @79 @80", expect!["0: a; 30:; 41: a; 60: a; 79:; 80:"]);
}

#[test]
fn errors_while_ejected_change_nothing() {
    let rule = Rule { consecutive_5xx: 1, ..RULE };
    check(rule, 4, "a! a! a! a! @29 a! @30", expect!["0: a; 29: a; 30:"]);
}

#[test]
fn an_ejection_has_an_end() {
    let rule = Rule { consecutive_5xx: 1, interval: Duration::from_secs(400), ..RULE };
    let (mut outliers, mut now) = (Outliers::default(), Instant::now());
    for _ in 0..50 {
        assert!(outliers.record(&uid("a"), Outcome::Failed, &rule, 4, now));
        now += Duration::from_secs(400);
        assert!(outliers.ejected(&rule, now).is_empty());
    }
}

#[test]
fn endpoints_that_are_well_or_gone_cost_nothing() {
    let (mut outliers, mut now) = (Outliers::default(), Instant::now());
    outliers.record(&uid("a"), Outcome::Status(200), &RULE, 4, now);
    assert!(outliers.is_empty());
    outliers.record(&uid("a"), Outcome::Failed, &RULE, 4, now);
    outliers.record(&uid("a"), Outcome::Status(200), &RULE, 4, now);
    now += Duration::from_secs(100_000_000);
    assert!(outliers.ejected(&RULE, now).is_empty() && outliers.is_empty());
    outliers.record(&uid("a"), Outcome::Failed, &RULE, 4, now);
    outliers.retain(|_| false);
    assert!(outliers.is_empty());
}

proptest! {
    #[test]
    fn arbitrary_events_never_eject_more_than_the_share(
        events in prop::collection::vec((0usize..6, 0u16..700, 0u64..40), 0..120), percent in 0u8..=100, endpoints in 0usize..8,
    ) {
        let rule = Rule { consecutive_5xx: 2, consecutive_gateway: 1, max_ejection_percent: percent, ..RULE };
        let (mut outliers, mut now) = (Outliers::default(), Instant::now());
        for (host, status, seconds) in events {
            now += Duration::from_secs(seconds);
            outliers.record(&uid(&host.to_string()), Outcome::Status(status), &rule, endpoints, now);
            prop_assert!(outliers.ejected(&rule, now).len() * 100 <= usize::from(percent) * endpoints);
        }
    }
}

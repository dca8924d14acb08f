use mesh_core::l7::authorization::{Attribute, Condition, Operation, PathPattern, Rule};
use mesh_core::l7::text::TextMatch;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;

fn rule(by: &[Key], requests: u32, seconds: u64) -> RateLimit {
    RateLimit {
        name: "ns/limit".into(),
        dry_run: false,
        rules: Vec::new(),
        by: by.to_vec(),
        requests,
        per: Duration::from_secs(seconds),
        burst: None,
        max_keys: 100,
        headers: Headers::None,
    }
}

fn compile(rules: &[RateLimit]) -> RateLimits {
    RateLimits::compile(rules, &RateLimits::default(), &mut SmallRng::seed_from_u64(3))
}

/// A request by `account` to `path`, with a header `x`.
fn take(limits: &RateLimits, account: &str, path: &str, x: &str, now: Instant) -> Ruling {
    let identity = SpiffeId::new("td", "dev", account).expect("an identity");
    let address = IpAddr::from([10, 0, 0, 1]);
    let peer = Peer { identity: Some(&identity), address, destination: address, port: 80, sni: None };
    let fields: &[(&str, &str)] = if x.is_empty() { &[] } else { &[("x", x)] };
    let request = Request { method: "GET", host: "a", path, query: None, fields: &fields, authenticated: None };
    limits.for_connection(peer).take(&request, || now)
}

/// How many of `n` pass.
fn passed(limits: &RateLimits, account: &str, path: &str, x: &str, now: Instant, n: u32) -> usize {
    (0..n).filter(|_| take(limits, account, path, x, now).refused.is_none()).count()
}

#[test]
fn so_many_pass_and_more_come_evenly() {
    let (limits, start) = (compile(&[rule(&[], 3, 10)]), Instant::now());
    let at = |millis| passed(&limits, "web", "/", "", start + Duration::from_millis(millis), 9);
    assert_eq!(at(0), 3);
    assert_eq!(at(3333), 0);
    assert_eq!(at(3334), 1);
    assert_eq!(at(10_000), 2);
    assert_eq!(at(100_000), 3, "no more than fits in");
    assert_eq!(at(90_000), 0, "a clock that is behind brings nothing");
}

#[test]
fn a_burst_is_what_may_come_at_once() {
    let start = Instant::now();
    let limits = compile(&[RateLimit { burst: Some(1), ..rule(&[], 10, 1) }]);
    assert_eq!(passed(&limits, "web", "/", "", start, 5), 1);
    assert_eq!(passed(&limits, "web", "/", "", start + Duration::from_millis(100), 5), 1);
    let none = compile(&[rule(&[], 0, 1)]);
    assert_eq!(passed(&none, "web", "/", "", start + Duration::from_secs(9), 5), 0);
    let no_time = compile(&[rule(&[], 2, 0)]);
    assert_eq!(passed(&no_time, "web", "/", "", start, 5), 2);
}

#[test]
fn keys_have_buckets_of_their_own() {
    let now = Instant::now();
    let both = compile(&[rule(&[Key::Identity, Key::Header("x".into())], 1, 10)]);
    for (account, x, expect) in
        [("web", "1", 1), ("web", "2", 1), ("api", "1", 1), ("web", "1", 0), ("web", "", 1), ("web", "", 0)]
    {
        assert_eq!(passed(&both, account, "/", x, now, 1), expect, "{account} {x}");
    }
    let by_path = compile(&[rule(&[Key::Path], 1, 10)]);
    assert_eq!(passed(&by_path, "web", "/a", "", now, 2), 1);
    assert_eq!(passed(&by_path, "api", "/a", "", now, 2), 0);
    assert_eq!(passed(&by_path, "api", "/b", "", now, 2), 1);
    let by_pod = compile(&[rule(&[Key::SourceIp, Key::Namespace, Key::Method, Key::Host, Key::RemoteIp], 1, 10)]);
    assert_eq!(passed(&by_pod, "web", "/a", "", now, 2) + passed(&by_pod, "api", "/b", "", now, 2), 1);
}

#[test]
fn only_requests_that_are_meant_count() {
    let path = PathPattern::Text(TextMatch::Exact("/slow".into()));
    let to = vec![Operation { paths: vec![path], ..Operation::default() }];
    let rules = vec![Rule { to, ..Rule::default() }];
    let limits = compile(&[RateLimit { rules, ..rule(&[], 1, 10) }]);
    let now = Instant::now();
    assert_eq!(passed(&limits, "web", "/fast", "", now, 5), 5);
    assert_eq!(passed(&limits, "web", "/slow", "", now, 5), 1);
    assert_eq!(take(&limits, "web", "/fast", "", now), Ruling::default());
}

#[test]
fn the_answer_says_what_is_left_and_when_to_come_again() {
    let now = Instant::now();
    let tight = RateLimit { name: "ns/tight".into(), headers: Headers::Reference, ..rule(&[], 2, 3) };
    let limits = compile(&[RateLimit { headers: Headers::Standard, ..rule(&[], 9, 60) }, tight]);
    let fields = |ruling: &Ruling| {
        let fields = ruling.quota.expect("a quota").fields();
        fields.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join("; ")
    };
    let first = take(&limits, "web", "/", "", now);
    assert_eq!(fields(&first), "x-ratelimit-limit: 2; x-ratelimit-remaining: 1; x-ratelimit-reset: 2");
    take(&limits, "web", "/", "", now);
    let third = take(&limits, "web", "/", "", now);
    assert_eq!(third.refused, Some(Refused { rule: "ns/tight".into(), retry_after: 2 }));
    assert_eq!(fields(&third), "x-ratelimit-limit: 2; x-ratelimit-remaining: 0; x-ratelimit-reset: 3");
    let standard = compile(&[RateLimit { headers: Headers::Standard, ..rule(&[], 9, 60) }]);
    let one = take(&standard, "web", "/", "", now);
    assert_eq!(
        fields(&one),
        "ratelimit-limit: 9; ratelimit-policy: 9;w=60; ratelimit-remaining: 8; ratelimit-reset: 7"
    );
    assert_eq!(take(&compile(&[rule(&[], 1, 1)]), "web", "/", "", now).quota.expect("a quota").fields(), []);
}

#[test]
fn on_trial_it_is_only_told() {
    let limits = compile(&[RateLimit { dry_run: true, ..rule(&[], 1, 10) }]);
    let now = Instant::now();
    assert_eq!(take(&limits, "web", "/", "", now), Ruling::default());
    let ruling = take(&limits, "web", "/", "", now);
    assert_eq!((ruling.refused, ruling.recorded), (None, vec!["ns/limit".into()]));
}

#[test]
fn made_up_keys_take_no_more_room_and_those_in_use_stay() {
    let limits = compile(&[RateLimit { max_keys: 3, ..rule(&[Key::Header("x".into())], 1, 1000) }]);
    let now = Instant::now();
    assert_eq!(passed(&limits, "web", "/", "regular", now, 2), 1);
    for i in 0..1000 {
        take(&limits, "web", "/", &i.to_string(), now);
        assert_eq!(passed(&limits, "web", "/", "regular", now, 1), 0);
    }
    let buckets = limits.0[0].buckets.lock().expect("no panic");
    assert_eq!((buckets.by_key.len(), buckets.by_use.len()), (3, 3));
}

#[test]
fn a_rule_that_stays_keeps_its_buckets() {
    let (first, now) = (rule(&[], 1, 10), Instant::now());
    let before = compile(std::slice::from_ref(&first));
    assert_eq!(passed(&before, "web", "/", "", now, 2), 1);
    let mut rng = SmallRng::seed_from_u64(4);
    let other = RateLimit { name: "ns/other".into(), ..rule(&[], 5, 10) };
    let after = RateLimits::compile(&[other, first.clone()], &before, &mut rng);
    assert_eq!(passed(&after, "web", "/", "", now, 2), 0);
    let changed = RateLimits::compile(&[RateLimit { requests: 2, ..first }], &before, &mut rng);
    assert_eq!(passed(&changed, "web", "/", "", now, 9), 2);
}

proptest! {
    #[test]
    fn arbitrary_limits_never_panic_nor_let_more_pass(
        requests: u32, nanos: u64, burst in prop::option::of(0u32..20), steps in prop::collection::vec(0u64..u64::MAX / 64, 1..40),
    ) {
        let per = Duration::from_nanos(nanos);
        let limit = RateLimit { per, burst: Some(burst.unwrap_or(5)), ..rule(&[], requests, 0) };
        let limits = compile(std::slice::from_ref(&limit));
        let (start, mut now, mut count) = (Instant::now(), Instant::now(), 0u128);
        for step in steps {
            now += Duration::from_nanos(step);
            let ruling = take(&limits, "web", "/", "", now);
            ruling.quota.expect("a quota").fields();
            count += u128::from(ruling.refused.is_none());
        }
        let brought = (now - start).as_nanos() * u128::from(requests) / u128::from(nanos.max(1));
        prop_assert!(count <= u128::from(burst.unwrap_or(5)) + brought + 1);
    }
}

#[test]
fn of_limits_that_are_the_same_each_counts_for_itself() {
    let (twice, start) = ([rule(&[], 4, 60), rule(&[], 4, 60)], Instant::now());
    let limits = compile(&twice);
    assert_eq!(passed(&limits, "web", "/", "", start, 3), 3);
    let again = RateLimits::compile(&twice, &limits, &mut SmallRng::seed_from_u64(4));
    assert_eq!(passed(&again, "web", "/", "", start, 3), 1, "one is left in both");
}

#[test]
fn expressions_select_requests() {
    let condition = Condition {
        key: Attribute::RequestHeader("x".into()),
        values: vec![TextMatch::Regex("a+".into())],
        not_values: Vec::new(),
    };
    let rules = vec![Rule { when: vec![condition], ..Rule::default() }];
    let (limits, now) = (compile(&[RateLimit { rules, ..rule(&[], 0, 1) }]), Instant::now());
    assert_eq!(["", "aa", "ab", "b"].map(|x| passed(&limits, "web", "/", x, now, 1)), [1, 0, 1, 1]);
}

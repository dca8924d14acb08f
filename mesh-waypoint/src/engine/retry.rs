//! Whether a try is made again, after how long, and what the backend is told of it.

use std::time::Duration;

use http::{HeaderName, StatusCode};
use mesh_core::l7::route::{self, GrpcStatus, RetryOn};

use super::head::Fields;
use super::respond::GRPC_STATUS;

/// Tries, waits and times of one rule.
#[derive(Clone, Debug)]
pub struct Retries {
    /// On top of the first.
    pub attempts: u32,
    /// `None`: a try may take what is left for the whole.
    pub per_try_timeout: Option<Duration>,
    /// Another endpoint than those tried, where there is one.
    pub other_host: bool,
    backoff: Duration,
    on: RetryOn,
    headers: Vec<HeaderName>,
}

/// How a try has ended.
#[derive(Debug)]
pub enum Outcome<'a, R: ?Sized> {
    /// A reply's head has arrived, and nothing of it has gone to the client.
    Answered {
        status: StatusCode,
        headers: &'a R,
    },
    Broken(Broken),
}

/// Why there is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// There was no connection.
    Connect,
    /// The peer says that it has not looked at the request (REFUSED_STREAM, GOAWAY).
    Refused,
    /// The connection or stream ended; whether anything of the request had been sent.
    Reset { sent: bool },
    /// Longer than [`Retries::per_try_timeout`].
    TryTimeout,
    /// A limit of the connection pool. Never tried again: it would add to what is too much.
    Overflow,
}

impl Retries {
    /// # Errors  The name of a header that cannot be.
    pub fn new(retries: &route::Retries) -> Result<Self, std::sync::Arc<str>> {
        let header = |name: &std::sync::Arc<str>| HeaderName::from_bytes(name.as_bytes()).map_err(|_| name.clone());
        Ok(Self {
            attempts: retries.attempts,
            per_try_timeout: retries.per_try_timeout.filter(|time| !time.is_zero()),
            other_host: retries.other_host,
            backoff: retries.backoff,
            headers: retries.on.headers.iter().map(header).collect::<Result<_, _>>()?,
            on: retries.on.clone(),
        })
    }

    /// How long to wait before the next try; `None` when this outcome is the last. `made` is the number of tries so far, `drawn`
    /// any number.
    pub fn next_try<R: Fields + ?Sized>(&self, made: u32, outcome: &Outcome<'_, R>, drawn: u64) -> Option<Duration> {
        (made <= self.attempts && self.covers(outcome)).then(|| self.wait(made, drawn))
    }

    fn covers<R: Fields + ?Sized>(&self, outcome: &Outcome<'_, R>) -> bool {
        let on = &self.on;
        match outcome {
            Outcome::Broken(Broken::Overflow) => false,
            Outcome::Broken(_) if on.reset || on.any_5xx || on.gateway_error => true,
            Outcome::Broken(Broken::Connect) => on.connect_failure || on.reset_before_request,
            Outcome::Broken(Broken::Refused) => on.refused_stream,
            Outcome::Broken(Broken::Reset { sent }) => on.reset_before_request && !*sent,
            Outcome::Broken(Broken::TryTimeout) => false,
            Outcome::Answered { status, headers } => {
                let headers = *headers;
                on.any_5xx && status.is_server_error()
                    || on.gateway_error && matches!(status.as_u16(), 502..=504)
                    || on.retriable_4xx && *status == StatusCode::CONFLICT
                    || on.statuses.contains(&status.as_u16())
                    || self.headers.iter().any(|name| headers.first(name).is_some())
                    // In the headers only: of a reply whose status is in trailers, the client has seen the rest.
                    || !on.grpc.is_empty() && grpc_status(headers).is_some_and(|status| on.grpc.contains(&status))
            }
        }
    }

    /// Anything below `base * 2^n`, n being 0 for the first retry, and below ten times the base.
    fn wait(&self, made: u32, drawn: u64) -> Duration {
        let factor =
            1u32.checked_shl(made.saturating_sub(1)).map_or(MAX_BACKOFF, |factor| factor.clamp(1, MAX_BACKOFF));
        let most = u64::try_from(self.backoff.saturating_mul(factor).as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(drawn.checked_rem(most).unwrap_or(0))
    }

    /// `x-envoy-expected-rq-timeout-ms`: what the backend has for the try that begins. `None`: as long as it likes.
    pub fn expected_timeout_ms(&self, whole: Option<Duration>, elapsed: Duration) -> Option<u64> {
        let left = whole.map(|whole| whole.saturating_sub(elapsed));
        let time = match (left, self.per_try_timeout) {
            (Some(left), Some(one)) => left.min(one),
            (left, one) => left.or(one)?,
        };
        u64::try_from(time.as_millis()).ok().filter(|milliseconds| *milliseconds > 0)
    }
}

fn grpc_status<R: Fields + ?Sized>(headers: &R) -> Option<GrpcStatus> {
    str::from_utf8(headers.first(&GRPC_STATUS)?).ok()?.parse().ok().map(GrpcStatus)
}

/// Number of the try, from 1.
pub const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
/// [`Retries::expected_timeout_ms`]
pub const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// Of the base.
const MAX_BACKOFF: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_net::header_list::HeaderList;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const OUTCOMES: &[&str] = &[
        "connect",
        "refused",
        "reset unsent",
        "reset",
        "timeout",
        "overflow",
        "200",
        "409",
        "418",
        "500",
        "502",
        "503",
        "504",
        "200 grpc-status=14",
        "200 grpc-status=13",
        "200 x-again=",
    ];

    fn retried(on: RetryOn) -> Vec<&'static str> {
        let retries = Retries::new(&route::Retries { on, ..route::Retries::default() }).unwrap();
        let is_retried = |outcome: &str| {
            let (status, rest) = outcome.split_once(' ').unwrap_or((outcome, ""));
            let mut headers = HeaderList::new();
            if let Some((name, value)) = rest.split_once('=') {
                headers.insert(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            }
            let outcome = match outcome {
                "connect" => Outcome::Broken(Broken::Connect),
                "refused" => Outcome::Broken(Broken::Refused),
                "reset unsent" => Outcome::Broken(Broken::Reset { sent: false }),
                "reset" => Outcome::Broken(Broken::Reset { sent: true }),
                "timeout" => Outcome::Broken(Broken::TryTimeout),
                "overflow" => Outcome::Broken(Broken::Overflow),
                _ => Outcome::Answered { status: status.parse().unwrap(), headers: &headers },
            };
            retries.next_try(1, &outcome, 7).is_some()
        };
        OUTCOMES.iter().copied().filter(|outcome| is_retried(outcome)).collect()
    }

    #[test]
    fn by_default_only_what_cannot_have_been_acted_upon() {
        assert_eq!(retried(route::Retries::default().on), ["connect", "refused", "200 grpc-status=14"]);
    }

    #[test]
    fn each_condition_covers_its_own() {
        let none = RetryOn::default;
        assert!(retried(none()).is_empty());
        assert_eq!(retried(RetryOn { connect_failure: true, ..none() }), ["connect"]);
        assert_eq!(retried(RetryOn { refused_stream: true, ..none() }), ["refused"]);
        assert_eq!(retried(RetryOn { reset_before_request: true, ..none() }), ["connect", "reset unsent"]);
        let broken = ["connect", "refused", "reset unsent", "reset", "timeout"];
        assert_eq!(retried(RetryOn { reset: true, ..none() }), broken);
        assert_eq!(retried(RetryOn { gateway_error: true, ..none() }), [&broken[..], &["502", "503", "504"]].concat());
        assert_eq!(retried(RetryOn { any_5xx: true, ..none() }), [&broken[..], &["500", "502", "503", "504"]].concat());
        assert_eq!(retried(RetryOn { retriable_4xx: true, ..none() }), ["409"]);
        assert_eq!(retried(RetryOn { statuses: BTreeSet::from([418, 429]), ..none() }), ["418"]);
        let grpc = BTreeSet::from([GrpcStatus::INTERNAL]);
        assert_eq!(retried(RetryOn { grpc, ..none() }), ["200 grpc-status=13"]);
        assert_eq!(retried(RetryOn { headers: BTreeSet::from(["x-again".into()]), ..none() }), ["200 x-again="]);
    }

    fn retries(attempts: u32, per_try_timeout: Option<Duration>) -> Retries {
        Retries::new(&route::Retries { attempts, per_try_timeout, ..route::Retries::default() }).unwrap()
    }

    #[test]
    fn attempts_are_on_top_of_the_first_try() {
        let outcome = Outcome::<HeaderList>::Broken(Broken::Connect);
        assert!(retries(0, None).next_try(1, &outcome, 0).is_none());
        let two = retries(2, None);
        assert_eq!([1, 2, 3].map(|made| two.next_try(made, &outcome, 0).is_some()), [true, true, false]);
    }

    #[test]
    fn waits_grow_to_ten_times_the_base() {
        let outcome = Outcome::<HeaderList>::Broken(Broken::Connect);
        let longest = |made| {
            retries(u32::MAX, None)
                .wait(made, 0)
                .max((0..2_000_000).step_by(999).map(|drawn| retries(9, None).wait(made, drawn * 1_000)).max().unwrap())
        };
        let tenths = [1, 2, 3, 4, 5, 6, 40].map(|made| longest(made).as_millis().div_ceil(25) * 25);
        assert_eq!(tenths, [25, 50, 100, 200, 250, 250, 250]);
        assert_eq!(retries(2, None).next_try(1, &outcome, 25_000_000 + 3), Some(Duration::from_nanos(3)));
    }

    #[test]
    fn the_backend_is_told_how_long_a_try_may_take() {
        let ms = Duration::from_millis;
        let expected = |whole: Option<u64>, one: Option<u64>, elapsed| {
            retries(2, one.map(ms)).expected_timeout_ms(whole.map(ms), ms(elapsed))
        };
        assert_eq!(expected(None, None, 5), None);
        assert_eq!(expected(Some(1000), None, 0), Some(1000));
        assert_eq!(expected(Some(1000), None, 300), Some(700));
        assert_eq!(expected(Some(1000), Some(400), 300), Some(400));
        assert_eq!(expected(Some(1000), Some(400), 800), Some(200));
        assert_eq!(expected(None, Some(400), 800), Some(400));
        assert_eq!(expected(Some(1000), None, 1000), None);
        assert_eq!(expected(None, Some(0), 0), None);
    }

    proptest! {
        #[test]
        fn arbitrary_numbers_never_panic(made: u32, drawn: u64, base: Duration, whole: Option<Duration>, elapsed: Duration) {
            let retries = Retries::new(&route::Retries { backoff: base, ..route::Retries::default() }).unwrap();
            let wait = retries.wait(made, drawn);
            prop_assert!(wait <= base.saturating_mul(10));
            retries.expected_timeout_ms(whole, elapsed);
        }
    }
}

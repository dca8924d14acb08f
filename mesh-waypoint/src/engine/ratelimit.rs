//! How many requests in how much time: a bucket of tokens for each key, and a bounded number of buckets.
//!
//! A bucket holds `burst` tokens, gets `requests` of them in `per`, evenly, and a request takes one. Whoever makes up keys makes
//! buckets; beyond the bound those that were not used for longest begin anew, so memory has a bound and a limit errs to the
//! lenient side. A bucket is found by 128 bits of a hash that starts with drawn numbers: keys may be long, and are not kept.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mesh_core::identity::SpiffeId;
use mesh_core::l7::ratelimit::{Headers, Key, RateLimit};
use rand::Rng;

use super::authorization::{ConnectionSelection, Peer, Request, Selection, remote};

/// The limits of one model, with the state of their buckets, shared by the workers.
#[derive(Clone, Debug, Default)]
pub struct RateLimits(Vec<Arc<Limiter>>);

#[derive(Debug)]
struct Limiter {
    rule: RateLimit,
    selection: Selection,
    seeds: [u64; 2],
    buckets: Mutex<Buckets>,
}

impl RateLimits {
    /// A rule that was there before keeps its buckets. Of rules that are the same each has its own.
    pub fn compile(rules: &[RateLimit], before: &Self, rng: &mut impl Rng) -> Self {
        let mut before: Vec<_> = before.0.iter().collect();
        let mut limiter = |rule: &RateLimit| match before.iter().position(|old| old.rule == *rule) {
            Some(old) => before.remove(old).clone(),
            None => Arc::new(Limiter {
                rule: rule.clone(),
                selection: Selection::compile(&rule.rules),
                seeds: [rng.next_u64(), rng.next_u64()],
                buckets: Mutex::default(),
            }),
        };
        Self(rules.iter().map(&mut limiter).collect())
    }

    pub fn for_connection(&self, peer: Peer<'_>) -> ConnectionLimits {
        let narrow = |limiter: &Arc<Limiter>| {
            let selection = limiter.selection.for_connection(&peer)?;
            let hashers = limiter.seeds.map(|seed| limiter.of_peer(seed, &peer));
            Some(ConnectionLimit { limiter: limiter.clone(), selection, hashers })
        };
        ConnectionLimits { address: peer.address, limits: self.0.iter().filter_map(narrow).collect() }
    }
}

/// Limits that may concern requests on one connection.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    address: IpAddr,
    limits: Vec<ConnectionLimit>,
}

#[derive(Clone, Debug)]
struct ConnectionLimit {
    limiter: Arc<Limiter>,
    selection: ConnectionSelection,
    /// Fed with what the connection says of the key.
    hashers: [DefaultHasher; 2],
}

/// What the limits say of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruling {
    /// The answer is 429 `local_rate_limited`, as the reference says it; `None`: it may pass.
    pub refused: Option<Refused>,
    /// Of the limit that refuses, or of the one with the least left.
    pub quota: Option<Quota>,
    /// Rules on trial that would have refused, by name.
    pub recorded: Vec<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub rule: Arc<str>,
    /// Whole seconds, at least one: value of `retry-after`.
    pub retry_after: u64,
}

/// What is left of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub limit: u32,
    pub per: Duration,
    pub remaining: u32,
    /// Until the bucket is full.
    pub reset: Duration,
    pub headers: Headers,
}

impl Quota {
    /// Fields for the answer, whether it is refused or not.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let (limit, policy) = (self.limit, format!("{};w={}", self.limit, whole_seconds(self.per)));
        let (remaining, reset) = (self.remaining.to_string(), whole_seconds(self.reset).to_string());
        match self.headers {
            Headers::None => Vec::new(),
            Headers::Standard => vec![
                ("ratelimit-limit", limit.to_string()),
                ("ratelimit-policy", policy),
                ("ratelimit-remaining", remaining),
                ("ratelimit-reset", reset),
            ],
            Headers::Reference => vec![
                ("x-ratelimit-limit", limit.to_string()),
                ("x-ratelimit-remaining", remaining),
                ("x-ratelimit-reset", reset),
            ],
        }
    }
}

impl ConnectionLimits {
    /// Takes a token of each limit that is for the request. One that is refused by one of them has taken those of the others
    /// before it, as in the reference: a client that does not stop gets no further.
    pub fn take(&self, request: &Request<'_>, now: impl FnOnce() -> Instant) -> Ruling {
        if self.limits.is_empty() {
            return Ruling::default();
        }
        let now = now();
        let mut ruling = Ruling::default();
        for limit in self.limits.iter().filter(|limit| limit.selection.holds(request)) {
            let rule = &limit.limiter.rule;
            let (quota, wait) = limit.take(request, self.address, now);
            match wait {
                Some(_) if rule.dry_run => ruling.recorded.push(rule.name.clone()),
                None if rule.dry_run => {}
                Some(wait) => {
                    let retry_after = whole_seconds(wait).max(1);
                    ruling.refused = Some(Refused { rule: rule.name.clone(), retry_after });
                    ruling.quota = Some(quota);
                    break;
                }
                None if ruling.quota.is_none_or(|other| quota.remaining < other.remaining) => {
                    ruling.quota = Some(quota)
                }
                None => {}
            }
        }
        ruling
    }
}

impl ConnectionLimit {
    /// With how long to wait if there is no token.
    fn take(&self, request: &Request<'_>, client: IpAddr, now: Instant) -> (Quota, Option<Duration>) {
        let rule = &self.limiter.rule;
        let [high, low] = self.hashers.clone().map(|mut hasher| {
            of_request(&rule.by, request, client, &mut hasher);
            u128::from(hasher.finish())
        });
        // A panic while counting leaves one bucket wrong by a token.
        let mut buckets = self.limiter.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.at(high << 64 | low, rule, now).take(rule, now)
    }
}

impl Limiter {
    fn of_peer(&self, seed: u64, peer: &Peer<'_>) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        for key in &self.rule.by {
            match key {
                Key::Identity => peer.identity.map(SpiffeId::uri).hash(&mut hasher),
                Key::Namespace => peer.identity.map(SpiffeId::namespace).hash(&mut hasher),
                Key::SourceIp => peer.address.to_canonical().hash(&mut hasher),
                _ => {}
            }
        }
        hasher
    }
}

fn of_request(by: &[Key], request: &Request<'_>, client: IpAddr, hasher: &mut DefaultHasher) {
    for key in by {
        match key {
            Key::Identity | Key::Namespace | Key::SourceIp => {}
            Key::RemoteIp => remote(request, client).to_canonical().hash(hasher),
            Key::Header(name) => request.fields.lines(name).collect::<Vec<_>>().hash(hasher),
            Key::RequestPrincipal => request.authenticated.and_then(|token| token.principal.as_deref()).hash(hasher),
            Key::Host => request.host.to_ascii_lowercase().hash(hasher),
            Key::Path => request.path.hash(hasher),
            Key::Method => request.method.hash(hasher),
        }
    }
}

/// Buckets by key, and keys by when they were last used.
#[derive(Default)]
struct Buckets {
    by_key: HashMap<u128, Bucket>,
    by_use: BTreeMap<u64, u128>,
    uses: u64,
}

impl fmt::Debug for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buckets").field("keys", &self.by_key.len()).finish()
    }
}

impl Buckets {
    fn at(&mut self, key: u128, rule: &RateLimit, now: Instant) -> &mut Bucket {
        if !self.by_key.contains_key(&key)
            && self.by_key.len() >= usize::try_from(rule.max_keys.max(1)).unwrap_or(usize::MAX)
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.by_key.remove(&oldest);
        }
        self.uses += 1;
        let bucket = self.by_key.entry(key).or_insert_with(|| Bucket::full(rule, now));
        if bucket.used > 0 {
            self.by_use.remove(&bucket.used);
        }
        bucket.used = self.uses;
        self.by_use.insert(self.uses, key);
        bucket
    }
}

/// Exact whatever the numbers are: what a nanosecond brings is `requests`, and a token is `per` in nanoseconds.
#[derive(Debug)]
struct Bucket {
    level: u128,
    filled: Instant,
    /// 0: never.
    used: u64,
}

impl Bucket {
    fn full(rule: &RateLimit, now: Instant) -> Self {
        Self { level: size(rule), filled: now, used: 0 }
    }

    fn take(&mut self, rule: &RateLimit, now: Instant) -> (Quota, Option<Duration>) {
        let rate = u128::from(rule.requests);
        let passed = now.saturating_duration_since(self.filled).as_nanos();
        self.level = self.level.saturating_add(passed.saturating_mul(rate)).min(size(rule));
        self.filled = self.filled.max(now);
        let wait = match self.level.checked_sub(token(rule)) {
            Some(left) => {
                self.level = left;
                None
            }
            None => Some(time(token(rule) - self.level, rate)),
        };
        let quota = Quota {
            limit: burst(rule),
            per: rule.per,
            remaining: u32::try_from(self.level / token(rule)).unwrap_or(u32::MAX),
            reset: time(size(rule) - self.level, rate),
            headers: rule.headers,
        };
        (quota, wait)
    }
}

fn burst(rule: &RateLimit) -> u32 {
    rule.burst.unwrap_or(rule.requests)
}

fn token(rule: &RateLimit) -> u128 {
    rule.per.as_nanos().max(1)
}

fn size(rule: &RateLimit) -> u128 {
    u128::from(burst(rule)) * token(rule)
}

/// How long it takes until so much has come; a year where nothing comes.
fn time(missing: u128, rate: u128) -> Duration {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    let nanos = missing.checked_add(rate.saturating_sub(1)).and_then(|nanos| nanos.checked_div(rate));
    nanos.and_then(|nanos| u64::try_from(nanos).ok()).map_or(YEAR, Duration::from_nanos).min(YEAR)
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests;

//! Keys of issuers that have them elsewhere: fetched when a token needs them, kept, and fetched again when they may be old.
//!
//! What is kept is known by where it is, for all workers together. How a text is fetched is the caller's affair; when, is said
//! here: one fetch at a time and place, none too soon after one that failed, and what is known stays in force meanwhile.

use std::collections::HashMap;
use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_core::l7::authentication::{self, JwtRule};
use rustls::RootCertStore;
use tracing::{info, warn};

use crate::engine::jwt::discovery;
use crate::engine::jwt::keys::KeySet;

#[derive(Clone, Debug)]
pub struct Config {
    /// Age at which keys that are used are fetched again.
    pub refresh: Duration,
    /// How often at most keys are fetched again because a token names one that is not among them: anybody can name one.
    pub unknown: Duration,
    /// Wait after a fetch that failed; it doubles from the first to the second with each that follows.
    pub retry: (Duration, Duration),
    /// Of a fetch whose rule says nothing.
    pub timeout: Duration,
    /// Who is believed about who serves an `https` address outside the mesh; `None`: whom the system believes.
    pub roots: Option<Arc<RootCertStore>>,
}

impl Default for Config {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            refresh: seconds(20 * 60),
            unknown: seconds(10),
            retry: (seconds(1), seconds(30)),
            timeout: seconds(5),
            roots: None,
        }
    }
}

/// Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Keys(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    config: Config,
    kept: Mutex<HashMap<Place, Arc<Kept>>>,
}

/// Why keys are to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// There are none.
    Any,
    /// A token's is not among them.
    Another,
    /// They have been in use for long: nobody waits for it.
    Fresh,
}

/// One document to be fetched.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub uri: String,
    /// In which a name without dots is looked for.
    pub namespace: Arc<str>,
    pub timeout: Duration,
    pub roots: Option<Arc<RootCertStore>>,
}

/// Where keys are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    uri: Arc<str>,
    /// The document there says where the keys are.
    discovers: bool,
    /// `http://idp/keys` is another place in each namespace.
    namespace: Arc<str>,
}

#[derive(Debug, Default)]
struct Kept {
    state: Mutex<State>,
    /// Held by who fetches.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct State {
    keys: Option<Arc<KeySet>>,
    /// When they came.
    since: Option<Instant>,
    /// The last fetch, if it failed, and how many did in a row.
    failed: Option<(Instant, u32)>,
    /// The last fetch for a key that was not known.
    asked: Option<Instant>,
    used: Option<Instant>,
}

impl Keys {
    pub fn new(config: Config) -> Self {
        Self(Arc::new(Inner { config, kept: Mutex::default() }))
    }

    /// What is there of a rule's issuer.
    pub fn known(&self, rule: &JwtRule) -> Option<Arc<KeySet>> {
        let kept = lock(&self.0.kept).get(&Place::of(rule)?).cloned()?;
        let mut state = lock(&kept.state);
        state.used = Some(Instant::now());
        state.keys.clone()
    }

    /// Whether [`Self::fetch`] would do anything for this.
    pub fn is_due(&self, rule: &JwtRule, need: Need) -> bool {
        let Some(place) = Place::of(rule) else { return false };
        match lock(&self.0.kept).get(&place) {
            Some(kept) => lock(&kept.state).is_due(need, &self.0.config, Instant::now()),
            None => true,
        }
    }

    /// Fetches the keys of a rule's issuer by `get`, unless that was tried a moment ago. Who asks while they are on their way
    /// waits for them; who goes away ends nothing.
    pub async fn fetch<G, F, E>(&self, rule: &JwtRule, need: Need, get: G)
    where
        G: Fn(Wanted) -> F + Send + Sync + 'static,
        F: Future<Output = Result<String, E>> + Send,
        E: Display + Send,
    {
        let Some(place) = Place::of(rule) else { return };
        let kept = self.kept(&place);
        let turn = match need {
            Need::Fresh => match kept.turn.clone().try_lock_owned() {
                Ok(turn) => turn,
                Err(_) => return,
            },
            Need::Any | Need::Another => kept.turn.clone().lock_owned().await,
        };
        if !lock(&kept.state).is_due(need, &self.0.config, Instant::now()) {
            return;
        }
        let timeout = match rule.timeout_seconds {
            0 => self.0.config.timeout,
            seconds => Duration::from_secs(seconds.into()),
        };
        let roots = self.0.config.roots.clone();
        let fetching = tokio::spawn(async move {
            let _turn = turn;
            let wanted = |uri| Wanted { uri, namespace: place.namespace.clone(), timeout, roots: roots.clone() };
            let fetched = fetch(&place, &wanted, &get).await;
            match &fetched {
                Ok(_) => info!(uri = &*place.uri, "keys of an issuer fetched"),
                Err(error) => {
                    warn!(uri = &*place.uri, error, "keys of an issuer not fetched; those that are known stay")
                }
            }
            lock(&kept.state).fetched(fetched.ok(), need, Instant::now());
        });
        if need != Need::Fresh {
            // It fails if it panics, and then there is nothing new.
            let _ = fetching.await;
        }
    }

    fn kept(&self, place: &Place) -> Arc<Kept> {
        let mut all = lock(&self.0.kept);
        if let Some(kept) = all.get(place) {
            return kept.clone();
        }
        // Of rules that are no more.
        let now = Instant::now();
        let is_used = |used: Instant| now.saturating_duration_since(used) < UNUSED;
        all.retain(|_, kept| Arc::strong_count(kept) > 1 || lock(&kept.state).used.is_some_and(is_used));
        all.entry(place.clone()).or_default().clone()
    }
}

impl Place {
    /// `None`: the rule itself has the keys.
    fn of(rule: &JwtRule) -> Option<Self> {
        let (uri, discovers) = match &rule.keys {
            authentication::Keys::Inline(_) => return None,
            authentication::Keys::Uri(uri) => (uri.clone(), false),
            authentication::Keys::Discover => (discovery::document(&rule.issuer).into(), true),
        };
        let namespace = rule.origin.split_once('/').map_or("", |(namespace, _)| namespace);
        Some(Self { uri, discovers, namespace: namespace.into() })
    }
}

impl State {
    fn is_due(&self, need: Need, config: &Config, now: Instant) -> bool {
        let over = |since: Instant, wait: Duration| now.saturating_duration_since(since) >= wait;
        if let Some((at, failures)) = self.failed {
            let (first, most) = config.retry;
            let wait = first.saturating_mul(1 << (failures - 1).min(16)).min(most);
            if !over(at, wait) {
                return false;
            }
        }
        match need {
            Need::Any => self.keys.is_none(),
            Need::Another => self.asked.is_none_or(|at| over(at, config.unknown)),
            Need::Fresh => self.since.is_some_and(|at| over(at, config.refresh)),
        }
    }

    fn fetched(&mut self, keys: Option<KeySet>, need: Need, now: Instant) {
        if need == Need::Another {
            self.asked = Some(now);
        }
        match keys {
            Some(keys) => {
                (self.keys, self.since, self.failed) = (Some(Arc::new(keys)), Some(now), None);
            }
            None => {
                let before = self.failed.map_or(0, |(_, failures)| failures);
                self.failed = Some((now, before.saturating_add(1)));
            }
        }
    }
}

async fn fetch<G, F, E>(
    place: &Place,
    wanted: &(dyn Fn(String) -> Wanted + Send + Sync),
    get: &G,
) -> Result<KeySet, String>
where
    G: Fn(Wanted) -> F,
    F: Future<Output = Result<String, E>>,
    E: Display,
{
    let told = |error: E| error.to_string();
    let mut text = get(wanted(place.uri.to_string())).await.map_err(told)?;
    if place.discovers {
        let uri = discovery::keys_uri(&text).map_err(|error| error.to_string())?;
        text = get(wanted(uri)).await.map_err(told)?;
    }
    KeySet::parse(&text).map_err(|error| error.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// After which a place that no token asked for is forgotten.
const UNUSED: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn set() -> Option<KeySet> {
        Some(
            KeySet::parse(
                r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#,
            )
            .unwrap(),
        )
    }

    #[test]
    fn what_failed_is_tried_again_later_and_later() {
        let (config, start) = (Config::default(), Instant::now());
        let mut state = State::default();
        let mut waits = Vec::new();
        let mut now = start;
        for _ in 0..8 {
            assert!(state.is_due(Need::Any, &config, now));
            state.fetched(None, Need::Any, now);
            let wait = (0..).find(|s| state.is_due(Need::Any, &config, now + SECOND * *s)).unwrap();
            waits.push(wait);
            now += SECOND * wait;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        state.fetched(set(), Need::Any, now);
        assert!(!state.is_due(Need::Any, &config, now + 100 * SECOND));
        assert!(state.keys.is_some() && state.failed.is_none());
    }

    #[test]
    fn unknown_keys_are_asked_for_now_and_then() {
        let (config, start) = (Config::default(), Instant::now());
        let mut state = State::default();
        state.fetched(set(), Need::Any, start);
        let mut asked = 0;
        for s in 0..30 {
            if state.is_due(Need::Another, &config, start + SECOND * s) {
                state.fetched(set(), Need::Another, start + SECOND * s);
                asked += 1;
            }
        }
        assert_eq!(asked, 3);
    }

    #[test]
    fn old_keys_stay_when_no_new_ones_come() {
        let (config, start) = (Config::default(), Instant::now());
        let mut state = State::default();
        state.fetched(set(), Need::Any, start);
        assert!(!state.is_due(Need::Fresh, &config, start + config.refresh - SECOND));
        let later = start + config.refresh;
        assert!(state.is_due(Need::Fresh, &config, later));
        state.fetched(None, Need::Fresh, later);
        assert!(state.keys.is_some());
        assert!(!state.is_due(Need::Fresh, &config, later));
        assert!(state.is_due(Need::Fresh, &config, later + SECOND));
    }
}

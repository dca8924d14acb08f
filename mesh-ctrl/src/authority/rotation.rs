//! Exchanging the root of a cluster, in stages: what its Secret says, and what it is to say next. Pure.
//!
//! ```text
//!         asked for, or nearly over               a lifetime later              a lifetime later
//! Steady ───────────────────────────> Introducing ─────────────────> Retiring ──────────────────> Steady
//! one root                  both are trusted, the old signs   both are trusted, the new signs
//! ```
//! A lifetime is the longest that a leaf may have, and a tenth more for replicas that hear of it late. Whoever gets a certificate
//! is told all roots with it. So after the first lifetime nobody holds a valid certificate who does not know the next root, and
//! after the second nobody holds one that the old root has signed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use super::files::{self, CERT, FilesError, KEY, Pair};

/// Entries of the Secret beside [`KEY`] and [`CERT`]: the root that is to sign next, and that which did before.
const NEXT_KEY: &str = "next-key.pem";
const NEXT_CERT: &str = "next-cert.pem";
const LAST_CERT: &str = "last-cert.pem";
/// Asks for a rotation by a value that it did not have before.
const ROTATE: &str = "weft.io/rotate";
/// The value that was heeded last.
const ROTATED: &str = "weft.io/rotated";
/// For people: the stage.
const STAGE: &str = "weft.io/rotation-stage";
/// When the next stage begins, in UTC.
const DUE: &str = "weft.io/rotation-due";

/// How far a root is exchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// One root.
    #[default]
    Steady,
    /// The next root is trusted; the one before still signs.
    Introducing,
    /// The next root signs; the one before is still trusted.
    Retiring,
}

impl Stage {
    pub const ALL: [Stage; 3] = [Self::Steady, Self::Introducing, Self::Retiring];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Introducing => "introducing",
            Self::Retiring => "retiring",
        }
    }
}

/// What the Secret says.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// The root that signs.
    pub(super) signs: Pair,
    pub(super) other: Other,
    /// When the stage is over; unknown if somebody took it away.
    pub(super) due: Option<SystemTime>,
    asked: Option<String>,
    heeded: Option<String>,
}

/// The root beside the one that signs.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Other {
    None,
    Next(Pair),
    /// Its certificate; the key is forgotten.
    Last(String),
}

impl Held {
    pub(super) fn new(signs: Pair) -> Self {
        Self { signs, other: Other::None, due: None, asked: None, heeded: None }
    }

    /// # Errors
    /// The entry that lacks, or is no text.
    pub(super) fn read(secret: &Secret) -> Result<Self, &'static str> {
        let entry = |name| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(name));
            bytes.map(|bytes| String::from_utf8(bytes.0.clone()).map_err(|_| name)).transpose()
        };
        let signs = Pair { key: entry(KEY)?.ok_or(KEY)?, cert: entry(CERT)?.ok_or(CERT)? };
        let other = match (entry(NEXT_KEY)?, entry(NEXT_CERT)?, entry(LAST_CERT)?) {
            (Some(key), Some(cert), _) => Other::Next(Pair { key, cert }),
            (Some(_), None, _) => return Err(NEXT_CERT),
            (None, Some(_), _) => return Err(NEXT_KEY),
            (None, None, Some(cert)) => Other::Last(cert),
            (None, None, None) => Other::None,
        };
        let note = |name| secret.metadata.annotations.as_ref().and_then(|notes| notes.get(name)).cloned();
        let due = note(DUE).and_then(|text| text.parse::<Timestamp>().ok()).map(SystemTime::from);
        Ok(Self { signs, other, due, asked: note(ROTATE), heeded: note(ROTATED) })
    }

    /// Puts it into `secret`, of which everything else stays.
    pub(super) fn write(&self, secret: &mut Secret) {
        let data = secret.data.get_or_insert_default();
        let mut entry = |name: &str, text: Option<&String>| match text {
            Some(text) => drop(data.insert(name.to_owned(), ByteString(text.clone().into_bytes()))),
            None => drop(data.remove(name)),
        };
        entry(KEY, Some(&self.signs.key));
        entry(CERT, Some(&self.signs.cert));
        let (next, last) = match &self.other {
            Other::None => (None, None),
            Other::Next(pair) => (Some(pair), None),
            Other::Last(cert) => (None, Some(cert)),
        };
        entry(NEXT_KEY, next.map(|pair| &pair.key));
        entry(NEXT_CERT, next.map(|pair| &pair.cert));
        entry(LAST_CERT, last);
        let notes: &mut BTreeMap<String, String> = secret.metadata.annotations.get_or_insert_default();
        let mut note = |name: &str, text: Option<String>| match text {
            Some(text) => drop(notes.insert(name.to_owned(), text)),
            None => drop(notes.remove(name)),
        };
        note(ROTATED, self.heeded.clone());
        note(STAGE, Some(self.stage().as_str().to_owned()).filter(|_| self.stage() != Stage::Steady));
        note(DUE, self.due.and_then(rfc3339));
    }

    pub(super) fn stage(&self) -> Stage {
        match self.other {
            Other::None => Stage::Steady,
            Other::Next(_) => Stage::Introducing,
            Other::Last(_) => Stage::Retiring,
        }
    }

    /// PEM texts of the roots to trust besides the one that signs.
    pub(super) fn others(&self) -> Vec<&str> {
        match &self.other {
            Other::None => Vec::new(),
            Other::Next(pair) => vec![&pair.cert],
            Other::Last(cert) => vec![cert],
        }
    }

    /// What it is to say at `now`, if that is something else. `lifetime` is the longest of a leaf.
    ///
    /// # Errors
    /// The certificate is none, or no new root can be made.
    pub(super) fn next(&self, now: SystemTime, lifetime: Duration) -> Result<Option<Self>, FilesError> {
        let stage = lifetime + lifetime / 10;
        let due = now.checked_add(stage);
        let is_over = self.due.is_some_and(|due| due <= now);
        Ok(match &self.other {
            Other::None => {
                let is_asked = self.asked.is_some() && self.asked != self.heeded;
                if !is_asked && !nearly_over(&self.signs.cert, now, stage)? {
                    return Ok(None);
                }
                let next = files::make_root(now)?;
                Some(Self { other: Other::Next(next), due, heeded: self.asked.clone(), ..self.clone() })
            }
            // Nobody knows since when: a whole stage from now.
            _ if self.due.is_none() => Some(Self { due, ..self.clone() }),
            Other::Next(next) if is_over => {
                Some(Self { signs: next.clone(), other: Other::Last(self.signs.cert.clone()), due, ..self.clone() })
            }
            Other::Last(_) if is_over => Some(Self { other: Other::None, due: None, ..self.clone() }),
            Other::Next(_) | Other::Last(_) => None,
        })
    }
}

/// Whether a root has to be exchanged by itself: a tenth of its life is left, or just the time for two stages twice over.
fn nearly_over(cert: &str, now: SystemTime, stage: Duration) -> Result<bool, FilesError> {
    let (begin, end) = files::validity(Path::new(CERT), cert)?;
    let left = end.duration_since(now).unwrap_or_default();
    Ok(left < end.duration_since(begin).unwrap_or_default() / 10 || left < stage * 4)
}

fn rfc3339(time: SystemTime) -> Option<String> {
    Some(Timestamp::try_from(time).ok()?.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn secret() -> Secret {
        let mut secret = Secret::default();
        Held::new(files::make_root(SystemTime::now()).unwrap()).write(&mut secret);
        secret
    }

    fn ask(secret: &mut Secret, value: &str) {
        secret.metadata.annotations.get_or_insert_default().insert(ROTATE.to_owned(), value.to_owned());
    }

    /// Through the Secret, as it is kept between two steps.
    fn step(secret: &mut Secret, now: SystemTime) -> Option<Held> {
        let next = Held::read(secret).unwrap().next(now, DAY).unwrap()?;
        next.write(secret);
        assert!(Held::read(secret).unwrap().stage() == next.stage());
        Some(next)
    }

    #[test]
    fn the_next_root_is_trusted_for_a_lifetime_before_it_signs_and_the_last_one_for_a_lifetime_after() {
        let (mut secret, now) = (secret(), SystemTime::now());
        let old = Held::read(&secret).unwrap().signs.cert;
        assert!(step(&mut secret, now).is_none());
        ask(&mut secret, "once");
        let introducing = step(&mut secret, now).unwrap();
        let Other::Next(next) = &introducing.other else { panic!("{:?}", introducing.stage()) };
        assert!(introducing.signs.cert == old && next.cert != old);
        assert_eq!(introducing.others(), [&next.cert]);

        assert!(step(&mut secret, now + DAY).is_none(), "the last leaf of before may be valid for a moment longer");
        let then = now + DAY + DAY / 5;
        let retiring = step(&mut secret, then).unwrap();
        assert!(retiring.signs == *next);
        assert_eq!(retiring.others(), [&old]);
        assert!(!secret.data.as_ref().unwrap().contains_key(NEXT_KEY));

        assert!(step(&mut secret, then + DAY).is_none());
        let steady = step(&mut secret, then + DAY + DAY / 5).unwrap();
        assert!(steady.signs == *next && steady.others().is_empty());
        assert_eq!(secret.data.as_ref().unwrap().keys().collect::<Vec<_>>(), [CERT, KEY]);
        // It was asked for once.
        assert!(step(&mut secret, then + 10 * DAY).is_none());
        ask(&mut secret, "again");
        assert_eq!(step(&mut secret, then + 10 * DAY).unwrap().stage(), Stage::Introducing);
    }

    #[test]
    fn a_root_is_exchanged_by_itself_before_it_is_over() {
        let (mut secret, now) = (secret(), SystemTime::now());
        let year = 365 * DAY;
        assert!(step(&mut secret, now + 8 * year).is_none());
        assert_eq!(step(&mut secret, now + 9 * year + 10 * DAY).unwrap().stage(), Stage::Introducing);
    }

    #[test]
    fn without_a_time_a_stage_begins_anew() {
        let (mut secret, now) = (secret(), SystemTime::now());
        ask(&mut secret, "once");
        step(&mut secret, now).unwrap();
        for nonsense in [None, Some("soon")] {
            let notes = secret.metadata.annotations.as_mut().unwrap();
            notes.remove(DUE);
            notes.extend(nonsense.map(|text| (DUE.to_owned(), text.to_owned())));
            let later = step(&mut secret, now + 5 * DAY).unwrap();
            assert_eq!((later.stage(), later.due > Some(now + 6 * DAY)), (Stage::Introducing, true));
        }
    }

    #[test]
    fn half_a_root_is_none() {
        for (lacks, after) in [(KEY, 0), (CERT, 0), (NEXT_KEY, 1), (NEXT_CERT, 1)] {
            let mut secret = secret();
            if after == 1 {
                ask(&mut secret, "once");
                step(&mut secret, SystemTime::now()).unwrap();
            }
            secret.data.as_mut().unwrap().remove(lacks);
            assert_eq!(Held::read(&secret).err(), Some(lacks));
        }
    }
}

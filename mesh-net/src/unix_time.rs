//! Whole seconds since 1970, as pages show times and tokens and certificates carry them.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

/// Seconds since 1970; 0 for a time before it.
#[must_use]
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The time that many seconds after 1970. One before 1970, or that this machine cannot express, counts as 1970.
#[must_use]
pub fn at(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Writes a time as [`seconds`], and one before 1970 as absent.
pub(crate) fn serialize<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    time.filter(|time| *time >= SystemTime::UNIX_EPOCH).map(seconds).serialize(serializer)
}

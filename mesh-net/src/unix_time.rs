//! Times as the admin endpoint shows them.

use std::time::SystemTime;

use serde::{Serialize, Serializer};

/// Writes a time as whole seconds since 1970, and one before that as absent.
pub(crate) fn seconds<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    time.and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok()).map(|d| d.as_secs()).serialize(serializer)
}

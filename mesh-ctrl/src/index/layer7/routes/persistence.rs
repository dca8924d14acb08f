//! How often a request of a route is tried, and with whom its client stays: the experimental fields `retry` and
//! `sessionPersistence`.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_core::l7::route::{self, Retries, RetryOn, SessionBy};

use crate::object::http_route::{Lifetime, Retry, SessionKind, SessionPersistence};

/// Of cookies and headers that nobody names.
const NAME: &str = "weft-session";

/// Besides the codes that are named, a connection that fails is tried again, before and after the request was sent.
pub(super) fn retries(from: &Retry) -> Retries {
    let default = Retries::default();
    Retries {
        attempts: from.attempts.unwrap_or(default.attempts),
        on: RetryOn { reset: true, statuses: from.codes.iter().copied().collect::<BTreeSet<_>>(), ..default.on },
        backoff: from.backoff.filter(|wait| !wait.is_zero()).unwrap_or(default.backoff),
        ..default
    }
}

pub(super) fn session(from: &SessionPersistence) -> route::SessionPersistence {
    let name: Arc<str> = if from.session_name.is_empty() { NAME.into() } else { from.session_name.clone() };
    let permanent = from.cookie_config.lifetime_type == Lifetime::Permanent;
    route::SessionPersistence {
        by: match from.kind {
            SessionKind::Cookie => SessionBy::Cookie { name, permanent, path: "/".into() },
            SessionKind::Header => SessionBy::Header { name },
        },
        absolute_timeout: from.absolute_timeout.filter(|timeout| !timeout.is_zero()),
    }
}

//! How many requests in how much time.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::authorization::Rule;

/// A bucket of tokens for each value of `by`. Each waypoint counts for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// `namespace/name` of the resource, which may have several.
    pub name: Arc<str>,
    /// Counts and tells, and refuses nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Only requests for which one of these holds; none: all.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// Requests that differ in any of these have buckets of their own; none: one for all.
    #[serde(default)]
    pub by: Vec<Key>,
    pub requests: u32,
    pub per: Duration,
    /// Most that may come at once; `None`: `requests`.
    #[serde(default)]
    pub burst: Option<u32>,
    /// Most buckets that are kept: of more, those that were not used for longest begin anew.
    pub max_keys: u32,
    #[serde(default)]
    pub headers: Headers,
}

/// What requests are told apart by. Those that have nothing of the kind are alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// The client's, by its certificate.
    Identity,
    /// Of the client's identity.
    Namespace,
    /// The client pod's own.
    SourceIp,
    /// The last entry of x-forwarded-for, else as `SourceIp`.
    RemoteIp,
    /// In lower case.
    Header(Arc<str>),
    /// `issuer/subject`
    RequestPrincipal,
    Host,
    Path,
    Method,
}

/// What the answers say of the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Headers {
    /// `retry-after` for what is refused, and no more.
    #[default]
    None,
    /// `ratelimit-limit`, `ratelimit-policy`, `ratelimit-remaining`, `ratelimit-reset`: draft-ietf-httpapi-ratelimit-headers-06.
    Standard,
    /// `x-ratelimit-limit`, `x-ratelimit-remaining`, `x-ratelimit-reset`: as the reference's proxy has them for what it counts itself.
    Reference,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_has_a_default_and_what_nobody_knows_is_refused() {
        let text =
            r#"{"name":"a/b","by":["identity",{"header":"x"}],"requests":5,"per":{"secs":1,"nanos":0},"max_keys":9}"#;
        let limit: RateLimit = serde_json::from_str(text).expect("a limit");
        assert_eq!((limit.burst, limit.headers, limit.by.len()), (None, Headers::None, 2));
        let again: RateLimit = serde_json::from_str(&serde_json::to_string(&limit).expect("JSON")).expect("a limit");
        assert_eq!(again, limit);
        assert!(serde_json::from_str::<RateLimit>(&text.replace("max_keys", "max_key")).is_err());
    }
}

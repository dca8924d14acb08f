//! Which node or waypoint a caller is, by the bearer token that it shows.
//!
//! Beside a folder of objects each node has a token of its own, in a file. In Kubernetes the token is that of the agent's
//! service account, made for this purpose (audience `istio-ca`) and bound to the agent's pod, and the API server says
//! which node that pod is on. A waypoint shows the token of its own service account; it speaks for that alone, and for as long
//! as its pod carries out a Gateway of a waypoint's class.

mod reviews;
mod tokens;

use std::sync::Arc;
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tracing::info;

pub use reviews::{Account, InvalidAccount, Reviews};
use reviews::{Shown, Whose};
pub use tokens::{InvalidTokens, Tokens};

/// Why a caller is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("no authorization header")]
    NoToken,
    #[error("authorization is not a bearer token")]
    NotBearer,
    #[error("the token is no node's")]
    UnknownToken,
    #[error("the token was not made for audience istio-ca")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token's service account is neither an agent's nor a waypoint's")]
    Account,
    #[error("the token is bound to no pod, or to one that is not on a node")]
    Unbound,
    #[error("the API server does not say whose token it is")]
    Unanswered,
    #[error("which pods carry out waypoints is not known yet")]
    Unread,
}

impl Refusal {
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::NotBearer => "not_bearer",
            Self::UnknownToken => "unknown_token",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::Account => "account",
            Self::Unbound => "unbound",
            Self::Unanswered => "unanswered",
            Self::Unread => "unread",
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unanswered | Refusal::Unread => Status::unavailable(refusal.to_string()),
            Refusal::Account | Refusal::Unbound => Status::permission_denied(refusal.to_string()),
            _ => Status::unauthenticated(refusal.to_string()),
        }
    }
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The node; of a waypoint that shows its own account's token, its pod as `namespace/name`.
    pub node: Arc<str>,
    pub standing: Standing,
    /// When a stream that was opened with the token has to be opened anew; none for as long as the node has a token.
    until: Option<Instant>,
}

/// What a caller may ask certificates for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Every workload of its node.
    Node,
    /// The service account whose token it showed, and nothing else.
    Waypoint(Account),
}

/// A pod, as the API server says it of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    pub account: Account,
    pub pod: String,
    pub uid: String,
}

/// Whether a pod carries out a waypoint; `None` while it is not known which pods there are.
pub type Carriers = Arc<dyn Fn(&Bearer) -> Option<bool> + Send + Sync>;

pub struct Access {
    known: Known,
    refused: Family<[(&'static str, &'static str); 1], Counter>,
}

enum Known {
    Tokens(Tokens),
    Reviews(Reviews, Carriers),
}

impl Access {
    pub fn tokens(tokens: Tokens) -> Self {
        Self { known: Known::Tokens(tokens), refused: Family::default() }
    }

    pub fn reviews(reviews: Reviews, carriers: Carriers) -> Self {
        Self { known: Known::Reviews(reviews, carriers), refused: Family::default() }
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register("weft_access_refused", "Calls without a node's token, by reason", self.refused.clone());
    }

    /// Who calls.
    ///
    /// # Errors
    /// The call carries no token, or one that is no node's.
    pub async fn caller(&self, metadata: &MetadataMap) -> Result<Caller, Refusal> {
        let caller = match bearer(metadata) {
            Ok(token) => match &self.known {
                Known::Tokens(tokens) => tokens
                    .find(token)
                    .map(|node| Caller { node, standing: Standing::Node, until: None })
                    .ok_or(Refusal::UnknownToken),
                Known::Reviews(reviews, carriers) => {
                    reviews.caller(token).await.and_then(|shown| shown.admitted(carriers))
                }
            },
            Err(refusal) => Err(refusal),
        };
        caller.inspect_err(|refusal| {
            self.refused.get_or_create(&[("reason", refusal.reason())]).inc();
            info!(reason = refusal.reason(), "caller refused");
        })
    }

    /// Whether a stream that `caller` opened may go on: one whose token was taken out of the file may not.
    ///
    /// # Errors
    /// How the stream ends.
    pub fn check(&self, caller: &Caller, now: Instant) -> Result<(), Status> {
        match &self.known {
            Known::Tokens(tokens) if !tokens.knows(&caller.node) => {
                Err(Status::unauthenticated("the node's token was withdrawn"))
            }
            Known::Reviews(..) if caller.until.is_some_and(|until| until <= now) => {
                Err(Status::unavailable("the token has to be shown again"))
            }
            _ => Ok(()),
        }
    }
}

impl Shown {
    fn admitted(self, carriers: &Carriers) -> Result<Caller, Refusal> {
        let Self { whose, until } = self;
        match whose {
            Whose::Node(node) => Ok(Caller { node, standing: Standing::Node, until: Some(until) }),
            Whose::Pod(bearer) => match carriers(&bearer) {
                None => Err(Refusal::Unread),
                Some(false) => Err(Refusal::Account),
                Some(true) => {
                    let node = format!("{}/{}", bearer.account.namespace(), bearer.pod).into();
                    Ok(Caller { node, standing: Standing::Waypoint(bearer.account), until: Some(until) })
                }
            },
        }
    }
}

fn bearer(metadata: &MetadataMap) -> Result<&str, Refusal> {
    let header = metadata.get("authorization").ok_or(Refusal::NoToken)?;
    let text = header.to_str().map_err(|_| Refusal::NotBearer)?;
    let (scheme, token) = text.split_once(' ').ok_or(Refusal::NotBearer)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refusal::NotBearer);
    }
    Ok(token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_an_account_of_its_own_is_a_waypoints_or_nobodys() {
        let bearer = Bearer { account: "shop/wp".parse().unwrap(), pod: "wp-1".into(), uid: "u".into() };
        let until = Instant::now();
        let admitted = |known: Option<bool>| {
            let carriers: Carriers = Arc::new(move |_| known);
            let caller = Shown { whose: Whose::Pod(bearer.clone()), until }.admitted(&carriers);
            caller.map(|caller| (caller.node.to_string(), caller.standing))
        };
        let own = Standing::Waypoint("shop/wp".parse().unwrap());
        assert_eq!(admitted(Some(true)), Ok(("shop/wp-1".to_owned(), own)));
        assert_eq!(admitted(Some(false)), Err(Refusal::Account));
        assert_eq!(admitted(None), Err(Refusal::Unread));
    }

    #[test]
    fn a_header_that_carries_no_bearer_token_is_told_apart() {
        let seen = |header: Option<&'static str>| {
            let mut metadata = MetadataMap::new();
            header.map(|header| metadata.insert("authorization", header.parse().unwrap()));
            bearer(&metadata).map(str::to_owned)
        };
        assert_eq!(seen(Some("bearer  abc ")), Ok("abc".to_owned()));
        assert_eq!(seen(None), Err(Refusal::NoToken));
        assert_eq!(seen(Some("Basic abc")), Err(Refusal::NotBearer));
        assert_eq!(seen(Some("abc")), Err(Refusal::NotBearer));
    }
}

//! Who a request's tokens say that it is from.
//!
//! A request without a token passes as nobody; one whose tokens are bad does not pass. Tokens count in the places that a rule
//! names for its issuer: all that are there have to be good, and one rule whose tokens are good is enough. Texts, statuses and
//! their order are those of the reference's proxy, because clients and dashboards know them.

mod places;
mod token;
pub mod discovery;
pub mod keys;
mod claims;

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine};
use mesh_core::l7::authentication::{JwtRule, Keys};
use serde_json::Value;
use thiserror::Error;

use super::fields::Fields;
pub use claims::Authenticated;
use keys::KeySet;
use places::Found;
use token::Token;

/// Clocks may differ by this many seconds.
const SKEW: u64 = 60;

/// The head of a request as it came.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    pub scheme: &'a str,
    pub host: &'a str,
    /// Path and query.
    pub target: &'a str,
    pub fields: &'a dyn Fields,
}

/// A request that may go on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Accepted {
    /// `None`: it brought no token.
    pub authenticated: Option<Authenticated>,
    pub changes: Changes,
}

/// What the request loses and gets on its way, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Names of fields, in lower case.
    pub remove: Vec<Arc<str>>,
    pub set: Vec<(Arc<str>, String)>,
    /// Path and query without the token that was in it.
    pub target: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub body: String,
    pub www_authenticate: String,
    pub reason: BadToken,
}

/// What is wrong with a token, in the reference's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadToken {
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    Form,
    #[error("Jwt header is an invalid Base64url encoded")]
    HeaderBase64,
    #[error("Jwt header is an invalid JSON")]
    HeaderJson,
    #[error("Jwt header [alg] field is required and must be a string")]
    NoAlgorithm,
    #[error("Jwt header [alg] is not supported")]
    Algorithm,
    #[error("Jwt header [kid] field is not a string")]
    KeyId,
    #[error("Jwt payload is an invalid Base64url encoded")]
    PayloadBase64,
    #[error("Jwt payload is an invalid JSON")]
    PayloadJson,
    #[error("Jwt payload [{0}] field is not {1}")]
    Claim(&'static str, &'static str),
    #[error("Jwt signature is an invalid Base64url encoded")]
    SignatureBase64,
    #[error("Jwt issuer is not configured")]
    Issuer,
    #[error("Jwt not yet valid")]
    NotYetValid,
    #[error("Jwt is expired")]
    Expired,
    #[error("Audiences in Jwt are not allowed")]
    Audience,
    #[error("Jwks remote fetch is failed")]
    NoKeys,
    #[error("Jwks doesn't have any valid public key")]
    NoValidKey,
    /// The issuer may have a new key.
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    NoSuchKey,
    #[error("Jwt verification fails")]
    Signature,
}

/// The rules of one model.
#[derive(Clone, Debug, Default)]
pub struct Authentication {
    rules: Vec<(JwtRule, Given)>,
}

/// Where a rule's keys are.
#[derive(Clone, Debug)]
enum Given {
    Here(Arc<KeySet>),
    /// The text of the rule holds none.
    Nowhere,
    Elsewhere,
}

impl Authentication {
    pub fn compile(rules: &[JwtRule]) -> Self {
        let given = |rule: &JwtRule| match &rule.keys {
            Keys::Inline(text) => KeySet::parse(text).map_or(Given::Nowhere, |keys| Given::Here(Arc::new(keys))),
            Keys::Uri(_) | Keys::Discover => Given::Elsewhere,
        };
        Self { rules: rules.iter().map(|rule| (rule.clone(), given(rule))).collect() }
    }

    /// `fetched`: the keys of a rule that has them elsewhere, if they are there. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// There are tokens, and no rule whose tokens are all good. `NoKeys` and `NoSuchKey` may pass once keys are fetched.
    pub fn authenticate(
        &self,
        head: &Head<'_>,
        fetched: &dyn Fn(&JwtRule) -> Option<Arc<KeySet>>,
        now: u64,
    ) -> Result<Accepted, Refusal> {
        // A client's own copies would pass for claims.
        let ours = |rule: &JwtRule| {
            rule.payload_header.iter().chain(rule.claim_headers.iter().map(|(n, _)| n)).cloned().collect::<Vec<_>>()
        };
        let mut changes =
            Changes { remove: self.rules.iter().flat_map(|(rule, _)| ours(rule)).collect(), ..Changes::default() };
        let mut bad = None;
        for (rule, given) in &self.rules {
            let found = places::find(rule, head);
            if found.is_empty() {
                continue;
            }
            let keys = || match given {
                Given::Here(keys) => Ok(keys.clone()),
                Given::Nowhere => Err(BadToken::NoValidKey),
                Given::Elsewhere => fetched(rule).ok_or(BadToken::NoKeys),
            };
            match check(rule, &found, keys, now) {
                Ok(token) => {
                    changes.accept(rule, &found, &token, head.target);
                    let authenticated = Some(Authenticated::new(token.claims, rule));
                    return Ok(Accepted { authenticated, changes });
                }
                // Of another rule's issuer, perhaps: the least that can be said.
                Err(BadToken::Issuer) => bad = bad.or(Some(BadToken::Issuer)),
                Err(other) => bad = Some(other),
            }
        }
        match bad {
            Some(reason) => Err(refuse(reason, head)),
            None => Ok(Accepted { authenticated: None, changes }),
        }
    }
}

/// The first of the tokens, if all are good.
fn check<'a>(
    rule: &JwtRule,
    found: &'a [Found],
    keys: impl Fn() -> Result<Arc<KeySet>, BadToken>,
    now: u64,
) -> Result<Token<'a>, BadToken> {
    let mut first = None;
    for place in found {
        let token = Token::parse(place.text())?;
        token.is_for(rule, now)?;
        keys()?.verify(&token.signed())?;
        first = first.or(Some(token));
    }
    first.ok_or(BadToken::Form)
}

fn refuse(reason: BadToken, head: &Head<'_>) -> Refusal {
    // Cut where the reference cuts it; what cannot stand in a quoted string of a field is left out.
    let target: String = head.target.chars().take(256).collect();
    let uri = format!("{}://{}{target}", head.scheme, head.host).replace('\\', "\\\\").replace('"', "\\\"");
    let uri: String = uri.chars().filter(|c| *c == ' ' || c.is_ascii_graphic()).collect();
    Refusal {
        status: if reason == BadToken::Audience { 403 } else { 401 },
        body: reason.to_string(),
        www_authenticate: format!("Bearer realm=\"{uri}\", error=\"invalid_token\""),
        reason,
    }
}

impl Changes {
    fn accept(&mut self, rule: &JwtRule, found: &[Found], token: &Token<'_>, target: &str) {
        if let Some(name) = &rule.payload_header {
            self.set.push((name.clone(), token.payload.to_owned()));
        }
        for (name, path) in &rule.claim_headers {
            if let Some(value) = claims::at(&token.claims, path).and_then(as_header) {
                self.set.push((name.clone(), value));
            }
        }
        if rule.forward {
            return;
        }
        for place in found {
            match place {
                // Last: what is set under the same name stays.
                Found::Header { name, .. } => self.remove.push(name.clone()),
                Found::Param { name, .. } => {
                    self.target = Some(places::without(self.target.as_deref().unwrap_or(target), name));
                }
                Found::Cookie { .. } => {}
            }
        }
    }
}

/// `None`: there is nothing to say, or it would be more than one line.
fn as_header(claim: &Value) -> Option<String> {
    let text = match claim {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => claim.to_string(),
        Value::Array(_) | Value::Object(_) => BASE64_STANDARD.encode(claim.to_string()),
    };
    let is_one_line = text.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f));
    is_one_line.then_some(text)
}

#[cfg(test)]
mod tests;

//! RequestAuthentication: tokens that a request may bring.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One issuer. A request without any token passes; one with a bad token does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtRule {
    /// `namespace/name` of the RequestAuthentication. Bad tokens count within one of these.
    pub origin: Arc<str>,
    pub issuer: Arc<str>,
    #[serde(default)]
    pub audiences: Vec<Arc<str>>,
    pub keys: Keys,
    /// Empty, as is `params` and `cookies`: `Authorization: Bearer` and `access_token`.
    #[serde(default)]
    pub headers: Vec<TokenHeader>,
    #[serde(default)]
    pub params: Vec<Arc<str>>,
    #[serde(default)]
    pub cookies: Vec<Arc<str>>,
    /// Header in which the payload, base64url without padding, goes on.
    #[serde(default)]
    pub payload_header: Option<Arc<str>>,
    /// Header, and the claim that goes on in it.
    #[serde(default)]
    pub claim_headers: Vec<(Arc<str>, Vec<Arc<str>>)>,
    #[serde(default)]
    pub forward: bool,
    /// Seconds that fetching keys may take.
    #[serde(default)]
    pub timeout_seconds: u32,
    /// Claims that are lists of words by spaces, besides `scope` and `permission`.
    #[serde(default)]
    pub space_delimited: Vec<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keys {
    /// A JWK Set, as text.
    Inline(Arc<str>),
    Uri(Arc<str>),
    /// By the issuer's `/.well-known/openid-configuration`.
    Discover,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenHeader {
    /// In lower case.
    pub name: Arc<str>,
    /// Exactly this before the token.
    #[serde(default)]
    pub prefix: Arc<str>,
}

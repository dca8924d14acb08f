//! RequestAuthentication, as it is written.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::Metadata;
use super::reference::TargetRef;
use super::scalar::duration;
use super::security::Selector;

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RequestAuthentication {
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: RequestAuthenticationSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestAuthenticationSpec {
    pub selector: Selector,
    pub target_ref: Option<TargetRef>,
    pub target_refs: Vec<TargetRef>,
    pub jwt_rules: Vec<JwtRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JwtRule {
    pub issuer: Arc<str>,
    pub audiences: Vec<Arc<str>>,
    #[serde(alias = "jwks_uri")]
    pub jwks_uri: Option<Arc<str>>,
    pub jwks: Arc<str>,
    pub from_headers: Vec<FromHeader>,
    pub from_params: Vec<Arc<str>>,
    pub from_cookies: Vec<Arc<str>>,
    pub output_payload_to_header: Arc<str>,
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    pub forward_original_token: bool,
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    pub space_delimited_claims: Vec<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FromHeader {
    pub name: Arc<str>,
    #[serde(default)]
    pub prefix: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ClaimToHeader {
    pub header: Arc<str>,
    pub claim: Arc<str>,
}

//! One token: `header.payload.signature` (RFC 7515, section 7.1).

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use mesh_core::l7::authentication::JwtRule;
use serde_json::{Map, Value};

use super::keys::{Algorithm, Signed};
use super::{BadToken, SKEW, claims};

#[derive(Clone, Debug)]
pub(super) struct Token<'a> {
    /// Header and payload as they are written.
    message: &'a str,
    pub(super) payload: &'a str,
    algorithm: Algorithm,
    key_id: Option<String>,
    pub(super) claims: Map<String, Value>,
    issuer: Option<String>,
    /// Seconds since 1970.
    not_before: Option<u64>,
    expires: Option<u64>,
    signature: Vec<u8>,
}

impl<'a> Token<'a> {
    /// Says only what is written: nothing is verified yet.
    pub(super) fn parse(text: &'a str) -> Result<Self, BadToken> {
        let (message, signature) = text.rsplit_once('.').ok_or(BadToken::Form)?;
        let (header, payload) = message.split_once('.').ok_or(BadToken::Form)?;
        if payload.contains('.') {
            return Err(BadToken::Form);
        }
        let header = object(header, BadToken::HeaderBase64, BadToken::HeaderJson)?;
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(BadToken::NoAlgorithm)?;
        let algorithm = Algorithm::named(algorithm).ok_or(BadToken::Algorithm)?;
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()).filter(|id| !id.is_empty()),
            Some(_) => return Err(BadToken::KeyId),
        };
        let claims = object(payload, BadToken::PayloadBase64, BadToken::PayloadJson)?;
        let issuer = text_claim(&claims, "iss")?.map(str::to_owned);
        text_claim(&claims, "sub")?;
        time_claim(&claims, "iat")?;
        let (not_before, expires) = (time_claim(&claims, "nbf")?, time_claim(&claims, "exp")?);
        text_claim(&claims, "jti")?;
        let is_audience = match claims.get("aud") {
            None | Some(Value::String(_)) => true,
            Some(Value::Array(items)) => items.iter().all(Value::is_string),
            Some(_) => false,
        };
        if !is_audience {
            return Err(BadToken::Claim("aud", "a string or string list"));
        }
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| BadToken::SignatureBase64)?;
        // What has to be understood is not (RFC 7515, section 4.1.11).
        if header.contains_key("crit") {
            return Err(BadToken::Signature);
        }
        Ok(Self { message, payload, algorithm, key_id, claims, issuer, not_before, expires, signature })
    }

    /// Issuer, time and audience.
    pub(super) fn is_for(&self, rule: &JwtRule, now: u64) -> Result<(), BadToken> {
        if self.issuer.as_deref() != Some(&rule.issuer) {
            return Err(BadToken::Issuer);
        }
        if self.not_before.is_some_and(|start| now.saturating_add(SKEW) < start) {
            return Err(BadToken::NotYetValid);
        }
        if self.expires.is_some_and(|end| now > end.saturating_add(SKEW)) {
            return Err(BadToken::Expired);
        }
        let is_allowed = |audience| rule.audiences.iter().any(|own| bare(own) == bare(audience));
        if rule.audiences.is_empty() || claims::audiences(&self.claims).any(is_allowed) {
            return Ok(());
        }
        Err(BadToken::Audience)
    }

    pub(super) fn signed(&self) -> Signed<'_> {
        Signed {
            algorithm: self.algorithm,
            key_id: self.key_id.as_deref(),
            message: self.message.as_bytes(),
            signature: &self.signature,
        }
    }
}

/// An audience without its scheme and last slash, which the reference does not look at.
fn bare(audience: &str) -> &str {
    let rest = audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://")).unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}

fn object(text: &str, encoding: BadToken, json: BadToken) -> Result<Map<String, Value>, BadToken> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| encoding)?;
    serde_json::from_slice(&bytes).map_err(|_| json)
}

fn text_claim<'a>(claims: &'a Map<String, Value>, name: &'static str) -> Result<Option<&'a str>, BadToken> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(BadToken::Claim(name, "a string")),
    }
}

/// Fractions of a second are cut off.
fn time_claim(claims: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, BadToken> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let number = value.as_f64().ok_or(BadToken::Claim(name, "an integer"))?;
    if !(0.0..=u64::MAX as f64).contains(&number) {
        return Err(BadToken::Claim(name, "a positive 64 bit integer"));
    }
    Ok(Some(value.as_u64().unwrap_or(number as u64)))
}

//! Tokens of an issuer that a test is, and its keys.

use anyhow::{Context, Result};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Value, json};

/// Signs with ES256.
pub struct Issuer {
    key: EcdsaKeyPair,
}

impl Issuer {
    /// With a new key.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn new() -> Result<Issuer> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).ok().context("make a key")?;
        Ok(Issuer { key })
    }

    /// Its JWK Set.
    #[must_use]
    pub fn keys(&self) -> Value {
        // Uncompressed: 4, then both coordinates.
        let point = self.key.public_key().as_ref();
        let part = |range: std::ops::Range<usize>| BASE64_URL_SAFE_NO_PAD.encode(&point[range]);
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k1", "alg": "ES256", "x": part(1..33), "y": part(33..65)}]})
    }

    /// A token with these claims.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn token(&self, claims: &Value) -> Result<String> {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "ES256", "kid": "k1"})), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).ok().context("sign a token")?;
        Ok(format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
    }
}

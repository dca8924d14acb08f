//! An issuer's public keys, and what they verify.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use serde_json::{Map, Value};
use thiserror::Error;

use super::BadToken;

/// A JWK Set (RFC 7517). Keys that cannot be used are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet(Vec<Jwk>);

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidKeySet {
    #[error("the key set is no JSON object with a list of keys")]
    Json,
    #[error("the key set has no key that can be used")]
    Empty,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Jwk {
    id: Option<String>,
    algorithm: Option<String>,
    key: Key,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Uncompressed.
    Ec {
        curve: Curve,
        point: Vec<u8>,
    },
    Ed25519(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

/// Those of RFC 7518 and RFC 8037 for which the verifier needs no secret: whoever could verify HS256 could sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

const NAMES: [(&str, Algorithm); 10] = [
    ("RS256", Algorithm::Rs256),
    ("RS384", Algorithm::Rs384),
    ("RS512", Algorithm::Rs512),
    ("PS256", Algorithm::Ps256),
    ("PS384", Algorithm::Ps384),
    ("PS512", Algorithm::Ps512),
    ("ES256", Algorithm::Es256),
    ("ES384", Algorithm::Es384),
    ("ES512", Algorithm::Es512),
    ("EdDSA", Algorithm::EdDsa),
];

impl Algorithm {
    pub(super) fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(own, _)| *own == name).map(|(_, algorithm)| *algorithm)
    }

    fn name(self) -> &'static str {
        NAMES.iter().find(|(_, own)| *own == self).map_or("", |(name, _)| name)
    }
}

/// What a signature is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signed<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<&'a str>,
    pub(super) message: &'a [u8],
    pub(super) signature: &'a [u8],
}

impl KeySet {
    /// # Errors
    /// The text is no key set, or none of its keys can be used.
    pub fn parse(text: &str) -> Result<Self, InvalidKeySet> {
        let Ok(Value::Object(set)) = serde_json::from_str(text) else { return Err(InvalidKeySet::Json) };
        let keys = set.get("keys").and_then(Value::as_array).ok_or(InvalidKeySet::Json)?;
        let keys: Vec<_> = keys.iter().filter_map(Value::as_object).filter_map(Jwk::read).collect();
        if keys.is_empty() { Err(InvalidKeySet::Empty) } else { Ok(Self(keys)) }
    }

    /// With the key that the token names, and those without a name; without a name, with all.
    pub(super) fn verify(&self, signed: &Signed<'_>) -> Result<(), BadToken> {
        let is_meant = |jwk: &&Jwk| {
            let by_id = jwk.id.as_deref().zip(signed.key_id).is_none_or(|(own, asked)| own == asked);
            by_id && jwk.algorithm.as_deref().is_none_or(|own| own == signed.algorithm.name())
        };
        let mut meant = self.0.iter().filter(is_meant).peekable();
        meant.peek().ok_or(BadToken::NoSuchKey)?;
        if meant.any(|jwk| jwk.key.verifies(signed)) { Ok(()) } else { Err(BadToken::Signature) }
    }
}

impl Jwk {
    /// `None`: of another kind, for another use, or not as its kind is written.
    fn read(fields: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        let bytes = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(text(name)?.trim_end_matches('=')).ok();
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let key = match (text("kty")?, text("crv")) {
            ("RSA", _) => Key::Rsa { n: without_zeros(bytes("n")?), e: without_zeros(bytes("e")?) },
            ("EC", Some(curve)) => {
                let (curve, size) = match curve {
                    "P-256" => (Curve::P256, 32),
                    "P-384" => (Curve::P384, 48),
                    "P-521" => (Curve::P521, 66),
                    _ => return None,
                };
                let mut point = vec![4];
                for coordinate in [bytes("x")?, bytes("y")?] {
                    point.extend(std::iter::repeat_n(0, usize::checked_sub(size, coordinate.len())?));
                    point.extend(coordinate);
                }
                Key::Ec { curve, point }
            }
            ("OKP", Some("Ed25519")) => Key::Ed25519(bytes("x").filter(|x| x.len() == 32)?),
            _ => return None,
        };
        let owned = |name| text(name).filter(|text| !text.is_empty()).map(str::to_owned);
        Some(Self { id: owned("kid"), algorithm: owned("alg"), key })
    }
}

fn without_zeros(bytes: Vec<u8>) -> Vec<u8> {
    bytes.into_iter().skip_while(|b| *b == 0).collect()
}

impl Key {
    fn verifies(&self, signed: &Signed<'_>) -> bool {
        let with = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(signed.message, signed.signature).is_ok()
        };
        match (self, signed.algorithm) {
            (Self::Rsa { n, e }, algorithm) => rsa(algorithm).is_some_and(|parameters| {
                RsaPublicKeyComponents { n, e }.verify(parameters, signed.message, signed.signature).is_ok()
            }),
            (Self::Ec { curve: Curve::P256, point }, Algorithm::Es256) => with(&ECDSA_P256_SHA256_FIXED, point),
            (Self::Ec { curve: Curve::P384, point }, Algorithm::Es384) => with(&ECDSA_P384_SHA384_FIXED, point),
            (Self::Ec { curve: Curve::P521, point }, Algorithm::Es512) => with(&ECDSA_P521_SHA512_FIXED, point),
            (Self::Ed25519(x), Algorithm::EdDsa) => with(&ED25519, x),
            _ => false,
        }
    }
}

/// Keys of less than 2048 bits verify nothing (RFC 7518, section 3.3).
fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &RSA_PSS_2048_8192_SHA512,
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 | Algorithm::EdDsa => return None,
    })
}

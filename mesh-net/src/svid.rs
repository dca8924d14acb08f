//! A workload's certificate and key (an X.509-SVID), and the roots that it trusts.
//!
//! Keys are made here and stay in this process's memory: what leaves is a signing request.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use mesh_core::identity::{InvalidSpiffeId, SpiffeId};
use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SanType};
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::unix_time;

/// A P-256 key pair. Its private half is never printed.
pub struct KeyPair {
    key: rcgen::KeyPair,
}

impl KeyPair {
    /// Makes a new key with the system's randomness.
    ///
    /// # Errors
    /// The cryptographic library has no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|e| KeyError::Generate(e.to_string()))?;
        Ok(Self { key })
    }

    /// Reads a PKCS#8 private key in PEM.
    ///
    /// # Errors
    /// The text holds no P-256 key.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let key = rcgen::KeyPair::from_pem_and_sign_algo(pem, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|e| KeyError::Parse(e.to_string()))?;
        Ok(Self { key })
    }

    /// A signing request for `identity`, in PEM: empty subject, one URI SAN.
    ///
    /// # Errors
    /// The identity cannot be written as an IA5String, or signing fails.
    pub fn csr_pem(&self, identity: &SpiffeId) -> Result<String, KeyError> {
        let sign = |e: rcgen::Error| KeyError::Sign { identity: identity.clone(), why: e.to_string() };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.uri().try_into().map_err(sign)?)];
        params.serialize_request(&self.key).and_then(|csr| csr.pem()).map_err(sign)
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair")
    }
}

/// Why a key could not be made, read or used.
#[derive(Debug, Error)]
pub enum KeyError {
    #[error("generate a P-256 key: {0}")]
    Generate(String),
    #[error("read a P-256 private key: {0}")]
    Parse(String),
    #[error("sign a request for {identity}: {why}")]
    Sign { identity: SpiffeId, why: String },
}

impl KeyError {
    /// A closed label for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Generate(_) => "key_generate",
            Self::Parse(_) => "key_parse",
            Self::Sign { .. } => "key_sign",
        }
    }
}

/// A certificate with its key: who this process is when it speaks for a workload.
pub struct Svid {
    pub identity: SpiffeId,
    /// Leaf first, then intermediates; self-issued roots at the end of what the authority sent are left out, because
    /// a peer trusts its own copy or none.
    pub chain: Vec<CertificateDer<'static>>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// Serial number of the leaf, lower-case hex.
    pub serial_hex: String,
    key: Arc<CertifiedKey>,
}

impl Svid {
    /// Reads a chain (leaf first) that was issued for `key`.
    ///
    /// # Errors
    /// The PEM has no certificate, the leaf is for another key, or its URI SAN is not exactly one workload identity.
    pub fn from_pem(chain_pem: &str, key: &KeyPair) -> Result<Self, InvalidSvid> {
        let mut chain = certificates(chain_pem).map_err(InvalidSvid::Pem)?;
        while chain.len() > 1 && chain.last().is_some_and(is_self_issued) {
            chain.pop();
        }
        let leaf = chain.first().ok_or_else(|| InvalidSvid::Pem("no certificate in it".to_owned()))?;
        let identity = spiffe_id_of(leaf)?;
        let parsed = parse(leaf).ok_or(InvalidSan::Certificate)?;
        if parsed.public_key().raw != key.key.subject_public_key_info() {
            return Err(InvalidSvid::KeyMismatch);
        }
        let serial_hex = parsed.tbs_certificate.raw_serial().iter().map(|b| format!("{b:02x}")).collect();
        let (not_before, not_after) = (parsed.validity().not_before, parsed.validity().not_after);
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.key.serialize_der()));
        let signer =
            rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&private).map_err(|e| InvalidSvid::Key(e.to_string()))?;
        Ok(Self {
            identity,
            key: Arc::new(CertifiedKey::new(chain.clone(), signer)),
            chain,
            not_before: unix_time::at(not_before.timestamp()),
            not_after: unix_time::at(not_after.timestamp()),
            serial_hex,
        })
    }

    pub(crate) fn certified_key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("identity", &self.identity).field("serial", &self.serial_hex).finish()
    }
}

/// Why a chain and key are no SVID.
#[derive(Debug, Error)]
pub enum InvalidSvid {
    #[error("read the certificate chain: {0}")]
    Pem(String),
    #[error("the leaf certificate is not for the key that asked for it")]
    KeyMismatch,
    #[error("sign with the key: {0}")]
    Key(String),
    #[error("the leaf certificate's name: {0}")]
    San(#[from] InvalidSan),
}

impl InvalidSvid {
    /// A closed label for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Pem(_) => "svid_pem",
            Self::KeyMismatch => "svid_key_mismatch",
            Self::Key(_) => "svid_key",
            Self::San(_) => "svid_san",
        }
    }
}

/// The roots that peers' certificates must chain to.
pub struct TrustBundle {
    roots: Vec<CertificateDer<'static>>,
    store: Arc<RootCertStore>,
    fingerprint: String,
}

impl TrustBundle {
    /// Reads one or more root certificates; repeated roots count once.
    ///
    /// # Errors
    /// The PEM has no certificate, or one that cannot be a trust anchor.
    pub fn from_pem(pem: &str) -> Result<Self, InvalidTrustBundle> {
        let mut roots = certificates(pem).map_err(InvalidTrustBundle::Pem)?;
        if roots.is_empty() {
            return Err(InvalidTrustBundle::Pem("no certificate in it".to_owned()));
        }
        let mut store = RootCertStore::empty();
        for (index, root) in roots.iter().enumerate() {
            store.add(root.clone()).map_err(|e| InvalidTrustBundle::Root { index, why: e.to_string() })?;
        }
        roots.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        roots.dedup();
        let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for root in &roots {
            hash.update(&(root.len() as u64).to_be_bytes());
            hash.update(root);
        }
        let fingerprint = hash.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect();
        Ok(Self { roots, store: Arc::new(store), fingerprint })
    }

    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// SHA-256 over the sorted roots, lower-case hex: equal exactly when two bundles trust the same roots.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(crate) fn store(&self) -> Arc<RootCertStore> {
        self.store.clone()
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustBundle").field("roots", &self.roots.len()).field("fingerprint", &self.fingerprint).finish()
    }
}

/// Why a PEM text is no trust bundle.
#[derive(Debug, Error)]
pub enum InvalidTrustBundle {
    #[error("read the trust bundle: {0}")]
    Pem(String),
    #[error("root {index} of the trust bundle cannot be a trust anchor: {why}")]
    Root { index: usize, why: String },
}

impl InvalidTrustBundle {
    /// A closed label for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Pem(_) => "trust_pem",
            Self::Root { .. } => "trust_root",
        }
    }
}

/// The identity that a certificate names: its one URI SAN (X509-SVID specification, section 2).
///
/// # Errors
/// No URI SAN, more than one, or one that is no workload identity. Never panics, whatever the bytes.
pub fn spiffe_id_of(certificate: &CertificateDer<'_>) -> Result<SpiffeId, InvalidSan> {
    let parsed = parse(certificate).ok_or(InvalidSan::Certificate)?;
    let mut uris = Vec::new();
    for extension in parsed.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(san) => {
                uris.extend(san.general_names.iter().filter_map(|name| match name {
                    GeneralName::URI(uri) => Some(*uri),
                    _ => None,
                }));
            }
            // A SAN that this parser cannot read may hold names that another would: no identity at all.
            _ if extension.oid == x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME => {
                return Err(InvalidSan::Certificate);
            }
            _ => {}
        }
    }
    match uris[..] {
        [] => Err(InvalidSan::NoUri),
        [uri] => Ok(uri.parse()?),
        _ => Err(InvalidSan::SeveralUris(uris.len())),
    }
}

/// Why a certificate names no workload.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidSan {
    #[error("the certificate cannot be parsed")]
    Certificate,
    #[error("the certificate has no URI SAN")]
    NoUri,
    #[error("the certificate has {0} URI SANs, not one")]
    SeveralUris(usize),
    #[error("the certificate's URI SAN: {0}")]
    Id(#[from] InvalidSpiffeId),
}

impl InvalidSan {
    /// A closed label for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Certificate => "san_certificate",
            Self::NoUri => "san_no_uri",
            Self::SeveralUris(_) => "san_several_uris",
            Self::Id(_) => "san_no_workload",
        }
    }
}

/// The time during which every certificate of `chain` is valid; `None` if one cannot be parsed or there is none.
pub(crate) fn validity(chain: &[CertificateDer<'_>]) -> Option<(SystemTime, SystemTime)> {
    let mut all: Option<(SystemTime, SystemTime)> = None;
    for certificate in chain {
        let parsed = parse(certificate)?;
        let validity = parsed.validity();
        let (from, to) =
            (unix_time::at(validity.not_before.timestamp()), unix_time::at(validity.not_after.timestamp()));
        all = Some(all.map_or((from, to), |(f, t)| (f.max(from), t.min(to))));
    }
    all
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(certificate).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, parsed)| parsed)
}

fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    parse(certificate).is_some_and(|c| c.subject() == c.issuer())
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;

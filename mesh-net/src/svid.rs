//! A workload's certificate and key (an X.509-SVID), and the roots that it trusts.
//!
//! Keys are made here and stay in this process's memory: what leaves is a signing request.

use std::fmt;
use std::time::SystemTime;

use mesh_core::identity::{InvalidSpiffeId, SpiffeId};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

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
        todo!()
    }

    /// Reads a PKCS#8 or SEC1 private key in PEM.
    ///
    /// # Errors
    /// The text holds no P-256 key.
    pub fn from_pem(_pem: &str) -> Result<Self, KeyError> {
        todo!()
    }

    /// A signing request for `identity`, in PEM: empty subject, one URI SAN.
    ///
    /// # Errors
    /// The identity cannot be written as an IA5String, or signing fails.
    pub fn csr_pem(&self, _identity: &SpiffeId) -> Result<String, KeyError> {
        todo!()
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

/// A certificate with its key: who this process is when it speaks for a workload.
pub struct Svid {
    pub identity: SpiffeId,
    /// Leaf first, then intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// Serial number of the leaf, lower-case hex.
    pub serial_hex: String,
    key: PrivateKeyDer<'static>,
}

impl Svid {
    /// Reads a chain (leaf first) that was issued for `key`.
    ///
    /// # Errors
    /// The PEM has no certificate, the leaf is for another key, or its URI SAN is not exactly one workload identity.
    pub fn from_pem(_chain_pem: &str, _key: &KeyPair) -> Result<Self, InvalidSvid> {
        todo!()
    }
}

/// Why a chain and key are no SVID.
#[derive(Debug, Error)]
pub enum InvalidSvid {
    #[error("read the certificate chain: {0}")]
    Pem(String),
    #[error("the leaf certificate is not for the key that asked for it")]
    KeyMismatch,
    #[error("the leaf certificate's name: {0}")]
    San(#[from] InvalidSan),
}

/// The roots that peers' certificates must chain to.
pub struct TrustBundle {
    roots: Vec<CertificateDer<'static>>,
    fingerprint: String,
}

impl TrustBundle {
    /// Reads one or more root certificates; repeated roots count once.
    ///
    /// # Errors
    /// The PEM has no certificate, or one that cannot be a trust anchor.
    pub fn from_pem(_pem: &str) -> Result<Self, InvalidTrustBundle> {
        todo!()
    }

    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// SHA-256 over the sorted roots, lower-case hex: equal exactly when two bundles trust the same roots.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
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

/// The identity that a certificate names: its one URI SAN (X509-SVID specification, section 2).
///
/// # Errors
/// No URI SAN, more than one, or one that is no workload identity. Never panics, whatever the bytes.
pub fn spiffe_id_of(_certificate: &CertificateDer<'_>) -> Result<SpiffeId, InvalidSan> {
    todo!()
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

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair")
    }
}

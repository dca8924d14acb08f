//! The certificate authority: says in a certificate which workload a key speaks for.
//!
//! Its root is its own, made at the first start and kept in the state directory, or a plugged-in intermediate whose chain
//! ends in a root that somebody else keeps. Either may change while it is at work: see [`rotation`]. A request contributes its
//! public key and the proof that the caller has the private half; everything else in the certificate is decided here.

pub mod cluster;
pub mod elsewhere;
pub mod service;
pub mod serving;
mod current;
mod rotation;
mod files;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::identity::SpiffeId;
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use tokio::sync::watch;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use current::InForce;
pub use current::{AuthorityView, Telemetry, reread};
pub use elsewhere::Elsewhere;
pub use files::FilesError;
use files::Material;
pub use rotation::Stage;

/// Certificates are valid from a little before they are made, for peers whose clock is behind (Istio's allowance).
const BACKDATE: Duration = Duration::from_secs(120);
/// Longest request read: a P-384 request with a few names has under 1 KiB.
const MAX_CSR_BYTES: usize = 16 * 1024;
/// Lifetime of the controller's own serving certificate.
const SERVING_TTL: Duration = Duration::from_secs(24 * 3600);
/// Shortest lifetime issued: below, renewal would be all that an agent does.
const MIN_TTL: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Config {
    /// Holds `ca-key.pem` and `ca-cert.pem` of the own root, and `root-cert.pem` for agents to trust.
    pub state_dir: PathBuf,
    pub trust_domain: String,
    pub plugged_in: Option<PluggedIn>,
    /// PEM file with further roots that agents are to trust: the next one, before it signs, and the last one, after.
    pub extra_roots: Option<PathBuf>,
    /// Lifetime of a leaf whose request names none.
    pub leaf_ttl: Duration,
    pub max_leaf_ttl: Duration,
}

/// An intermediate made elsewhere, in the files that `cacerts` secrets have.
#[derive(Clone, Debug)]
pub struct PluggedIn {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Certificates between `cert` and the root; `cert` itself may stand in it, as it does in `cert-chain.pem`.
    pub chain: Option<PathBuf>,
    pub root: PathBuf,
}

/// Why a request is not signed.
#[derive(Debug, Error)]
pub enum SignError {
    #[error("the request is no PKCS#10 in PEM")]
    Malformed,
    #[error("the request is longer than {MAX_CSR_BYTES} bytes")]
    TooLong,
    #[error("the request's signature does not match its key")]
    Signature,
    #[error("the request's key is not ECDSA P-256 or P-384")]
    KeyType,
    #[error("identity {0} is of another trust domain")]
    TrustDomain(SpiffeId),
    #[error("the authority's own certificate is over")]
    Over,
    #[error("sign: {0}")]
    Library(String),
}

impl SignError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::Signature => "signature",
            Self::KeyType => "key_type",
            Self::TrustDomain(_) => "trust_domain",
            Self::Over => "authority_expired",
            Self::Library(_) => "library",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Signed {
    /// PEM texts: the leaf, intermediates, and last all the roots.
    pub chain: Vec<String>,
    pub serial: String,
    pub not_after: SystemTime,
}

/// A key with its certificate chain, for a TLS server.
#[derive(Debug)]
pub struct Serving {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    pub not_after: SystemTime,
}

pub struct Authority {
    current: watch::Sender<Arc<InForce>>,
    /// PEM text with all roots that agents are to trust, the one that signs first.
    roots: watch::Sender<Arc<str>>,
    config: Config,
}

impl Authority {
    /// Reads the authority's files, or makes them at the first start, and leaves the roots in `root-cert.pem`.
    ///
    /// # Errors
    /// A file cannot be read or written, or the plugged-in files do not belong together.
    pub fn open(config: Config, now: SystemTime) -> Result<Self, FilesError> {
        let material = files::open(&config, now)?;
        Ok(Self::of(config, InForce::steady(material)))
    }

    fn of(config: Config, first: InForce) -> Self {
        let roots = watch::Sender::new(first.material.roots.as_str().into());
        Self { current: watch::Sender::new(Arc::new(first)), roots, config }
    }

    fn now(&self) -> Arc<InForce> {
        self.current.borrow().clone()
    }

    pub fn trust_domain(&self) -> &str {
        &self.config.trust_domain
    }

    /// The roots in PEM, what agents trust: those of now, and every change.
    pub fn roots(&self) -> watch::Receiver<Arc<str>> {
        self.roots.subscribe()
    }

    pub fn not_after(&self) -> SystemTime {
        self.now().material.not_after
    }

    /// Signs for `identity`, which the caller was found to be allowed. Names in the request are not looked at.
    ///
    /// # Errors
    /// The request proves nothing, or its key is of a kind that peers do not take.
    pub fn sign(
        &self,
        csr_pem: &str,
        identity: &SpiffeId,
        ttl: Option<Duration>,
        now: SystemTime,
    ) -> Result<Signed, SignError> {
        if identity.trust_domain() != self.config.trust_domain {
            return Err(SignError::TrustDomain(identity.clone()));
        }
        let key = proven_key(csr_pem)?;
        let uri = Ia5String::try_from(identity.uri()).map_err(|e| SignError::Library(e.to_string()))?;
        let ttl = ttl.unwrap_or(self.config.leaf_ttl).max(MIN_TTL).min(self.config.max_leaf_ttl);
        // One and the same from here on: a leaf and the roots that are told with it.
        let current = self.now();
        let (leaf, serial, not_after) =
            issue(&current.material, vec![SanType::URI(uri)], DistinguishedName::new(), &key, ttl, now)?;
        let mut chain = vec![leaf.pem()];
        chain.extend(current.material.intermediates.iter().cloned());
        chain.push(current.material.roots.clone());
        Ok(Signed { chain, serial, not_after })
    }

    /// A new key and certificate for the controller's own server.
    ///
    /// # Errors
    /// A name is none, or the library fails.
    pub fn serving(&self, names: &[ServerName], now: SystemTime) -> Result<Serving, SignError> {
        let library = |e: rcgen::Error| SignError::Library(e.to_string());
        let key = KeyPair::generate().map_err(library)?;
        let mut sans = Vec::new();
        for name in names {
            sans.push(match name {
                ServerName::Dns(name) => {
                    SanType::DnsName(Ia5String::try_from(name.as_str()).map_err(|e| SignError::Library(e.to_string()))?)
                }
                ServerName::Ip(ip) => SanType::IpAddress(*ip),
            });
        }
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, "weft controller");
        let current = self.now();
        let (leaf, _, not_after) = issue(&current.material, sans, subject, &key, SERVING_TTL, now)?;
        let mut chain = vec![leaf.der().clone()];
        for pem in &current.material.intermediates {
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| SignError::Library(e.to_string()))?;
            chain.push(der);
        }
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Serving { chain, key, not_after })
    }
}

fn issue(
    material: &Material,
    sans: Vec<SanType>,
    subject: DistinguishedName,
    key: &impl PublicKeyData,
    ttl: Duration,
    now: SystemTime,
) -> Result<(rcgen::Certificate, String, SystemTime), SignError> {
    let not_after = (now + ttl).min(material.not_after);
    if not_after <= now {
        return Err(SignError::Over);
    }
    let serial = files::random_serial();
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.subject_alt_names = sans;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = (now - BACKDATE).into();
    params.not_after = not_after.into();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let leaf = params.signed_by(key, &material.issuer).map_err(|e| SignError::Library(e.to_string()))?;
    Ok((leaf, serial.iter().map(|b| format!("{b:02x}")).collect(), not_after))
}

/// A name in the controller's serving certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    Dns(String),
    Ip(IpAddr),
}

/// The public key of a request whose signature proves that the caller has the private key.
fn proven_key(csr_pem: &str) -> Result<SubjectPublicKeyInfo, SignError> {
    if csr_pem.len() > MAX_CSR_BYTES {
        return Err(SignError::TooLong);
    }
    let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes()).map_err(|_| SignError::Malformed)?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| SignError::Malformed)?;
    if !rest.is_empty() {
        return Err(SignError::Malformed);
    }
    let key = &request.certification_request_info.subject_pki;
    // RFC 5480: id-ecPublicKey with a named curve.
    const EC: &str = "1.2.840.10045.2.1";
    const CURVES: [&str; 2] = ["1.2.840.10045.3.1.7", "1.3.132.0.34"];
    let curve = key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).map(|oid| oid.to_id_string());
    let known = key.algorithm.algorithm.to_id_string() == EC && curve.is_some_and(|c| CURVES.contains(&&*c));
    if !known {
        return Err(SignError::KeyType);
    }
    request.verify_signature().map_err(|_| SignError::Signature)?;
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| SignError::KeyType)
}

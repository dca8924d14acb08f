//! A certificate authority for tests: it signs whatever it is asked to, also what no peer should accept.

mod any_server;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::identity::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType,
};

use crate::svid::{KeyPair, Svid, TrustBundle};
use crate::tls::Credentials;
pub use any_server::AnyServer;

/// A root with its key.
pub struct TestCa {
    issuer: Issuer<'static, rcgen::KeyPair>,
    root_pem: String,
}

/// What is to be in a leaf certificate.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub uris: Vec<String>,
    pub dns: Vec<String>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl Leaf {
    /// Valid from an hour ago for a day, as a mesh's authority issues them.
    pub fn of(identity: &SpiffeId) -> Self {
        let now = SystemTime::now();
        Self {
            uris: vec![identity.uri().to_owned()],
            dns: Vec::new(),
            not_before: now - Duration::from_secs(3600),
            not_after: now + Duration::from_secs(23 * 3600),
        }
    }
}

impl TestCa {
    pub fn new(name: &str) -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("the system has randomness");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root_pem = params.self_signed(&key).expect("P-256 signs").pem();
        Self { issuer: Issuer::new(params, key), root_pem }
    }

    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    pub fn trust(&self) -> Arc<TrustBundle> {
        Arc::new(TrustBundle::from_pem(&self.root_pem).expect("the root is a trust anchor"))
    }

    /// Signs `leaf` for a new key; yields the chain and the key, both PEM.
    pub fn issue_pem(&self, leaf: &Leaf) -> (String, String) {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("the system has randomness");
        let certificate = leaf_params(leaf).signed_by(&key, &self.issuer).expect("P-256 signs");
        (format!("{}{}", certificate.pem(), self.root_pem), key.serialize_pem())
    }

    /// An SVID valid from an hour ago for a day.
    pub fn issue(&self, identity: &SpiffeId) -> Arc<Svid> {
        self.issue_leaf(&Leaf::of(identity))
    }

    /// # Panics
    /// The leaf is no SVID: its URI SAN is not one identity.
    pub fn issue_leaf(&self, leaf: &Leaf) -> Arc<Svid> {
        let (chain, key) = self.issue_pem(leaf);
        let key = KeyPair::from_pem(&key).expect("our own key");
        Arc::new(Svid::from_pem(&chain, &key).expect("the leaf is an SVID"))
    }

    /// An SVID of this root that trusts this root.
    pub fn credentials(&self, identity: &SpiffeId) -> Credentials {
        Credentials::new(self.issue(identity), self.trust())
    }

    /// Signs a request of `KeyPair::csr_pem`; yields the chain, PEM, leaf first and root last.
    ///
    /// # Errors
    /// The request is malformed, or not for `identity`.
    pub fn sign(&self, csr_pem: &str, identity: &SpiffeId, lifetime: Duration) -> Result<String, rcgen::Error> {
        let mut request = rcgen::CertificateSigningRequestParams::from_pem(csr_pem)?;
        let asked = &request.params.subject_alt_names;
        if !matches!(&asked[..], [SanType::URI(uri)] if uri.as_str() == identity.uri()) {
            return Err(rcgen::Error::CouldNotParseCertificationRequest);
        }
        let now = SystemTime::now();
        request.params = leaf_params(&Leaf { not_after: now + lifetime, ..Leaf::of(identity) });
        Ok(format!("{}{}", request.signed_by(&self.issuer)?.pem(), self.root_pem))
    }
}

/// A certificate for `leaf` that nobody but itself vouches for; the chain and the key, both PEM.
pub fn self_signed_pem(leaf: &Leaf) -> (String, String) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("the system has randomness");
    let certificate = leaf_params(leaf).self_signed(&key).expect("P-256 signs");
    (certificate.pem(), key.serialize_pem())
}

fn leaf_params(leaf: &Leaf) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uris = leaf.uris.iter().map(|u| SanType::URI(u.as_str().try_into().expect("test URIs are ASCII")));
    let dns = leaf.dns.iter().map(|d| SanType::DnsName(d.as_str().try_into().expect("test names are ASCII")));
    params.subject_alt_names = uris.chain(dns).collect();
    params.not_before = leaf.not_before.into();
    params.not_after = leaf.not_after.into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

//! Certificates of the caller's choice: good ones in the wrong hands, and all kinds of bad ones.

use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use weft_tests::mesh::Mesh;

/// An authority whose key the test has.
pub(super) struct Ca {
    issuer: Issuer<'static, KeyPair>,
}

pub(super) struct Minted {
    pub(super) chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Ca {
    /// The mesh's own.
    pub(super) fn of(mesh: &Mesh) -> Result<Ca> {
        let state = mesh.world.wire().dir().join("ctrl");
        let key = KeyPair::from_pem(&fs::read_to_string(state.join("ca-key.pem"))?)?;
        let certificate = fs::read_to_string(state.join("ca-cert.pem"))?;
        Ok(Ca { issuer: Issuer::from_ca_cert_pem(&certificate, key)? })
    }

    /// One that nobody trusts.
    pub(super) fn new() -> Result<Ca> {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Ok(Ca { issuer: Issuer::new(params, KeyPair::generate()?) })
    }

    pub(super) fn mint(&self, uris: &[&str], from: SystemTime, until: SystemTime) -> Result<Minted> {
        let key = KeyPair::generate()?;
        let certificate = leaf(uris, from, until)?.signed_by(&key, &self.issuer)?;
        Ok(Minted { chain: vec![certificate.der().clone()], key: key.serialize_der().into() })
    }
}

pub(super) fn self_signed(uri: &str) -> Result<Minted> {
    let key = KeyPair::generate()?;
    let now = SystemTime::now();
    let certificate = leaf(&[uri], now - Duration::from_secs(60), now + Duration::from_secs(60))?.self_signed(&key)?;
    Ok(Minted { chain: vec![certificate.der().clone()], key: key.serialize_der().into() })
}

fn leaf(uris: &[&str], from: SystemTime, until: SystemTime) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = uris.iter().map(|uri| Ok(SanType::URI((*uri).try_into()?))).collect::<Result<_>>()?;
    params.not_before = from.into();
    params.not_after = until.into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

impl Minted {
    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

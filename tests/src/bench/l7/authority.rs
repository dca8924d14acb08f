//! A certificate authority for one run, in files that all its processes read.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use mesh_core::identity::SpiffeId;
use mesh_net::ca::CaError;
use mesh_net::certificates::{self, Certificates, Lease, Signer};
use mesh_net::svid::{self, Svid, TrustBundle};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::address::{Role, SERVER_NAME};

/// Signs for whoever asks.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: String,
}

/// A certificate and its key, PEM.
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
}

impl Authority {
    /// Makes one, and writes it and a certificate for proxies and for backends to `dir`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn make(dir: &Path) -> Result<Authority> {
        let (authority, key) = Authority::fresh()?;
        fs::write(dir.join(ROOT), &authority.root)?;
        fs::write(dir.join(KEY), key)?;
        for (role, name) in [(Role::Proxy, "proxy"), (Role::Backend, "backend")] {
            let Issued { chain, key } = authority.issue(role)?;
            fs::write(dir.join(format!("{name}.pem")), &chain)?;
            fs::write(dir.join(format!("{name}.key")), &key)?;
            fs::write(dir.join(format!("{name}-both.pem")), chain + &key)?;
        }
        Ok(authority)
    }

    /// One that nobody else knows, and its key as PEM.
    pub(in crate::bench) fn fresh() -> Result<(Authority, String)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "bench");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let (root, key_pem) = (params.self_signed(&key)?.pem(), key.serialize_pem());
        Ok((Authority { issuer: Issuer::from_ca_cert_pem(&root, key)?, root }, key_pem))
    }

    /// The one that was made in `dir`.
    ///
    /// # Errors
    /// When there is none.
    pub fn read(dir: &Path) -> Result<Authority> {
        let root = fs::read_to_string(dir.join(ROOT)).context("the authority's root")?;
        let key = KeyPair::from_pem(&fs::read_to_string(dir.join(KEY)).context("the authority's key")?)?;
        Ok(Authority { issuer: Issuer::from_ca_cert_pem(&root, key)?, root })
    }

    pub(super) fn root(&self) -> &str {
        &self.root
    }

    /// A certificate with an identity for meshes and a name for everybody else.
    pub(super) fn issue(&self, role: Role) -> Result<Issued> {
        let key = KeyPair::generate()?;
        let mut params = leaf(&role.identity(), DAY)?;
        params.subject_alt_names.push(SanType::DnsName(SERVER_NAME.try_into()?));
        let chain = params.signed_by(&key, &self.issuer)?.pem() + &self.root;
        Ok(Issued { chain, key: key.serialize_pem() })
    }

    /// A certificate for `role`, to be used for handshakes.
    pub(in crate::bench) fn svid(&self, role: Role) -> Result<(Arc<Svid>, Arc<TrustBundle>)> {
        let Issued { chain, key } = self.issue(role)?;
        let svid = Svid::from_pem(&chain, &svid::KeyPair::from_pem(&key)?)?;
        Ok((Arc::new(svid), Arc::new(TrustBundle::from_pem(&self.root)?)))
    }

    /// A certificate for `role` as the mesh's programs keep one. In a runtime of tokio.
    #[must_use]
    pub fn lease(self, role: Role) -> Lease {
        Certificates::start(certificates::Config::default(), self).lease(&role.identity())
    }
}

impl Signer for Authority {
    async fn sign(&self, csr_pem: String, identity: &SpiffeId, ttl: Duration) -> Result<Vec<String>, CaError> {
        let signed = || -> Result<String> {
            let mut request = CertificateSigningRequestParams::from_pem(&csr_pem)?;
            request.params = leaf(identity, ttl)?;
            Ok(request.signed_by(&self.issuer)?.pem())
        };
        Ok(vec![signed().expect("requests of our own are in order"), self.root.clone()])
    }
}

fn leaf(identity: &SpiffeId, lifetime: Duration) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.uri().try_into()?)];
    let now = SystemTime::now();
    (params.not_before, params.not_after) = ((now - DAY / 24).into(), (now + lifetime).into());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

pub(super) const ROOT: &str = "root.pem";
const KEY: &str = "root.key";
const DAY: Duration = Duration::from_secs(24 * 3600);

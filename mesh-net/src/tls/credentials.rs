//! What one identity shows and whom it trusts, with the rustls configurations made from them.

use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::HandshakeError;
use crate::svid::{Svid, TrustBundle, spiffe_id_of};

/// What one identity shows and whom it trusts.
///
/// A cheap clone. One value is one generation: tickets and sessions that came from it die with it, so a renewed
/// certificate or a changed bundle is a new value.
#[derive(Clone)]
pub struct Credentials {
    shared: Arc<Shared>,
}

struct Shared {
    svid: Arc<Svid>,
    trust: Arc<TrustBundle>,
    clients: Cache<ClientConfig>,
    servers: Cache<ServerConfig>,
}

impl Credentials {
    pub fn new(svid: Arc<Svid>, trust: Arc<TrustBundle>) -> Self {
        let (clients, servers) = (Cache::default(), Cache::default());
        Self { shared: Arc::new(Shared { svid, trust, clients, servers }) }
    }

    pub fn svid(&self) -> &Arc<Svid> {
        &self.shared.svid
    }

    pub fn trust(&self) -> &Arc<TrustBundle> {
        &self.shared.trust
    }

    pub(super) fn client(&self, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, HandshakeError> {
        self.shared.clients.get(alpn, || self.build_client(alpn)).map_err(|e| self.unusable(&e))
    }

    pub(super) fn server(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, HandshakeError> {
        self.shared.servers.get(alpn, || self.build_server(alpn)).map_err(|e| self.unusable(&e))
    }

    fn unusable(&self, why: &Error) -> HandshakeError {
        HandshakeError::OwnCertificate { identity: self.shared.svid.identity.clone(), why: why.to_string() }
    }

    fn build_client(&self, alpn: &[&[u8]]) -> Result<ClientConfig, Error> {
        let provider = PROVIDER.clone();
        let verifier = AnyPeer { roots: self.shared.trust.store(), provider: provider.clone() };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(TLS13)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.shared.svid.certified_key())));
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        config.enable_sni = false;
        config.enable_secret_extraction = true;
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(config)
    }

    fn build_server(&self, alpn: &[&[u8]]) -> Result<ServerConfig, Error> {
        let provider = PROVIDER.clone();
        let chain = WebPkiClientVerifier::builder_with_provider(self.shared.trust.store(), provider.clone())
            .clear_root_hint_subjects()
            .build()
            .map_err(|e| Error::General(e.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(TLS13)?
            .with_client_cert_verifier(Arc::new(AnyWorkload { chain }))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.shared.svid.certified_key())));
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        config.enable_secret_extraction = true;
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        // A tunnel connection is long: one ticket is what a peer needs to dial again.
        config.send_tls13_tickets = 1;
        Ok(config)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("svid", &self.shared.svid).field("trust", &self.shared.trust).finish()
    }
}

/// Configurations by the application protocols that they offer; a program offers a handful of lists.
struct Cache<C>(Mutex<Vec<(Protocols, Arc<C>)>>);

/// ALPN names, best first.
type Protocols = Vec<Vec<u8>>;

impl<C> Default for Cache<C> {
    fn default() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

impl<C> Cache<C> {
    fn get(&self, alpn: &[&[u8]], build: impl FnOnce() -> Result<C, Error>) -> Result<Arc<C>, Error> {
        let mut built = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, config)) = built.iter().find(|(key, _)| key == alpn) {
            return Ok(config.clone());
        }
        let config = Arc::new(build()?);
        built.push((alpn.iter().map(|p| p.to_vec()).collect(), config.clone()));
        Ok(config)
    }
}

/// As a client: accepts whoever chains to a root, for server authentication, and names one workload.
#[derive(Debug)]
struct AnyPeer {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyPeer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = rustls::server::ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, intermediates, now, algorithms)?;
        names_a_workload(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(TLS12_IS_NOT_SPOKEN)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// As a server: what webpki says of the chain, and the certificate names one workload.
#[derive(Debug)]
struct AnyWorkload {
    chain: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for AnyWorkload {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        names_a_workload(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(TLS12_IS_NOT_SPOKEN)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

fn names_a_workload(leaf: &CertificateDer<'_>) -> Result<(), Error> {
    spiffe_id_of(leaf)
        .map(drop)
        .map_err(|e| Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(e)))))
}

const TLS12_IS_NOT_SPOKEN: Error = Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled);
const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// AES-128 first: 1.3 times as fast as AES-256 and as strong as P-256; a peer may choose either.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    use aws_lc_rs::{cipher_suite as suite, kx_group};
    Arc::new(CryptoProvider {
        cipher_suites: vec![suite::TLS13_AES_128_GCM_SHA256, suite::TLS13_AES_256_GCM_SHA384],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    })
});

/// Peers whose sessions are remembered, per identity and generation; about 2 KiB each.
const SESSIONS: usize = 1024;

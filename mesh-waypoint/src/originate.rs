//! TLS of the waypoint's own to endpoints, as DestinationRules ask for it, within whatever carries it.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io, ptr};

use mesh_core::l7::destination::{Originate, Roots, Tls};
use mesh_net::svid::spiffe_id_of;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::{debug, warn};

/// Why there is no TLS with an endpoint.
#[derive(Debug, Error)]
pub enum OriginateError {
    #[error("TLS cannot be begun: {0}")]
    Credentials(Arc<str>),
    #[error("{0:?} is no name of a server")]
    Name(Arc<str>),
    #[error("TLS handshake: {0}")]
    Handshake(#[source] io::Error),
}

/// What one setting comes to. Files are read when they are needed, and again once what was read is a minute old.
#[derive(Debug)]
pub struct Origination {
    tls: Tls,
    made: Mutex<Option<Made>>,
}

#[derive(Debug)]
struct Made {
    config: Arc<ClientConfig>,
    /// `None`: there are no files.
    until: Option<Instant>,
}

/// The settings of a model, each once.
#[derive(Clone, Debug, Default)]
pub struct Originations(HashMap<Tls, Arc<Origination>>);

impl Originations {
    /// What was there before keeps its sessions.
    pub fn compile<'a>(settings: impl Iterator<Item = &'a Tls>, before: &Self) -> Self {
        let made = |tls: &Tls| {
            let known = before.0.get(tls).cloned();
            known.unwrap_or_else(|| Arc::new(Origination { tls: tls.clone(), made: Mutex::default() }))
        };
        Self(settings.filter(|tls| **tls != Tls::None).map(|tls| (tls.clone(), made(tls))).collect())
    }

    /// `None`: no TLS.
    pub fn of(&self, tls: &Tls) -> Option<&Arc<Origination>> {
        self.0.get(tls)
    }
}

/// TLS with one host, as one protocol.
#[derive(Clone, Debug)]
pub struct Secured {
    origination: Arc<Origination>,
    host: Arc<str>,
    alpn: Option<&'static [u8]>,
}

/// Two are the same where a connection of one serves for the other.
impl PartialEq for Secured {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.origination, &other.origination) && self.host == other.host && self.alpn == other.alpn
    }
}

impl Eq for Secured {}

impl Hash for Secured {
    fn hash<H: Hasher>(&self, state: &mut H) {
        ptr::hash(Arc::as_ptr(&self.origination), state);
        self.host.hash(state);
        self.alpn.hash(state);
    }
}

impl Secured {
    /// `host`: of the service; the setting's SNI goes before it.
    pub fn new(origination: Arc<Origination>, host: Arc<str>) -> Self {
        Self { origination, host, alpn: None }
    }

    /// Offers one protocol, by its name (RFC 7301).
    #[must_use]
    pub fn offering(&self, alpn: &'static [u8]) -> Self {
        Self { alpn: Some(alpn), ..self.clone() }
    }

    /// # Errors
    /// See [`OriginateError`].
    pub async fn handshake<T>(&self, io: T) -> Result<TlsStream<T>, OriginateError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let settings = match &self.origination.tls {
            Tls::Originate(settings) => settings,
            Tls::Refused(why) => return Err(OriginateError::Credentials(why.clone())),
            Tls::None => return Err(OriginateError::Credentials("nobody has asked for it".into())),
        };
        let mut config = ClientConfig::clone(&*self.origination.config(settings)?);
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        let host = settings.sni.as_ref().unwrap_or(&self.host);
        let name = ServerName::try_from(host.to_string()).map_err(|_| OriginateError::Name(host.clone()))?;
        TlsConnector::from(Arc::new(config)).connect(name, io).await.map_err(OriginateError::Handshake)
    }
}

impl Origination {
    fn config(&self, settings: &Originate) -> Result<Arc<ClientConfig>, OriginateError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match &*made {
            Some(known) if known.until.is_none_or(|until| now < until) => return Ok(known.config.clone()),
            _ => {}
        }
        match config(settings) {
            Ok(config) => {
                let config = Arc::new(config);
                let until = has_files(settings).then(|| now + FRESH);
                *made = Some(Made { config: config.clone(), until });
                Ok(config)
            }
            // Files that are being written; what was read from them before still holds.
            Err(why) => match &*made {
                Some(known) => {
                    warn!(why, "files for TLS with an endpoint cannot be read; what was read before stays in use");
                    Ok(known.config.clone())
                }
                None => Err(OriginateError::Credentials(why.into())),
            },
        }
    }
}

/// How long what was read from files is used before they are read again.
const FRESH: Duration = Duration::from_secs(60);

fn has_files(settings: &Originate) -> bool {
    settings.client.is_some() || matches!(settings.roots, Some(Roots::File(_)))
}

fn config(settings: &Originate) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let names = settings.subject_alt_names.iter().map(|name| Name::of(name)).collect::<Result<_, _>>()?;
    let roots = match (settings.insecure, &settings.roots) {
        (true, _) => None,
        (false, None) => Some(system_roots()),
        (false, Some(Roots::Text(pem))) => Some(Arc::new(trusted(pem)?)),
        (false, Some(Roots::File(path))) => Some(Arc::new(trusted(&read(path)?)?)),
    };
    let verifier = Verifier { provider: provider.clone(), roots, names };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        // The names that are looked for are not always the one that is asked for.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some(client) = &settings.client else { return Ok(config.with_no_client_auth()) };
    let (chain, key) = (certificates(&read(&client.chain)?)?, read(&client.key)?);
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| format!("the client's key: {error}"))?;
    config.with_client_auth_cert(chain, key).map_err(|error| format!("the client's certificate: {error}"))
}

fn trusted(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| format!("a root: {error}"))?;
    }
    Ok(roots)
}

/// At least one.
fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|error| format!("certificates: {error}"))?;
    if found.is_empty() { Err("there are no certificates where there should be".to_owned()) } else { Ok(found) }
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("read {path}: {error}"))
}

/// A name that the server's certificate may have.
#[derive(Debug)]
enum Name {
    /// DNS or an address.
    Server(ServerName<'static>),
    /// `spiffe://..`
    Identity(String),
}

impl Name {
    fn of(name: &str) -> Result<Self, String> {
        if name.starts_with("spiffe://") {
            return Ok(Self::Identity(name.to_owned()));
        }
        let server = ServerName::try_from(name.to_owned());
        server.map(Self::Server).map_err(|_| format!("{name:?} is no name that a certificate could have"))
    }

    fn is_of(&self, parsed: &ParsedCertificate<'_>, certificate: &CertificateDer<'_>) -> bool {
        match self {
            Self::Server(name) => verify_server_name(parsed, name).is_ok(),
            Self::Identity(uri) => spiffe_id_of(certificate).is_ok_and(|id| id.uri() == uri),
        }
    }
}

/// Asks for a chain to a root, and for one of the names or, without any, the one that was asked for.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// `None`: whoever it is.
    roots: Option<Arc<RootCertStore>>,
    names: Vec<Name>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        if self.names.is_empty() {
            verify_server_name(&parsed, server_name)?;
        } else if !self.names.iter().any(|name| name.is_of(&parsed, certificate)) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Read once: an image does not change.
pub fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let read = || {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            warn!(%error, "the system's roots were not all read");
        }
        let mut roots = RootCertStore::empty();
        let (added, ignored) = roots.add_parsable_certificates(found.certs);
        debug!(added, ignored, "the system's roots read");
        Arc::new(roots)
    };
    ROOTS.get_or_init(read).clone()
}

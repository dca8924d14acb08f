//! Mutual TLS between two workloads: who is at the other end, proven.
//!
//! TLS 1.3 only; AES-GCM; X25519MLKEM768, X25519, P-256; no SNI.
//!
//! The dialling side names the identities that it expects. They differ from dial to dial while the rustls configuration
//! is shared, so the verifier proves the chain and the name is compared once the handshake is done, before a byte of
//! the application is sent: also after a resumption, which shows no certificate.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::identity::SpiffeId;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{CommonState, HandshakeKind};
use rustls_pki_types::{CertificateDer, ServerName};
use thiserror::Error;
use tokio::net::TcpStream;

use crate::svid::{self, InvalidSan};

mod handshake;
#[cfg(any(test, feature = "testing"))]
pub mod raw;
pub(crate) mod link;
mod block;
mod session;
mod lent;
pub mod budget;
mod record;
mod credentials;

pub use credentials::Credentials;
use handshake::End;
use link::Link;
pub use session::KEY_LIMIT;
use session::Session;

/// ALPN of the HBONE tunnel (RFC 9113, section 3.1): what every peer understands.
pub const ALPN_H2: &[u8] = b"h2";
/// ALPN of Weft's own tunnel (docs/transport.md).
pub const ALPN_WEFT: &[u8] = b"weft/1";

/// Trust domains whose peers are let in: the mesh's own and its aliases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomains {
    pub own: Arc<str>,
    pub aliases: Vec<Arc<str>>,
}

impl TrustDomains {
    pub fn only(own: &str) -> Self {
        Self { own: own.into(), aliases: Vec::new() }
    }

    pub fn accepts(&self, id: &SpiffeId) -> bool {
        id.trust_domain() == &*self.own || self.aliases.iter().any(|a| id.trust_domain() == &**a)
    }
}

/// The dialling end of an encrypted connection to `peer`. To be handed to a tunnel.
pub struct ClientTls(Peered);

/// The accepting end of an encrypted connection from `peer`. To be handed to a tunnel.
pub struct ServerTls(Peered);

/// Either end, once the peer is known.
pub(crate) struct Peered {
    link: Box<Link>,
    facts: Box<Facts>,
}

/// What the handshake settled.
struct Facts {
    peer: SpiffeId,
    peer_until: SystemTime,
    alpn: Vec<u8>,
    resumed: bool,
    key_exchange: Option<&'static str>,
}

macro_rules! encrypted_end {
    ($end:ident) => {
        impl $end {
            /// The identity that the peer proved.
            pub fn peer(&self) -> &SpiffeId {
                &self.0.facts.peer
            }

            /// When the first certificate of the chain runs out by which the peer proved it.
            pub fn peer_until(&self) -> SystemTime {
                self.0.facts.peer_until
            }

            /// The application protocol that both chose.
            pub fn alpn(&self) -> &[u8] {
                &self.0.facts.alpn
            }

            /// Whether a ticket of an earlier connection spared the certificates.
            pub fn resumed(&self) -> bool {
                self.0.facts.resumed
            }

            /// The agreed key exchange, by its IANA name.
            pub fn key_exchange(&self) -> Option<&'static str> {
                self.0.facts.key_exchange
            }

            pub(crate) fn into_inner(self) -> Peered {
                self.0
            }
        }
    };
}

encrypted_end!(ClientTls);
encrypted_end!(ServerTls);

impl Peered {
    pub(crate) fn peer(&self) -> &SpiffeId {
        &self.facts.peer
    }

    /// The connection without what the handshake settled; its keys are renewed after `key_records` records.
    pub(crate) fn into_link(mut self, key_records: u64) -> Link {
        self.link.session().limit_keys(key_records);
        *self.link
    }
}

/// Handshakes as the dialling side; the peer must prove to be one of `expected`.
///
/// # Errors
/// See [`HandshakeError`]; the connection is gone in each case.
pub async fn connect(
    tcp: TcpStream,
    credentials: &Credentials,
    expected: &[SpiffeId],
    alpn: &[&[u8]],
    timeout: Duration,
) -> Result<ClientTls, HandshakeError> {
    let config = credentials.client(alpn)?;
    let address = tcp.peer_addr().map_err(HandshakeError::Io)?.ip();
    let name = ServerName::IpAddress(address.into());
    let end = UnbufferedClientConnection::new(config, name).map_err(HandshakeError::from_tls)?;
    let encrypted = set_up(tcp, end, timeout, |peer| match expected.contains(&peer) {
        true => Ok(peer),
        false => Err(HandshakeError::WrongIdentity { expected: expected.to_vec(), presented: peer }),
    });
    Ok(ClientTls(encrypted.await?))
}

/// Handshakes as the accepting side; the peer must prove an identity in one of `trust_domains`.
///
/// # Errors
/// See [`HandshakeError`]; the connection is gone in each case.
pub async fn accept(
    tcp: TcpStream,
    credentials: &Credentials,
    trust_domains: &TrustDomains,
    alpn: &[&[u8]],
    timeout: Duration,
) -> Result<ServerTls, HandshakeError> {
    let config = credentials.server(alpn)?;
    let end = UnbufferedServerConnection::new(config).map_err(HandshakeError::from_tls)?;
    let encrypted = set_up(tcp, end, timeout, |peer| match trust_domains.accepts(&peer) {
        true => Ok(peer),
        false => Err(HandshakeError::TrustDomain { peer }),
    });
    Ok(ServerTls(encrypted.await?))
}

/// Handshakes, and asks whether the peer is one to go on with.
async fn set_up<E: End>(
    tcp: TcpStream,
    end: E,
    timeout: Duration,
    welcome: impl FnOnce(SpiffeId) -> Result<SpiffeId, HandshakeError>,
) -> Result<Peered, HandshakeError> {
    // Boxed: the handshake's state is several KiB and would stay in the caller's future for the connection's life.
    let handshake = Box::pin(async move {
        let (mut tcp, mut end) = (tcp, end);
        let early = handshake::run(&mut tcp, &mut end).await;
        early.map(|early| (tcp, end, early))
    });
    let (tcp, end, early) = tokio::time::timeout(timeout, handshake)
        .await
        .map_err(|_| HandshakeError::Timeout(timeout))?
        .map_err(HandshakeError::from_failure)?;
    let common = end.common();
    let (peer, peer_until) = proven_peer(common, SystemTime::now())?;
    let facts = Facts {
        peer: welcome(peer)?,
        peer_until,
        alpn: common.alpn_protocol().unwrap_or_default().to_vec(),
        resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
        key_exchange: common.negotiated_key_exchange_group().and_then(|g| g.name().as_str()),
    };
    let (secrets, origin) = end.into_secrets().map_err(HandshakeError::from_tls)?;
    let session = Session::new(secrets, origin).map_err(|error| HandshakeError::Protocol(error.to_string()))?;
    Ok(Peered { link: Box::new(Link::new(tcp, session, &early)), facts: Box::new(facts) })
}

/// The peer's identity after a handshake, full or resumed, and until when its certificates are valid.
fn proven_peer(session: &CommonState, now: SystemTime) -> Result<(SpiffeId, SystemTime), HandshakeError> {
    if session.alpn_protocol().is_none() {
        return Err(HandshakeError::NoAlpn);
    }
    let chain = session.peer_certificates().unwrap_or_default();
    let until = still_valid(chain, now)?;
    let peer = svid::spiffe_id_of(chain.first().ok_or(HandshakeError::NoCertificate)?)?;
    Ok((peer, until))
}

/// Until when a chain is valid, if it is. A resumption repeats no check of certificates: what it resumes may have run out
/// in between.
fn still_valid(chain: &[CertificateDer<'_>], now: SystemTime) -> Result<SystemTime, HandshakeError> {
    let (not_before, not_after) = svid::validity(chain).ok_or(HandshakeError::NoCertificate)?;
    match () {
        () if now > not_after => Err(HandshakeError::Expired),
        () if now < not_before => Err(HandshakeError::NotYetValid),
        () => Ok(not_after),
    }
}

/// Why there is no encrypted connection.
#[derive(Debug, Error)]
pub enum HandshakeError {
    #[error("the peer showed no certificate")]
    NoCertificate,
    #[error("the peer's certificate does not chain to a trusted root: {0}")]
    UnknownIssuer(String),
    #[error("the peer's certificate is unusable: {0}")]
    BadCertificate(String),
    #[error("the peer's certificate has expired")]
    Expired,
    #[error("the peer's certificate is not valid yet")]
    NotYetValid,
    #[error("the peer's certificate names no workload: {0}")]
    San(#[from] InvalidSan),
    #[error("dialled {expected:?}, met {presented}")]
    WrongIdentity { expected: Vec<SpiffeId>, presented: SpiffeId },
    #[error("the peer {peer} is of a trust domain that is not accepted")]
    TrustDomain { peer: SpiffeId },
    #[error("no application protocol in common")]
    NoAlpn,
    #[error("no handshake within {0:?}")]
    Timeout(Duration),
    /// This side's own certificate or key cannot be used, so no peer was asked.
    #[error("use the certificate of {identity}: {why}")]
    OwnCertificate { identity: SpiffeId, why: String },
    #[error("TLS handshake: {0}")]
    Io(#[source] io::Error),
    #[error("TLS handshake: {0}")]
    Protocol(String),
}

impl HandshakeError {
    /// A closed label for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "tls_no_certificate",
            Self::UnknownIssuer(_) => "tls_unknown_issuer",
            Self::BadCertificate(_) => "tls_bad_certificate",
            Self::Expired => "tls_expired",
            Self::NotYetValid => "tls_not_yet_valid",
            Self::San(_) => "tls_invalid_san",
            Self::WrongIdentity { .. } => "tls_wrong_identity",
            Self::TrustDomain { .. } => "tls_trust_domain",
            Self::NoAlpn => "tls_no_alpn",
            Self::Timeout(_) => "tls_timeout",
            Self::OwnCertificate { .. } => "tls_own_certificate",
            Self::Io(_) => "tls_io",
            Self::Protocol(_) => "tls_protocol",
        }
    }

    fn from_failure(failure: handshake::Failure) -> Self {
        match failure {
            handshake::Failure::Io(error) => Self::Io(error),
            handshake::Failure::Tls(error) => Self::from_tls(error),
        }
    }

    fn from_tls(error: rustls::Error) -> Self {
        match &error {
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::NoApplicationProtocol
            | rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol) => Self::NoAlpn,
            rustls::Error::InvalidCertificate(why) => Self::from_certificate(why),
            other => Self::Protocol(other.to_string()),
        }
    }

    fn from_certificate(error: &rustls::CertificateError) -> Self {
        use rustls::CertificateError as E;
        match error {
            E::Expired | E::ExpiredContext { .. } => Self::Expired,
            E::NotValidYet | E::NotValidYetContext { .. } => Self::NotYetValid,
            E::UnknownIssuer | E::BadSignature => Self::UnknownIssuer(error.to_string()),
            E::Other(other) => match other.0.downcast_ref::<InvalidSan>() {
                Some(san) => Self::San(san.clone()),
                None => Self::BadCertificate(error.to_string()),
            },
            _ => Self::BadCertificate(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;

//! Mutual TLS between two workloads: who is at the other end, proven.
//!
//! TLS 1.3 only unless a setting says otherwise; AES-GCM; X25519MLKEM768, X25519, P-256; no SNI.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::SpiffeId;
use thiserror::Error;
use tokio::net::TcpStream;

use crate::svid::{InvalidSan, Svid, TrustBundle};

/// ALPN of the HBONE tunnel (RFC 9113, section 3.1).
pub const ALPN_H2: &[u8] = b"h2";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Also speak TLS 1.2, for peers that cannot do better. Off by default.
    pub allow_tls12: bool,
}

/// What one identity shows and whom it trusts, with the TLS configurations made from them.
///
/// A cheap clone. One value is one generation: tickets and sessions that came from it die with it, so a renewed
/// certificate or a changed bundle is a new value.
#[derive(Clone)]
pub struct Credentials {
    svid: Arc<Svid>,
    trust: Arc<TrustBundle>,
}

impl Credentials {
    pub fn new(svid: Arc<Svid>, trust: Arc<TrustBundle>, _config: Config) -> Self {
        Self { svid, trust }
    }

    pub fn svid(&self) -> &Arc<Svid> {
        &self.svid
    }

    pub fn trust(&self) -> &Arc<TrustBundle> {
        &self.trust
    }
}

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

/// The dialling end of an encrypted connection to `peer`. Reads and writes plaintext.
pub struct ClientTls {
    peer: SpiffeId,
}

impl ClientTls {
    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }

    /// The application protocol that the peer chose.
    pub fn alpn(&self) -> &[u8] {
        todo!()
    }
}

/// The accepting end of an encrypted connection from `peer`. Reads and writes plaintext.
pub struct ServerTls {
    peer: SpiffeId,
}

impl ServerTls {
    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }

    pub fn alpn(&self) -> &[u8] {
        todo!()
    }
}

/// Handshakes as the dialling side; the peer must prove to be one of `expected`.
///
/// # Errors
/// See [`HandshakeError`]; the connection is gone in each case.
pub async fn connect(
    _tcp: TcpStream,
    _credentials: &Credentials,
    _expected: &[SpiffeId],
    _alpn: &[&[u8]],
    _timeout: Duration,
) -> Result<ClientTls, HandshakeError> {
    todo!()
}

/// Handshakes as the accepting side; the peer must prove an identity in one of `trust_domains`.
///
/// # Errors
/// See [`HandshakeError`]; the connection is gone in each case.
pub async fn accept(
    _tcp: TcpStream,
    _credentials: &Credentials,
    _trust_domains: &TrustDomains,
    _alpn: &[&[u8]],
    _timeout: Duration,
) -> Result<ServerTls, HandshakeError> {
    todo!()
}

/// Why there is no encrypted connection.
#[derive(Debug, Error)]
pub enum HandshakeError {
    #[error("the peer showed no certificate")]
    NoCertificate,
    #[error("the peer's certificate does not chain to a trusted root: {0}")]
    UnknownIssuer(String),
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
}

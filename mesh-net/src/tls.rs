//! Mutual TLS between two workloads: who is at the other end, proven.
//!
//! TLS 1.3 only unless a setting says otherwise; AES-GCM; X25519MLKEM768, X25519, P-256; no SNI.
//!
//! The dialling side names the identities that it expects. They differ from dial to dial while the rustls configuration
//! is shared, so the verifier proves the chain and the name is compared once the handshake is done, before a byte of
//! the application is sent: also after a resumption, which shows no certificate.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use mesh_core::identity::SpiffeId;
use rustls::{CommonState, HandshakeKind};
use rustls_pki_types::{CertificateDer, ServerName};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::svid::{self, InvalidSan};

mod credentials;
mod readahead;

pub use credentials::Credentials;
use readahead::ReadAhead;

/// ALPN of the HBONE tunnel (RFC 9113, section 3.1).
pub const ALPN_H2: &[u8] = b"h2";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Also speak TLS 1.2, for peers that cannot do better. Off by default.
    pub allow_tls12: bool,
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
pub struct ClientTls(Encrypted);

/// The accepting end of an encrypted connection from `peer`. Reads and writes plaintext.
pub struct ServerTls(Encrypted);

/// Either end, once the peer is known.
pub(crate) struct Encrypted {
    stream: Box<TlsStream<ReadAhead<TcpStream>>>,
    peer: SpiffeId,
    peer_until: SystemTime,
}

macro_rules! encrypted_end {
    ($end:ident) => {
        impl $end {
            /// The identity that the peer proved.
            pub fn peer(&self) -> &SpiffeId {
                &self.0.peer
            }

            /// When the first certificate of the chain runs out by which the peer proved it.
            pub fn peer_until(&self) -> SystemTime {
                self.0.peer_until
            }

            /// The application protocol that both chose.
            pub fn alpn(&self) -> &[u8] {
                state(&self.0.stream).alpn_protocol().unwrap_or_default()
            }

            /// Whether a ticket of an earlier connection spared the certificates.
            pub fn resumed(&self) -> bool {
                state(&self.0.stream).handshake_kind() == Some(HandshakeKind::Resumed)
            }

            /// The agreed key exchange, by its IANA name.
            pub fn key_exchange(&self) -> Option<&'static str> {
                state(&self.0.stream).negotiated_key_exchange_group().and_then(|g| g.name().as_str())
            }

            pub(crate) fn into_inner(self) -> Encrypted {
                self.0
            }
        }

        impl AsyncRead for $end {
            fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
            }
        }

        impl AsyncWrite for $end {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.get_mut().0).poll_flush(cx)
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
            }
        }
    };
}

encrypted_end!(ClientTls);
encrypted_end!(ServerTls);

impl Encrypted {
    pub(crate) fn peer(&self) -> &SpiffeId {
        &self.peer
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
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
    let handshake = TlsConnector::from(config).connect_with(name, ReadAhead::new(tcp), |session| {
        session.set_buffer_limit(Some(SEND_BUFFER));
    });
    // Boxed: the handshake's state is several KiB and would stay in the caller's future for the connection's life.
    let stream = tokio::time::timeout(timeout, Box::pin(handshake))
        .await
        .map_err(|_| HandshakeError::Timeout(timeout))?
        .map_err(HandshakeError::from_io)?;
    let (peer, peer_until) = proven_peer(stream.get_ref().1, SystemTime::now())?;
    if !expected.contains(&peer) {
        return Err(HandshakeError::WrongIdentity { expected: expected.to_vec(), presented: peer });
    }
    Ok(ClientTls(Encrypted { stream: Box::new(stream.into()), peer, peer_until }))
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
    let handshake = TlsAcceptor::from(config).accept_with(ReadAhead::new(tcp), |session| {
        session.set_buffer_limit(Some(SEND_BUFFER));
    });
    let stream = tokio::time::timeout(timeout, Box::pin(handshake))
        .await
        .map_err(|_| HandshakeError::Timeout(timeout))?
        .map_err(HandshakeError::from_io)?;
    let (peer, peer_until) = proven_peer(stream.get_ref().1, SystemTime::now())?;
    if !trust_domains.accepts(&peer) {
        return Err(HandshakeError::TrustDomain { peer });
    }
    Ok(ServerTls(Encrypted { stream: Box::new(stream.into()), peer, peer_until }))
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

fn state<T>(stream: &TlsStream<T>) -> &CommonState {
    stream.get_ref().1
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

    fn from_io(error: io::Error) -> Self {
        let Some(tls) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) else {
            return Self::Io(error);
        };
        match tls {
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

/// Ciphertext that a connection may hold for its socket, in bytes: sixteen full records, one write.
const SEND_BUFFER: usize = 16 * (16 << 10);

#[cfg(test)]
mod tests;

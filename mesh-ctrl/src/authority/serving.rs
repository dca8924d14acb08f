//! The controller's own TLS: a certificate of its own authority, renewed at half life and with its root, and the accepting of connections.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::{debug, error, info, warn};

use super::{Authority, ServerName, SignError};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes under way at once; more wait in the listener's queue.
const MAX_HANDSHAKES: usize = 256;
/// How often the certificate's age is looked at.
const RENEWAL_CHECK: Duration = Duration::from_secs(60);

#[derive(Debug, Error)]
pub enum ServingError {
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error("serving key: {0}")]
    Tls(#[from] rustls::Error),
}

/// The certificate that is shown to agents and to the API server.
#[derive(Debug)]
struct Shown {
    current: RwLock<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(|e| e.into_inner()).clone())
    }
}

/// TLS settings that show a certificate for `names`, and the task that keeps it fresh.
///
/// # Errors
/// The authority cannot sign for itself.
pub fn tls(
    authority: Arc<Authority>,
    names: Vec<ServerName>,
) -> Result<(Arc<ServerConfig>, impl Future<Output = ()> + Send + use<>), ServingError> {
    let now = SystemTime::now();
    let mut changes = authority.current.subscribe();
    let (key, mut not_after) = certified(&authority, &names, now)?;
    let shown = Arc::new(Shown { current: RwLock::new(key) });
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(shown.clone());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let renew = async move {
        let mut renew_at = half(now, not_after);
        loop {
            // A certificate of the root that signs now: the one before is not trusted for ever.
            let changed = tokio::select! {
                () = tokio::time::sleep(RENEWAL_CHECK) => false,
                changed = changes.changed() => changed.is_ok(),
            };
            let now = SystemTime::now();
            if now < renew_at && !changed {
                continue;
            }
            match certified(&authority, &names, now) {
                Ok((key, end)) => {
                    *shown.current.write().unwrap_or_else(|e| e.into_inner()) = key;
                    (renew_at, not_after) = (half(now, end), end);
                    info!("serving certificate renewed");
                }
                Err(error) => error!(%error, ?not_after, "serving certificate not renewed"),
            }
        }
    };
    Ok((Arc::new(config), renew))
}

fn half(now: SystemTime, not_after: SystemTime) -> SystemTime {
    now + not_after.duration_since(now).unwrap_or_default() / 2
}

fn certified(
    authority: &Authority,
    names: &[ServerName],
    now: SystemTime,
) -> Result<(Arc<CertifiedKey>, SystemTime), ServingError> {
    let serving = authority.serving(names, now)?;
    let key = CertifiedKey::from_der(serving.chain, serving.key, &aws_lc_rs::default_provider())?;
    Ok((Arc::new(key), serving.not_after))
}

/// Accepts connections and shakes hands with each on its own, so that a client that says nothing holds up no other.
pub async fn accept(listener: TcpListener, tls: Arc<ServerConfig>, ready: mpsc::Sender<io::Result<TlsIo>>) {
    let acceptor = TlsAcceptor::from(tls);
    let limit = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let place = limit.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = ready.closed() => return,
        };
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let _ = ready.send(Ok(TlsIo(stream))).await;
                }
                Ok(Err(error)) => debug!(%peer, %error, "handshake failed"),
                Err(_) => debug!(%peer, "handshake timed out"),
            }
            drop(place);
        });
    }
}

/// An accepted connection; tonic asks it where it is from.
#[derive(Debug)]
pub struct TlsIo(TlsStream<TcpStream>);

impl Connected for TlsIo {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.0.get_ref().0.connect_info()
    }
}

impl AsyncRead for TlsIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

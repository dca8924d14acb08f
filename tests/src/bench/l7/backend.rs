//! Where requests end: listeners for every door, served from memory by the thread that also asks.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_net::pool::Transport;
use mesh_net::svid::{self, Svid, TrustBundle};
use mesh_net::tls::{self, Credentials, TrustDomains};
use mesh_net::tunnel;
use mesh_net::tunnel::server::Connection;
use mesh_waypoint::io::Carried;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::address::{self, Door, MESHED, Role, TRUST_DOMAIN, TUNNEL};
use super::authority::{Authority, Issued, ROOT};
use super::link::alpn;
use super::talk::{Kind, Server};
use super::{http1, http2};

/// Serves every door on this runtime for as long as that runs. `dir`: where the authority's files are.
pub(super) fn serve(dir: &Path, authority: &Authority) -> Result<()> {
    for door in Door::ALL {
        let acceptor = match door.tls {
            true => Some(TlsAcceptor::from(Arc::new(config(dir, door.kind)?))),
            false => None,
        };
        let listener = listen(address::backend(door))?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                match acceptor.clone() {
                    None => drop(tokio::spawn(answer(stream, door.kind))),
                    Some(acceptor) => drop(tokio::spawn(async move {
                        match acceptor.accept(stream).await {
                            Ok(shaken) => answer(shaken, door.kind).await,
                            Err(error) => eprintln!("backend: TLS: {error}"),
                        }
                    })),
                }
            }
        });
    }
    let Issued { chain, key } = authority.issue(Role::Backend)?;
    let svid = Arc::new(Svid::from_pem(&chain, &svid::KeyPair::from_pem(&key)?)?);
    let credentials = Credentials::new(svid, Arc::new(TrustBundle::from_pem(authority.root())?));
    let listener = listen(SocketAddr::new(MESHED, TUNNEL))?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let credentials = credentials.clone();
            tokio::spawn(async move {
                if let Err(error) = tunnel(stream, &credentials).await {
                    eprintln!("backend: tunnel: {error:#}");
                }
            });
        }
    });
    Ok(())
}

/// A tunnel, as an agent serves it.
async fn tunnel(tcp: TcpStream, credentials: &Credentials) -> Result<()> {
    tcp.set_nodelay(true)?;
    let (domains, config) = (TrustDomains::only(TRUST_DOMAIN), tunnel::Config::default());
    let shaken = tls::accept(tcp, credentials, &domains, Transport::Any.alpn(), PATIENCE).await?;
    let mut tunnel = Connection::handshake(shaken, &config).await?;
    let is_lane = tunnel.is_lane();
    while let Some(request) = tunnel.accept().await {
        // The proxy may close what it does not need.
        let Ok(request) = request else { break };
        let asked: SocketAddr = request.head().authority.parse().context("an address and a port")?;
        let door = Door::ALL.into_iter().find(|door| door.backend() == asked.port());
        let door = door.with_context(|| format!("{asked}: no door"))?;
        let Ok(stream) = request.accept(None) else { continue };
        let answering = answer(Carried::from(stream), door.kind);
        match is_lane {
            true => answering.await,
            false => drop(tokio::spawn(answering)),
        }
    }
    Ok(())
}

/// Serves one connection to its end.
async fn answer(mut io: impl AsyncRead + AsyncWrite + Send + Unpin, kind: Kind) {
    let mut server: Box<dyn Server> = match kind {
        Kind::Http1 | Kind::Large => Box::new(http1::Server::default()),
        Kind::Http2 | Kind::Grpc => Box::new(http2::Server::new(kind)),
    };
    let (mut buffer, mut out) = (vec![0; 64 << 10], Vec::new());
    // An end of any sort is the proxy's to choose.
    while let Ok(some @ 1..) = io.read(&mut buffer).await {
        let body = match server.take(&buffer[..some], &mut out) {
            Ok(body) => body,
            Err(error) => return eprintln!("backend: {error:#}"),
        };
        let mut rest = body;
        if body.len() <= SHORT {
            out.extend_from_slice(body);
            rest = &[];
        }
        if io.write_all(&out).await.is_err() || io.write_all(rest).await.is_err() || io.flush().await.is_err() {
            return;
        }
        out.clear();
    }
}

fn config(dir: &Path, kind: Kind) -> Result<ServerConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join(ROOT))?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let chain = CertificateDer::pem_file_iter(dir.join("backend.pem"))?.collect::<Result<Vec<_>, _>>()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(dir.join("backend.key"))?)?;
    config.alpn_protocols = vec![alpn(kind).to_vec()];
    Ok(config)
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Taken over by what is accepted.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into()).with_context(|| format!("bind {address}"))?;
    socket.listen(4096)?;
    Ok(TcpListener::from_std(socket.into())?)
}

/// Bodies up to this go with their head in one write.
const SHORT: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(10);

//! A client's connection to a proxy: TCP, TLS with a certificate of its own, or a lane of Weft's tunnel, as an agent has it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mesh_core::identity::SpiffeId;
use mesh_net::pool::Transport;
use mesh_net::svid::{Svid, TrustBundle};
use mesh_net::tls::{self, Credentials};
use mesh_net::tunnel;
use mesh_net::tunnel::client::{Berth, Lane, Tunnel, begin};
use mesh_net::tunnel::head::Head;
use mesh_waypoint::io::{ByteStream, Carried};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::address::{Role, SERVER_NAME};
use super::authority::{Authority, Issued};
use super::talk::Kind;

/// How a proxy is reached. Every handshake of TLS is a whole one.
#[derive(Clone)]
pub(super) enum Link {
    Plain { to: SocketAddr },
    Tls { to: SocketAddr, config: Arc<ClientConfig> },
    Lane { to: SocketAddr, svid: Arc<Svid>, trust: Arc<TrustBundle>, authority: String },
}

impl Link {
    /// Mutual TLS, with the client's certificate.
    pub(super) fn tls(to: SocketAddr, kind: Kind, authority: &Authority) -> Result<Link> {
        let Issued { chain, key } = authority.issue(Role::Client)?;
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.root().as_bytes())?)?;
        let mut config = ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes())?)?;
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![alpn(kind).to_vec()];
        Ok(Link::Tls { to, config: Arc::new(config) })
    }

    /// A lane to `to`, for what listens at `service` of the mesh.
    pub(super) fn lane(to: SocketAddr, service: SocketAddr, authority: &Authority) -> Result<Link> {
        let (svid, trust) = authority.svid(Role::Client)?;
        Ok(Link::Lane { to, svid, trust, authority: service.to_string() })
    }

    pub(super) async fn connect(&self) -> Result<Box<dyn ByteStream>> {
        let (Link::Plain { to } | Link::Tls { to, .. } | Link::Lane { to, .. }) = self;
        let tcp = TcpStream::connect(to).await.with_context(|| format!("connect to {to}"))?;
        tcp.set_nodelay(true)?;
        Ok(match self {
            Link::Plain { .. } => Box::new(tcp),
            Link::Tls { config, .. } => {
                let name = ServerName::try_from(SERVER_NAME)?;
                let shaken = TlsConnector::from(config.clone()).connect(name, tcp).await;
                Box::new(shaken.with_context(|| format!("TLS with {to}"))?)
            }
            Link::Lane { svid, trust, authority, .. } => {
                // Made anew, so that no ticket is kept.
                let credentials = Credentials::new(svid.clone(), trust.clone());
                let gate: [SpiffeId; 1] = [Role::Proxy.identity()];
                let shaken = tls::connect(tcp, &credentials, &gate, Transport::Any.alpn(), PATIENCE).await?;
                let Tunnel::Lane(lane) = begin(shaken, &tunnel::Config::default()) else { bail!("no lane to {to}") };
                let (_, stream) = lane.open(&Head::to(authority.as_str()), PATIENCE, None, Arc::new(Ashore)).await?;
                Box::new(Carried::from(stream))
            }
        })
    }
}

/// Takes no lane back: each carries one stream.
struct Ashore;

impl Berth for Ashore {
    fn back(&self, lane: Lane) {
        lane.leave();
    }
}

/// Name of what is spoken within TLS.
pub(super) fn alpn(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::Http1 | Kind::Large => b"http/1.1",
        Kind::Http2 | Kind::Grpc => b"h2",
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

//! From here to an endpoint: through its agent's tunnel, or in plain TCP where it is not in the mesh.

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::addr::TunnelAddr;
use mesh_core::identity::SpiffeId;
use mesh_core::service::Service;
use mesh_core::workload::{Uid, Workload};
use mesh_net::certificates::Lease;
use mesh_net::pool::{DialError, Origin, Pool, connect_reason};
use mesh_net::tunnel::head::{Forwarded, Head};
use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::net::TcpStream;

use crate::io::{ByteStream, Carried};
use crate::originate::{OriginateError, Secured};

/// Port on which every enrolled pod accepts HBONE.
const HBONE_PORT: u16 = 15008;

/// Who this waypoint is.
#[derive(Debug)]
pub struct Own {
    pub identity: SpiffeId,
    pub certificate: Lease,
}

impl Origin for Own {
    fn key(&self) -> u64 {
        0
    }

    fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    fn certificate(&self) -> &Lease {
        &self.certificate
    }

    async fn connect(&self, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        connect(to, timeout).await
    }
}

/// A place where a request or a connection may go.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub workload: Arc<Workload>,
    pub address: SocketAddr,
    pub carriage: Carriage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Carriage {
    /// To this address; the peer must present one of these identities.
    Tunnel {
        to: TunnelAddr,
        expected: Vec<SpiffeId>,
    },
    Plain,
    /// TLS within one of the others.
    Tls(Box<Carriage>, Secured),
}

impl Endpoint {
    /// `workload` at `port`, as an endpoint of `service`. `None`: it has no address.
    pub fn new(workload: &Arc<Workload>, port: u16, service: Option<&Service>, like: IpAddr) -> Option<Self> {
        let same = workload.addresses.iter().find(|ip| ip.is_ipv4() == like.is_ipv4());
        let ip = *same.or(workload.addresses.first())?;
        let carriage = match workload.tunnels(port) {
            true => {
                let further = service.map(|s| s.subject_alt_names.as_slice()).unwrap_or_default();
                let further = further.iter().filter_map(|name| name.parse().ok());
                let expected = std::iter::once(workload.identity.clone()).chain(further).collect();
                Carriage::Tunnel { to: TunnelAddr(SocketAddr::new(ip, HBONE_PORT)), expected }
            }
            false => Carriage::Plain,
        };
        Some(Self { workload: workload.clone(), address: SocketAddr::new(ip, port), carriage })
    }

    /// Spoken to by TLS within what carries it.
    #[must_use]
    pub fn secured(self, by: Option<Secured>) -> Self {
        match by {
            Some(by) => Self { carriage: Carriage::Tls(Box::new(self.carriage), by), ..self },
            None => self,
        }
    }

    /// Where there is TLS, it offers one protocol by its name (RFC 7301).
    pub fn offering(&self, alpn: &'static [u8]) -> Cow<'_, Self> {
        match &self.carriage {
            Carriage::Tls(within, by) => {
                Cow::Owned(Self { carriage: Carriage::Tls(within.clone(), by.offering(alpn)), ..self.clone() })
            }
            Carriage::Tunnel { .. } | Carriage::Plain => Cow::Borrowed(self),
        }
    }

    pub fn uid(&self) -> &Uid {
        &self.workload.uid
    }
}

/// Why an endpoint was not reached. Nothing of the request has been sent.
#[derive(Debug, Error)]
pub enum Unreached {
    #[error(transparent)]
    Tunnel(#[from] DialError),
    #[error("dial {to}: {source}")]
    Connect { to: SocketAddr, source: io::Error },
    #[error(transparent)]
    Tls(#[from] OriginateError),
    #[error("not reached within {0:?}")]
    Timeout(Duration),
}

impl Unreached {
    /// Closed set, used as a log and metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Tunnel(error) => error.reason(),
            Self::Connect { source, .. } => connect_reason(source),
            Self::Tls(_) => "tls",
            Self::Timeout(_) => "connect_timeout",
        }
    }
}

/// Opens byte streams to endpoints.
#[derive(Clone, Debug)]
pub struct Dialler {
    pub own: Arc<Own>,
    pub pool: Pool,
}

impl Dialler {
    /// Opens a stream to an endpoint. `service` is what the endpoint's agent is told that this is for: only a service whose policies
    /// have been asked about the client, because the agent then does not ask its own.
    ///
    /// # Errors
    /// See [`Unreached`].
    pub async fn open(
        &self,
        endpoint: &Endpoint,
        client: Option<SocketAddr>,
        service: Option<&Service>,
        timeout: Duration,
    ) -> Result<Box<dyn ByteStream>, Unreached> {
        let opening = async {
            match &endpoint.carriage {
                Carriage::Tls(within, by) => {
                    let io = self.carried(within, endpoint.address, client, service, timeout).await?;
                    Ok(Box::new(by.handshake(io).await?) as Box<dyn ByteStream>)
                }
                carriage => self.carried(carriage, endpoint.address, client, service, timeout).await,
            }
        };
        tokio::time::timeout(timeout, opening).await.unwrap_or(Err(Unreached::Timeout(timeout)))
    }

    async fn carried(
        &self,
        carriage: &Carriage,
        to: SocketAddr,
        client: Option<SocketAddr>,
        service: Option<&Service>,
        timeout: Duration,
    ) -> Result<Box<dyn ByteStream>, Unreached> {
        match carriage {
            Carriage::Tunnel { to: at, expected } => {
                let host = service.map(|service| service.key.hostname.to_string());
                let head = Head { forwarded: client.map(|for_| Forwarded { for_, host }), ..Head::to(to.to_string()) };
                let (_, stream) = self.pool.open(&*self.own, *at, expected, &head, None).await?;
                Ok(Box::new(Carried::from(stream)))
            }
            Carriage::Plain | Carriage::Tls(..) => {
                let stream = connect(to, timeout).await.map_err(|source| Unreached::Connect { to, source })?;
                Ok(Box::new(stream))
            }
        }
    }
}

async fn connect(to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(timeout, TcpStream::connect(to)).await??;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    // It fails only for a socket that is gone already, which the next step will tell.
    let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive.with_retries(3));
    Ok(stream)
}

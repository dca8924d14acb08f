//! The controller as a gRPC peer: where it is, how it is trusted, who we say we are; and the generated services.

use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

/// Clients that agents use.
pub mod client {
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    mod discovery {
        include!(concat!(env!("OUT_DIR"), "/client/envoy.service.discovery.v3.rs"));
    }
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    mod auth {
        include!(concat!(env!("OUT_DIR"), "/client/istio.v1.auth.rs"));
    }
    pub use auth::istio_certificate_service_client::IstioCertificateServiceClient;
    pub use discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
}

/// Services that the controller implements; discovery it frames itself.
pub mod server {
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    mod auth {
        include!(concat!(env!("OUT_DIR"), "/server/istio.v1.auth.rs"));
    }
    pub use auth::istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer};
}

/// `system_version_info` of a response that is one part of several: the type is in sync after the part without it.
pub const PARTIAL: &str = "weft-partial";

/// Begins the `system_version_info` of a response after which an agent that asked for everything holds just that: the digest of it.
pub const DIGEST: &str = "weft-sha256-";

/// In `initial_resource_versions` no resource's name: its version is the digest of all that the agent holds, which then names
/// nothing else.
pub const EVERYTHING: &str = "*";

/// `system_version_info` of the answer to a digest that the controller does not know: it wants names and versions.
pub const UNKNOWN: &str = "weft-unknown";

/// The service that agents subscribe at.
pub const DISCOVERY_SERVICE: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";

/// Largest message that either end takes. Our controller cuts responses at 1 MiB; others send a whole mesh in one.
pub const MAX_MESSAGE: usize = 256 << 20;

/// A controller, and how to prove to it who we are.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port` or `https://host:port`.
    pub address: String,
    /// Name that the server's certificate must carry, where it is not the host of `address`.
    pub server_name: Option<String>,
    /// PEM file with the roots that may have issued the server's certificate; read at each connect.
    pub roots: PathBuf,
    /// File with a bearer token; read at each connect, because tokens are rotated in place.
    pub token: Option<PathBuf>,
}

#[derive(Debug, Error)]
pub enum TargetError {
    #[error("controller address {address:?} is not host:port or https://host:port")]
    Address { address: String },
    #[error("read {what} from {path}")]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("token in {path} has characters that no header may carry")]
    Token { path: PathBuf },
    #[error("set up TLS to {address}: {source}")]
    Tls { address: String, source: tonic::transport::Error },
}

impl TargetError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Address { .. } => "address",
            Self::File { .. } => "file",
            Self::Token { .. } => "token",
            Self::Tls { .. } => "tls",
        }
    }
}

impl Target {
    /// Where to dial and by which name to know it.
    ///
    /// # Errors
    /// `address` has no host, no port or another scheme than https.
    pub fn authority(&self) -> Result<(String, String), TargetError> {
        let invalid = || TargetError::Address { address: self.address.clone() };
        if self.address.starts_with("http://") {
            return Err(invalid());
        }
        let rest = self.address.strip_prefix("https://").unwrap_or(&self.address).trim_end_matches('/');
        let authority: http::uri::Authority = rest.parse().map_err(|_| invalid())?;
        if authority.port_u16().is_none() || authority.host().is_empty() || rest.contains('@') {
            return Err(invalid());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok((format!("https://{authority}"), self.server_name.clone().unwrap_or(host)))
    }

    /// Reads the roots and prepares a connection; nothing is dialled yet.
    pub(crate) async fn endpoint(&self) -> Result<(Endpoint, Vec<u8>), TargetError> {
        let (url, name) = self.authority()?;
        let roots = read("roots", &self.roots).await?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&roots)).domain_name(name);
        let endpoint = Endpoint::from_shared(url)
            .and_then(|e| e.tls_config(tls))
            .map_err(|source| TargetError::Tls { address: self.address.clone(), source })?
            .connect_timeout(Duration::from_secs(10))
            .tcp_keepalive(Some(Duration::from_secs(30)))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20);
        Ok((endpoint, roots))
    }

    /// Reads the token and puts it, with the cluster's id, where istiod's clients put them.
    pub(crate) async fn sign_in(&self, cluster: &str, headers: &mut MetadataMap) -> Result<(), TargetError> {
        if let Some(path) = &self.token {
            let bytes = read("token", path).await?;
            let invalid = || TargetError::Token { path: path.clone() };
            let text = std::str::from_utf8(&bytes).map_err(|_| invalid())?.trim();
            let mut value: MetadataValue<Ascii> = format!("Bearer {text}").parse().map_err(|_| invalid())?;
            value.set_sensitive(true);
            headers.insert("authorization", value);
        }
        if let Ok(value) = cluster.parse() {
            headers.insert("clusterid", value);
        }
        Ok(())
    }
}

/// Waits between attempts: `min`, doubled with each failure up to `max`, each time a random share of it between half and
/// the whole, so that a thousand agents do not return in step.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub min: Duration,
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { min: Duration::from_millis(100), max: Duration::from_secs(15) }
    }
}

impl Backoff {
    /// The wait after the `failures`-th failure in a row, `failures` counted from 0.
    pub fn wait(&self, failures: u32) -> Duration {
        let whole = self.min.saturating_mul(1 << failures.min(20)).min(self.max);
        whole.mul_f64(rand::random_range(0.5..=1.0))
    }
}

async fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TargetError> {
    tokio::fs::read(path).await.map_err(|source| TargetError::File { what, path: path.to_owned(), source })
}

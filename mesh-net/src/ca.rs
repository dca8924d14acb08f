//! Asks the certificate authority for a workload's certificate (`IstioCertificateService/CreateCertificate`).

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use mesh_core::identity::SpiffeId;
use mesh_core::wire::ca::IstioCertificateRequest;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use rustls::CertificateError;
use thiserror::Error;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::grpc::client::IstioCertificateServiceClient;
use crate::grpc::{Target, TargetError};

#[derive(Clone, Debug)]
pub struct Config {
    pub authority: Target,
    pub cluster_id: String,
    /// Longest wait for one answer.
    pub timeout: Duration,
    /// Whether the identity is named apart from the request: a node's agent asks for pods, by its own token. Who asks for itself does
    /// not, because authorities such as istio-csr refuse it from accounts that may not ask for others.
    pub impersonates: bool,
}

impl Config {
    pub fn new(authority: Target, cluster_id: impl Into<String>) -> Self {
        Self { authority, cluster_id: cluster_id.into(), timeout: Duration::from_secs(10), impersonates: true }
    }
}

#[derive(Debug, Error)]
pub enum CaError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("the authority refuses {identity}: {message}")]
    Denied { identity: SpiffeId, message: String },
    #[error("the authority does not accept who we are: {message}")]
    Unauthenticated { message: String },
    #[error("the authority cannot sign for {identity}: {message}")]
    Invalid { identity: SpiffeId, message: String },
    #[error("ask the authority at {address}: {message}")]
    Unavailable { address: String, message: String },
    #[error(
        "the authority at {address} shows a certificate of none of the roots in {roots}: put the root of its certificate \
         there (CA_ROOT_CA)"
    )]
    Root { address: String, roots: PathBuf },
    #[error(
        "the authority at {address} shows a certificate that is not for {name}: say a name that it is for (CA_SERVER_NAME)"
    )]
    Name { address: String, name: String },
    #[error("the authority answered for {identity} with {certificates} certificates, not leaf and root")]
    Chain { identity: SpiffeId, certificates: usize },
}

impl CaError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Target(e) => e.reason(),
            Self::Denied { .. } => "denied",
            Self::Unauthenticated { .. } => "unauthenticated",
            Self::Invalid { .. } => "invalid",
            Self::Unavailable { .. } => "unavailable",
            Self::Root { .. } => "authority_root",
            Self::Name { .. } => "authority_name",
            Self::Chain { .. } => "chain",
        }
    }
}

/// A client of one authority. It connects when first used, and anew when the file with the roots changes.
#[derive(Debug)]
pub struct CaClient {
    config: Config,
    connection: Mutex<Option<(Vec<u8>, Channel)>>,
}

impl CaClient {
    /// # Errors
    /// The authority's address is none.
    pub fn new(config: Config) -> Result<Self, TargetError> {
        config.authority.authority()?;
        Ok(Self { config, connection: Mutex::new(None) })
    }

    /// Has `csr` (PEM) signed for `identity`; yields PEM texts, the leaf first and the root or roots last.
    ///
    /// # Errors
    /// The authority is not reached, refuses, or answers with something that is no chain.
    pub async fn sign(&self, csr: String, identity: &SpiffeId, ttl: Duration) -> Result<Vec<String>, CaError> {
        let mut request = Request::new(IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: self.config.impersonates.then(|| impersonated(identity)),
        });
        request.set_timeout(self.config.timeout);
        self.config.authority.sign_in(&self.config.cluster_id, request.metadata_mut()).await?;
        let mut client = IstioCertificateServiceClient::new(self.channel().await?);
        let unavailable = |message| CaError::Unavailable { address: self.config.authority.address.clone(), message };
        let answer = tokio::time::timeout(self.config.timeout, client.create_certificate(request))
            .await
            .map_err(|_| unavailable(format!("no answer within {:?}", self.config.timeout)))?;
        let chain = match answer {
            Ok(response) => response.into_inner().cert_chain,
            Err(status) => {
                let message = status.message().to_owned();
                let identity = identity.clone();
                return Err(match status.code() {
                    Code::PermissionDenied => CaError::Denied { identity, message },
                    Code::Unauthenticated => CaError::Unauthenticated { message },
                    Code::InvalidArgument => CaError::Invalid { identity, message },
                    code => self.not_trusted(&status).unwrap_or_else(|| unavailable(format!("{code:?}: {message}"))),
                });
            }
        };
        if chain.len() < 2 {
            return Err(CaError::Chain { identity: identity.clone(), certificates: chain.len() });
        }
        Ok(chain)
    }

    /// What to do about it, if it is the authority's own certificate that is not taken.
    fn not_trusted(&self, status: &Status) -> Option<CaError> {
        let Target { address, roots, .. } = &self.config.authority;
        let (address, roots) = (address.clone(), roots.clone());
        match tls_error(status)? {
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                Some(CaError::Root { address, roots })
            }
            rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => {
                let (_, name) = self.config.authority.authority().ok()?;
                Some(CaError::Name { address, name })
            }
            error => Some(CaError::Unavailable { address, message: error.to_string() }),
        }
    }

    async fn channel(&self) -> Result<Channel, TargetError> {
        let (endpoint, roots) = self.config.authority.endpoint().await?;
        let mut connection = self.connection.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((known, channel)) = &*connection
            && *known == roots
        {
            return Ok(channel.clone());
        }
        let channel = endpoint.connect_lazy();
        *connection = Some((roots, channel.clone()));
        Ok(channel)
    }
}

/// What of TLS made a call fail: below it in the chain of causes, where an I/O error hides what it holds.
fn tls_error(status: &Status) -> Option<&rustls::Error> {
    let mut cause = status.source();
    while let Some(error) = cause {
        let held = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref()).map(|held| held as &dyn Error);
        let found = error.downcast_ref().or_else(|| held?.downcast_ref());
        if found.is_some() {
            return found;
        }
        cause = error.source();
    }
    None
}

fn impersonated(identity: &SpiffeId) -> Struct {
    let value = Value { kind: Some(Kind::StringValue(identity.uri().to_owned())) };
    Struct { fields: [("ImpersonatedIdentity".to_owned(), value)].into() }
}

#[cfg(test)]
mod tests;

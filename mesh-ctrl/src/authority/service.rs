//! `IstioCertificateService`: a node's agent asks on behalf of a workload on that node, and of no other; a waypoint that shows
//! its own account's token asks for itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use mesh_core::identity::SpiffeId;
use mesh_core::wire::ca::{IstioCertificateRequest, IstioCertificateResponse};
use mesh_net::grpc::server::{IstioCertificateService, IstioCertificateServiceServer};
use mesh_net::unix_time;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use prost_types::value::Kind;
use serde::Serialize;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use super::{Authority, SignError};
use crate::access::{Access, Account, Caller, Standing};

/// A request is a CSR and an identity.
const MAX_REQUEST: usize = 64 * 1024;

/// Whether an identity is of a workload on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residence {
    Resident,
    Elsewhere,
    /// The source has not been read yet.
    Unknown,
}

/// Answers for a node and an identity.
pub type Residents = Arc<dyn Fn(&str, &SpiffeId) -> Residence + Send + Sync>;

#[derive(Clone)]
pub struct Certificates {
    authority: Arc<Authority>,
    /// Where another authority is that signs in its place.
    elsewhere: Option<Arc<str>>,
    access: Arc<Access>,
    residents: Residents,
    by_node: Arc<Mutex<BTreeMap<Arc<str>, IssuedView>>>,
    outcomes: Family<[(&'static str, &'static str); 1], Counter>,
}

/// What one node asked for.
#[derive(Clone, Debug, Default, Serialize)]
pub struct IssuedView {
    pub issued: u64,
    pub refused: u64,
    pub last_identity: Option<SpiffeId>,
    /// Seconds since 1970.
    pub last_issued_at: Option<u64>,
    pub last_serial: Option<String>,
    pub last_refusal: Option<String>,
}

impl Certificates {
    pub fn new(authority: Arc<Authority>, access: Arc<Access>, residents: Residents) -> Self {
        Self { authority, elsewhere: None, access, residents, by_node: Arc::default(), outcomes: Family::default() }
    }

    /// Refuses everybody: who signs is at `address`.
    #[must_use]
    pub fn elsewhere(mut self, address: Option<&str>) -> Self {
        self.elsewhere = address.map(Into::into);
        self
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register("weft_ca_requests", "Certificate requests, by outcome", self.outcomes.clone());
    }

    pub fn view(&self) -> BTreeMap<Arc<str>, IssuedView> {
        self.by_node.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    pub fn into_service(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    fn answer(&self, caller: &Caller, request: &IstioCertificateRequest) -> Result<Answer, Refused> {
        if let Some(address) = &self.elsewhere {
            return Err(Refused::NotHere { address: address.clone() });
        }
        let identity = match &caller.standing {
            Standing::Waypoint(account) => self.own(account, request)?,
            Standing::Node => {
                let identity = impersonated(request)?;
                match (self.residents)(&caller.node, &identity) {
                    Residence::Resident => identity,
                    Residence::Elsewhere => return Err(Refused::Elsewhere { identity }),
                    Residence::Unknown => return Err(Refused::Unknown),
                }
            }
        };
        let ttl = u64::try_from(request.validity_duration).ok().filter(|s| *s > 0).map(Duration::from_secs);
        let signed = self.authority.sign(&request.csr, &identity, ttl, SystemTime::now()).map_err(Refused::Sign)?;
        Ok(Answer { identity, signed })
    }

    /// A waypoint's identity, which it may name and need not.
    fn own(&self, account: &Account, request: &IstioCertificateRequest) -> Result<SpiffeId, Refused> {
        let own = SpiffeId::new(self.authority.trust_domain(), account.namespace(), account.name())
            .map_err(|error| Refused::Identity(error.to_string()))?;
        match impersonated(request) {
            Ok(asked) if asked != own => Err(Refused::Elsewhere { identity: asked }),
            Ok(_) | Err(Refused::NoIdentity) => Ok(own),
            Err(refused) => Err(refused),
        }
    }

    fn note(&self, node: &Arc<str>, outcome: &'static str, note: impl FnOnce(&mut IssuedView)) {
        self.outcomes.get_or_create(&[("outcome", outcome)]).inc();
        // Only nodes and waypoints with a token get here, so the map is as long as the list of these.
        note(self.by_node.lock().unwrap_or_else(|e| e.into_inner()).entry(node.clone()).or_default());
    }
}

struct Answer {
    identity: SpiffeId,
    signed: super::Signed,
}

enum Refused {
    NotHere { address: Arc<str> },
    NoIdentity,
    Identity(String),
    Elsewhere { identity: SpiffeId },
    Unknown,
    Sign(SignError),
}

impl Refused {
    fn reason(&self) -> &'static str {
        match self {
            Self::NotHere { .. } => "not_here",
            Self::NoIdentity => "no_identity",
            Self::Identity(_) => "identity",
            Self::Elsewhere { .. } => "elsewhere",
            Self::Unknown => "not_synced",
            Self::Sign(error) => error.reason(),
        }
    }

    fn status(&self, node: &str) -> Status {
        match self {
            Self::NotHere { address } => Status::failed_precondition(format!(
                "certificates of this mesh are from the authority at {address}: ask there (CA_ADDRESS)"
            )),
            Self::NoIdentity => Status::permission_denied("the request names no ImpersonatedIdentity"),
            Self::Identity(why) => Status::invalid_argument(why.clone()),
            Self::Elsewhere { identity } => {
                Status::permission_denied(format!("no workload with identity {identity} runs on node {node}"))
            }
            Self::Unknown => Status::unavailable("which workloads run where is not known yet"),
            Self::Sign(error) => match error {
                SignError::TrustDomain(_) => Status::permission_denied(error.to_string()),
                SignError::Over => Status::unavailable(error.to_string()),
                SignError::Library(_) => Status::internal(error.to_string()),
                _ => Status::invalid_argument(error.to_string()),
            },
        }
    }
}

fn impersonated(request: &IstioCertificateRequest) -> Result<SpiffeId, Refused> {
    let value = request.metadata.as_ref().and_then(|m| m.fields.get("ImpersonatedIdentity"));
    match value.and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(text)) => {
            text.parse().map_err(|e: mesh_core::identity::InvalidSpiffeId| Refused::Identity(e.to_string()))
        }
        _ => Err(Refused::NoIdentity),
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let caller = self.access.caller(request.metadata()).await?;
        let node = caller.node.clone();
        match self.answer(&caller, request.get_ref()) {
            Ok(Answer { identity, signed }) => {
                info!(%node, %identity, serial = signed.serial, "certificate issued");
                let now = Some(unix_time::seconds(SystemTime::now()));
                self.note(&node, "issued", |view| {
                    view.issued += 1;
                    view.last_identity = Some(identity);
                    view.last_issued_at = now;
                    view.last_serial = Some(signed.serial);
                });
                Ok(Response::new(IstioCertificateResponse { cert_chain: signed.chain }))
            }
            Err(refused) => {
                let status = refused.status(&node);
                let why: String = status.message().chars().take(400).collect();
                warn!(%node, reason = refused.reason(), why, "certificate refused");
                self.note(&node, refused.reason(), |view| {
                    view.refused += 1;
                    view.last_refusal = Some(why);
                });
                Err(status)
            }
        }
    }
}

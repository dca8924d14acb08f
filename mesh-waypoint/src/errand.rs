//! Requests of the waypoint's own to services of the mesh, on the way of a client's request: they go as any request goes, by
//! mutual TLS to an endpoint.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use mesh_core::l7::Protocol;
use mesh_core::service::Service;
use mesh_core::workload::{ServiceKey, Uid};
use mesh_net::header_list::HeaderList;
use thiserror::Error;

use crate::aim::{Aim, Destination, Unknown};
use crate::asked::{Asked, Of};
use crate::body::{Body, BodyError};
use crate::dial::Endpoint;
use crate::engine::balance::stick;
use crate::engine::outliers::Outcome;
use crate::message::{Answer as Received, Departing, Response};
use crate::session::Session;
use crate::upstream::{SendError, Version};
use crate::world::{Compiled, World};

/// A request to be made.
#[derive(Clone, Debug)]
pub struct Errand {
    pub service: ServiceKey,
    pub port: u16,
    pub method: Method,
    pub authority: String,
    /// Path and query.
    pub target: String,
    pub headers: HeaderList,
    pub body: Bytes,
    /// It is HTTP/2 in any case.
    pub is_grpc: bool,
    /// For all of it, the answer's body included.
    pub timeout: Duration,
}

/// An answer, read whole.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderList,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

#[derive(Debug, Error)]
pub enum ErrandError {
    #[error("{0} has no port {1} in the mesh")]
    Unknown(ServiceKey, u16),
    #[error("no healthy endpoint")]
    NoEndpoint,
    #[error(transparent)]
    Send(#[from] SendError),
    #[error("read the answer: {0}")]
    Body(#[source] BodyError),
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// Where an errand goes, as [`Aim`] sees it.
pub struct Way<'a> {
    session: Session,
    pub aim: Aim<'a>,
}

impl<'a> Way<'a> {
    /// # Errors
    /// [`ErrandError::Unknown`]
    pub fn to(
        session: &Session,
        world: &World,
        compiled: &'a Compiled,
        service: &Service,
        port: u16,
    ) -> Result<Self, ErrandError> {
        let key = &service.key;
        let ip = service.addresses.first().map_or(IpAddr::from([0, 0, 0, 0]), |address| address.ip);
        let asked = Asked { address: SocketAddr::new(ip, port), of: Of::Service(key.clone()) };
        let session = session.on_errand(asked);
        let head = stick::Head { fields: &HeaderList::new(), query: None, client: session.client.address.ip() };
        let to = Destination::Service { service: key.clone(), port, subset: None };
        let aim = Aim::new(&session, world, compiled, &to, &head)
            .map_err(|Unknown| ErrandError::Unknown(key.clone(), port))?;
        Ok(Self { session, aim })
    }

    /// # Errors
    /// [`ErrandError::NoEndpoint`]
    pub fn endpoint(&self, world: &World, tried: &[Uid]) -> Result<Endpoint, ErrandError> {
        self.aim.endpoint(&self.session, world, tried, Instant::now()).ok_or(ErrandError::NoEndpoint)
    }

    pub fn judge(&self, endpoint: &Endpoint, outcome: Outcome) {
        self.aim.judge(&self.session, endpoint, outcome);
    }
}

/// Makes a request and reads its answer, of `most` bytes at most. An endpoint that is not reached is passed over once.
///
/// # Errors
/// See [`ErrandError`].
pub async fn run(
    session: &Session,
    world: &World,
    compiled: &Compiled,
    errand: &Errand,
    most: usize,
) -> Result<Answer, ErrandError> {
    let unknown = || ErrandError::Unknown(errand.service.clone(), errand.port);
    let service = world.snapshot.service(&errand.service).cloned().ok_or_else(unknown)?;
    let way = Way::to(session, world, compiled, &service, errand.port)?;
    let mut at = None;
    let going = async {
        let response = sent(session, world, &way, &service, errand, &mut at).await?;
        let Response { status, headers, body } = response;
        Ok(Answer { status, headers, ..whole(body, most).await? })
    };
    match tokio::time::timeout(errand.timeout, going).await {
        Ok(done) => done,
        Err(_) => {
            if let Some(endpoint) = &at {
                way.judge(endpoint, Outcome::TimedOut);
            }
            Err(ErrandError::Timeout(errand.timeout))
        }
    }
}

async fn sent(
    session: &Session,
    world: &World,
    way: &Way<'_>,
    service: &Arc<Service>,
    errand: &Errand,
    at: &mut Option<Endpoint>,
) -> Result<Response, ErrandError> {
    let version = match way.aim.protocol {
        _ if errand.is_grpc => Version::Http2,
        Protocol::Http2 | Protocol::Grpc => Version::Http2,
        _ => Version::Http1,
    };
    let mut tried = Vec::new();
    loop {
        let endpoint = way.endpoint(world, &tried)?;
        *at = Some(endpoint.clone());
        let _in_flight = way.aim.begin(&endpoint);
        let request = request(errand);
        let (terms, client) = (way.aim.terms(session), session.client.address);
        let sending = session.shared.upstreams.send(&endpoint, version, &terms, client, Some(service), request);
        match sending.await {
            Ok(Received { response, .. }) => {
                way.judge(&endpoint, Outcome::Status(response.status.as_u16()));
                return Ok(response);
            }
            Err(error) => {
                way.judge(&endpoint, Outcome::Failed);
                let is_unsent = matches!(error, SendError::Unreached(_) | SendError::Unsent(_));
                if !is_unsent || !tried.is_empty() {
                    return Err(error.into());
                }
                tried.push(endpoint.uid().clone());
            }
        }
    }
}

/// Body and trailers of an answer.
async fn whole(mut from: Body, most: usize) -> Result<Answer, ErrandError> {
    let (mut body, mut trailers) = (BytesMut::new(), HeaderMap::new());
    while let Some(frame) = from.frame().await {
        match frame.map_err(ErrandError::Body)?.into_data() {
            Ok(data) if data.len() > most - body.len() => return Err(ErrandError::TooLarge(most)),
            Ok(data) => body.extend_from_slice(&data),
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    Ok(Answer { body: body.freeze(), trailers, ..Answer::default() })
}

fn request(errand: &Errand) -> Departing {
    Departing {
        method: errand.method.clone(),
        authority: errand.authority.clone(),
        target: errand.target.clone(),
        headers: Arc::new(errand.headers.clone()),
        upgrade: None,
        body: Body::full(errand.body.clone()),
    }
}

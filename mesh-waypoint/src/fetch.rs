//! A document of somebody else's, fetched over HTTP: within the mesh as any request goes, elsewhere by DNS.

use std::io;
use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use mesh_core::service::{Mode, Service};
use mesh_core::snapshot::Snapshot;
use mesh_net::header_list::HeaderList;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::body::{Body, BodyError};
use crate::dial::Unreached;
use crate::errand::{ErrandError, Way};
use crate::http1::client::{Connection, Failed, Lost, Once};
use crate::io::ByteStream;
use crate::keys::Wanted;
use crate::message::Departing;
use crate::originate::system_roots;
use crate::session::Session;

#[derive(Debug, Error)]
pub enum FetchError {
    #[error("{0:?} is no http or https address")]
    Uri(String),
    #[error("what was asked for does not use this waypoint any more")]
    Gone,
    #[error(transparent)]
    Mesh(#[from] ErrandError),
    #[error(transparent)]
    Unreached(#[from] Unreached),
    #[error("look {host} up: {source}")]
    Resolve { host: String, source: io::Error },
    #[error("connect to {host}: {source}")]
    Connect { host: String, source: io::Error },
    #[error("TLS with {host}: {source}")]
    Tls { host: String, source: io::Error },
    #[error("ask {host}: {source}")]
    Http { host: String, source: Failed },
    /// Redirects are not followed: who may say where keys are is the rule.
    #[error("answered with {0}")]
    Status(StatusCode),
    #[error("read the answer: {0}")]
    Body(#[source] BodyError),
    #[error("the answer is no text")]
    Text,
    #[error("no answer in time")]
    Timeout,
}

/// # Errors
/// See [`FetchError`].
pub async fn text(session: &Session, wanted: &Wanted) -> Result<String, FetchError> {
    tokio::time::timeout(wanted.timeout, fetched(session, wanted)).await.unwrap_or(Err(FetchError::Timeout))
}

async fn fetched(session: &Session, wanted: &Wanted) -> Result<String, FetchError> {
    let bad = || FetchError::Uri(wanted.uri.clone());
    let uri: Uri = wanted.uri.parse().map_err(|_| bad())?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
    let (is_tls, usual) = match uri.scheme_str() {
        Some("http") => (false, 80),
        Some("https") => (true, 443),
        _ => return Err(bad()),
    };
    let port = uri.port_u16().unwrap_or(usual);
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let mut io = connected(session, wanted, bare, port).await?;
    if is_tls {
        io = Box::new(secured(wanted, bare, io).await?);
    }
    let authority = match uri.port_u16() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let mut headers = HeaderList::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("weft"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let request = Departing {
        method: Method::GET,
        authority,
        target: uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
        headers: Arc::new(headers),
        upgrade: None,
        body: Body::empty(),
    };
    let answer = Connection::new(io).send(request, Once, MOST).await;
    let response = answer.map_err(|Lost { failed, .. }| FetchError::Http { host: host.to_owned(), source: failed })?;
    let response = response.response;
    if response.status != StatusCode::OK {
        return Err(FetchError::Status(response.status));
    }
    let body = Limited::new(response.body, MOST).collect().await.map_err(FetchError::Body)?;
    String::from_utf8(body.to_bytes().into()).map_err(|_| FetchError::Text)
}

async fn connected(
    session: &Session,
    wanted: &Wanted,
    host: &str,
    port: u16,
) -> Result<Box<dyn ByteStream>, FetchError> {
    let world = session.world();
    if let Some(service) = service(&world.snapshot, host, &wanted.namespace) {
        let in_force = session.in_force(&world);
        let compiled = in_force.compiled.as_ref().ok_or(FetchError::Gone)?;
        let way = Way::to(session, &world, compiled, service, port)?;
        let endpoint = way.endpoint(&world, &[])?;
        let dialler = session.shared.upstreams.dialler();
        return Ok(dialler.open(&endpoint, None, Some(service), wanted.timeout).await?);
    }
    let found = tokio::net::lookup_host((host, port)).await;
    let found = found.map_err(|source| FetchError::Resolve { host: host.to_owned(), source })?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in found {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(Box::new(stream)),
            Err(error) => last = error,
        }
    }
    Err(FetchError::Connect { host: host.to_owned(), source: last })
}

/// The service of the mesh that a host names, in full or as pods of the namespace would. `None` also for one that [`is_by_name`].
pub fn service<'a>(snapshot: &'a Snapshot, host: &str, namespace: &str) -> Option<&'a Service> {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let mut labels = host.splitn(3, '.');
    let (name, of, rest) = (labels.next()?, labels.next().unwrap_or(namespace), labels.next());
    let start = format!("{name}.{of}.svc");
    let is_short = rest.is_none_or(|rest| rest == "svc");
    let is_meant = |service: &Service| {
        let hostname = &*service.key.hostname;
        let rest = hostname.strip_prefix(&*start).filter(|_| is_short && *service.key.namespace == *of);
        *hostname == *host || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let mut meant: Vec<_> = snapshot.services().filter(|service| is_meant(service)).collect();
    meant.sort_by_key(|service| (!service.canonical, &service.key));
    let service = meant.first()?;
    (!is_by_name(snapshot, service)).then_some(service)
}

/// Whether only DNS knows a service's endpoints.
pub fn is_by_name(snapshot: &Snapshot, service: &Service) -> bool {
    service.load_balancing.mode == Mode::Passthrough
        || snapshot.endpoints(&service.key).any(|workload| !workload.hostname.is_empty())
}

async fn secured(
    wanted: &Wanted,
    host: &str,
    io: Box<dyn ByteStream>,
) -> Result<tokio_rustls::client::TlsStream<Box<dyn ByteStream>>, FetchError> {
    let failed = |source| FetchError::Tls { host: host.to_owned(), source };
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(io::Error::other(error)))?;
    let roots = wanted.roots.clone().unwrap_or_else(system_roots);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(io::Error::other(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config)).connect(name, io).await.map_err(failed)
}

/// Largest document.
const MOST: usize = 1 << 20;

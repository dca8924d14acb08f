//! The agent's end of the control stream: incremental (delta) xDS over one gRPC stream.
//!
//! ```text
//!            responses                     one Arc<Snapshot> a change
//! controller ---------> Believed::apply() ------------------------------> watch: connections read it
//!            <--------- ACK, or NACK naming each bad resource
//! ```
//!
//! Losing the controller changes nothing: the last snapshot stays in force, and the next stream resumes by telling the
//! controller which version of what is held (`initial_resource_versions`). What vanished meanwhile is named by the
//! controller in `removed_resources` of its first answer, as the delta protocol asks of every server; nothing is removed
//! for not being mentioned, because a resource that did not change is not mentioned either. A controller that was
//! restarted is no special case: versions are hashes of the content, so it knows ours again. A controller of Weft's also says a
//! digest of all that it has told, and a resumption says that in place of ten thousand names and versions:
//!
//! ```text
//! "*": digest ──> known: what changed since, and a digest again      unknown: names and versions, on the same stream
//!                 another's controller: this stream ends, the next one begins with names and versions
//! ```

mod believed;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::l7::WaypointKey;
use mesh_core::snapshot::Snapshot;
use mesh_core::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status};
use prost::Message;
use prost_types::value::Kind as ValueKind;
use prost_types::{Struct, Value};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Request};
use tracing::{debug, info, warn};

use crate::grpc::client::AggregatedDiscoveryServiceClient;
use crate::grpc::{Backoff, DIGEST, EVERYTHING, MAX_MESSAGE, PARTIAL, Target, TargetError, UNKNOWN};
use believed::{Believed, printable};

pub use believed::{InvalidResource, Kind};
pub use status::{ControlStatus, ControlView, TypeView};

#[derive(Debug)]
pub struct Config {
    pub controller: Target,
    /// See [`node_id`].
    pub node_id: String,
    pub node_name: String,
    pub cluster_id: String,
    pub network: String,
    /// Names that the agent needs, `network/ip` or `namespace/hostname`, as it comes to need them. `None` subscribes to
    /// every address of the mesh.
    pub on_demand: Option<mpsc::Receiver<Arc<str>>>,
    /// The waypoint that this is, whose models are asked for; `None` for an agent.
    pub waypoint: Option<WaypointKey>,
    pub backoff: Backoff,
}

impl Config {
    /// What is subscribed to, in that order.
    fn kinds(&self) -> impl Iterator<Item = Kind> + use<> {
        let layer7 = self.waypoint.is_some();
        Kind::ALL.into_iter().filter(move |kind| layer7 || *kind != Kind::Layer7)
    }
}

/// `ztunnel~<ip>~<pod>.<namespace>~<namespace>.svc.<domain>`, the form in which control planes expect a node agent.
pub fn node_id(ip: IpAddr, pod: &str, namespace: &str, domain: &str) -> String {
    format!("ztunnel~{ip}~{pod}.{namespace}~{namespace}.svc.{domain}")
}

/// As [`node_id`], of a waypoint.
pub fn waypoint_id(ip: IpAddr, pod: &str, namespace: &str, domain: &str) -> String {
    format!("waypoint~{ip}~{pod}.{namespace}~{namespace}.svc.{domain}")
}

/// Why a control stream ended.
#[derive(Debug, Error)]
pub enum ControlError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("connect to {address}: {}", causes(.source))]
    Connect { address: String, source: tonic::transport::Error },
    #[error("the controller does not accept who we are: {0}")]
    Refused(String),
    #[error("control stream: {0}")]
    Stream(String),
    #[error("the controller closed the stream")]
    Closed,
    #[error("the controller does not know digests; coming back with names and versions")]
    NoDigests,
}

impl ControlError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Target(e) => e.reason(),
            Self::Connect { .. } => "connect",
            Self::Refused(_) => "refused",
            Self::Stream(_) => "stream",
            Self::Closed => "closed",
            Self::NoDigests => "no_digests",
        }
    }
}

/// Requests that may wait to be sent: subscriptions of both types, and an ACK for each response in flight.
const REQUEST_QUEUE: usize = 16;
/// A stream that lasted this long was a good one: the next attempt starts with the shortest wait.
const GOOD_STREAM: Duration = Duration::from_secs(10);

/// Keeps `snapshot` as the controller says, for as long as somebody receives it.
pub async fn run(mut config: Config, snapshot: watch::Sender<Arc<Snapshot>>, status: ControlStatus) {
    let mut believed = Believed::default();
    let mut demanded = Vec::new();
    let mut failures = 0;
    loop {
        let started = tokio::time::Instant::now();
        let stream = stream(&mut config, &mut believed, &mut demanded, &snapshot, &status);
        let error = tokio::select! {
            error = stream => error,
            () = snapshot.closed() => return,
        };
        if started.elapsed() >= GOOD_STREAM {
            failures = 0;
        }
        let wait = config.backoff.wait(failures);
        failures = failures.saturating_add(1);
        let address = &config.controller.address;
        warn!(%address, reason = error.reason(), %error, retry_in = ?wait, "control stream ended");
        status.lost(error.to_string());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = snapshot.closed() => return,
        }
    }
}

/// One stream, from its connection to its end.
async fn stream(
    config: &mut Config,
    believed: &mut Believed,
    demanded: &mut Vec<Arc<str>>,
    snapshot: &watch::Sender<Arc<Snapshot>>,
    status: &ControlStatus,
) -> ControlError {
    match try_stream(config, believed, demanded, snapshot, status).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn try_stream(
    config: &mut Config,
    believed: &mut Believed,
    demanded: &mut Vec<Arc<str>>,
    snapshot: &watch::Sender<Arc<Snapshot>>,
    status: &ControlStatus,
) -> Result<std::convert::Infallible, ControlError> {
    let address = config.controller.address.clone();
    let (endpoint, _) = config.controller.endpoint().await?;
    let channel =
        endpoint.connect().await.map_err(|source| ControlError::Connect { address: address.clone(), source })?;
    let mut client = AggregatedDiscoveryServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .accept_compressed(CompressionEncoding::Zstd);

    let (requests, outgoing) = mpsc::channel(REQUEST_QUEUE);
    let mut offered = BTreeSet::new();
    for kind in config.kinds() {
        let first = first_request(config, believed, demanded, kind);
        if believed.digest(kind).is_some() {
            offered.insert(kind);
        } else {
            believed.forget_digest(kind);
        }
        requests.try_send(first).map_err(|_| ControlError::Closed)?;
    }
    let mut request = Request::new(ReceiverStream::new(outgoing));
    config.controller.sign_in(&config.cluster_id, request.metadata_mut()).await?;
    let mut responses = client.delta_aggregated_resources(request).await.map_err(refused)?.into_inner();
    info!(%address, "control stream open");
    status.connected();

    loop {
        let next = tokio::select! {
            response = responses.message() => ControlFlow::Break(response.map_err(refused)?),
            name = demand(&mut config.on_demand) => ControlFlow::Continue(name),
        };
        let request = match next {
            ControlFlow::Break(None) => return Err(ControlError::Closed),
            ControlFlow::Break(Some(response)) => match resumption(&response, &mut offered) {
                Resumption::GoesOn => match receive(response, believed, snapshot, status) {
                    Some(answer) => answer,
                    None => continue,
                },
                Resumption::Unknown(kind) => {
                    believed.forget_digest(kind);
                    DeltaDiscoveryRequest {
                        response_nonce: response.nonce,
                        ..first_request(config, believed, demanded, kind)
                    }
                }
                Resumption::Ignored => {
                    config.kinds().for_each(|kind| believed.forget_digest(kind));
                    return Err(ControlError::NoDigests);
                }
            },
            ControlFlow::Continue(name) => {
                if demanded.contains(&name) {
                    continue;
                }
                demanded.push(name.clone());
                DeltaDiscoveryRequest {
                    type_url: Kind::Address.type_url().to_owned(),
                    resource_names_subscribe: vec![name.to_string()],
                    ..DeltaDiscoveryRequest::default()
                }
            }
        };
        requests.send(request).await.map_err(|_| ControlError::Closed)?;
    }
}

/// What becomes of a digest that was said in place of names.
#[derive(Debug, PartialEq, Eq)]
enum Resumption {
    /// Understood, or there was none.
    GoesOn,
    /// The controller asks for names and versions.
    Unknown(Kind),
    /// The controller takes us for one that holds nothing, and will not say what vanished.
    Ignored,
}

/// `offered`: kinds of which a digest was said and nothing heard since.
fn resumption(response: &DeltaDiscoveryResponse, offered: &mut BTreeSet<Kind>) -> Resumption {
    let version = response.system_version_info.as_str();
    match Kind::of(&response.type_url).filter(|kind| offered.remove(kind)) {
        Some(kind) if version == UNKNOWN => Resumption::Unknown(kind),
        Some(_) if version != PARTIAL && !version.starts_with(DIGEST) => Resumption::Ignored,
        _ => Resumption::GoesOn,
    }
}

async fn demand(queue: &mut Option<mpsc::Receiver<Arc<str>>>) -> Arc<str> {
    match queue {
        Some(receiver) => match receiver.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// Applies a response, publishes the outcome and yields the ACK or NACK.
fn receive(
    response: DeltaDiscoveryResponse,
    believed: &mut Believed,
    snapshot: &watch::Sender<Arc<Snapshot>>,
    status: &ControlStatus,
) -> Option<DeltaDiscoveryRequest> {
    let (type_url, nonce) = (response.type_url.clone(), response.nonce.clone());
    let Some(kind) = Kind::of(&type_url) else {
        debug!(type_url = %printable(&type_url), "response of a type that nobody asked for");
        return Some(answer(type_url, nonce, Some("not subscribed to this type".to_owned())));
    };
    let (bytes, version, more) = (response.encoded_len(), response.system_version_info.clone(), response.more);
    let applied = believed.apply(kind, response);
    if let Some(whole) = believed.news(more) {
        snapshot.send_replace(Arc::new(whole));
    }
    let (updated, removed) = (applied.updated, applied.removed);
    debug!(?kind, updated, removed, bytes, "control stream update");
    let error = applied.error();
    if let Some(error) = &error {
        warn!(?kind, refused = applied.refused.len(), %error, "resources refused");
    }
    status.applied(kind, &version, bytes, believed.count(kind), &applied, version != PARTIAL);
    Some(answer(type_url, nonce, error))
}

fn answer(type_url: String, nonce: String, error: Option<String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url,
        response_nonce: nonce,
        error_detail: error.map(|message| Status { code: Code::InvalidArgument as i32, message }),
        ..DeltaDiscoveryRequest::default()
    }
}

fn first_request(config: &Config, believed: &Believed, demanded: &[Arc<str>], kind: Kind) -> DeltaDiscoveryRequest {
    let mut request = DeltaDiscoveryRequest {
        node: Some(node(config)),
        type_url: kind.type_url().to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    if kind == Kind::Address && config.on_demand.is_some() {
        request.resource_names_subscribe = demanded.iter().map(ToString::to_string).collect();
        // An empty subscription would be the wildcard.
        request.resource_names_unsubscribe = vec!["*".to_owned()];
    }
    if let (Kind::Layer7, Some(waypoint)) = (kind, &config.waypoint) {
        request.resource_names_subscribe = vec![waypoint.to_string()];
    }
    // A digest is of everything, so only who asks for everything has one.
    request.initial_resource_versions = match believed.digest(kind) {
        Some(digest) => [(EVERYTHING.to_owned(), digest.to_owned())].into(),
        None => believed.versions(kind).collect(),
    };
    request
}

fn node(config: &Config) -> Node {
    let text = |value: &str| Value { kind: Some(ValueKind::StringValue(value.to_owned())) };
    let fields: BTreeMap<String, Value> =
        [("CLUSTER_ID", config.cluster_id.as_str()), ("NETWORK", &config.network), ("NODE_NAME", &config.node_name)]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), text(value)))
            .collect();
    Node { id: config.node_id.clone(), cluster: config.cluster_id.clone(), metadata: Some(Struct { fields }) }
}

fn refused(status: tonic::Status) -> ControlError {
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => ControlError::Refused(status.message().to_owned()),
        code => ControlError::Stream(format!("{code:?}: {}", status.message())),
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

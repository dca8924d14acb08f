//! An agent as the controller sees it: what it says, what it acknowledges, and nothing of what it would do.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use mesh_core::wire::discovery::{DeltaDiscoveryRequest, Node};
use mesh_net::control::{Kind, node_id};
use mesh_net::grpc::{DIGEST, EVERYTHING, PARTIAL};
use prost::Message;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Request;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::counted::{Bytes as Carried, Dialler};
use super::raw::{Named, Raw, Told};
use super::world;

/// All agents, connected. Dropping it ends their connections.
#[derive(Debug)]
pub(super) struct Crowd {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

/// What an agent holds when it comes: the first request of each kind says so.
#[derive(Clone, Debug, Default)]
pub(super) struct Holding {
    versions: BTreeMap<Kind, HashMap<String, String>>,
    /// The controller's own word for all of it, if it has one.
    digests: BTreeMap<Kind, String>,
}

/// What all agents tell.
#[derive(Debug, Default)]
struct Shared {
    agents: usize,
    synced: AtomicUsize,
    carried: Arc<Carried>,
    /// Bytes of responses as they are read, and how many.
    read: AtomicU64,
    responses: AtomicU64,
    /// Whether changes of pods are looked for.
    watching: AtomicBool,
    /// When each agent was told of a pod.
    arrivals: Mutex<HashMap<usize, Vec<Instant>>>,
    /// What the first agent holds; the others hold the same.
    holding: Mutex<Holding>,
    failure: Mutex<Option<String>>,
    stirred: Notify,
}

/// Bytes and responses so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count {
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) read: u64,
    pub(super) responses: u64,
}

impl Crowd {
    /// Connects one agent for each token, all at once.
    pub(super) fn join(controller: SocketAddr, roots: &str, tokens: Vec<String>, holding: &Holding) -> Crowd {
        let known = Mutex::new(holding.clone());
        let shared = Arc::new(Shared { agents: tokens.len(), holding: known, ..Shared::default() });
        let first: Arc<[(Kind, DeltaDiscoveryRequest)]> = holding.requests().into();
        let each = tokens.into_iter().enumerate().map(|(number, token)| {
            let (shared, roots, first) = (shared.clone(), roots.to_owned(), first.clone());
            tokio::spawn(async move {
                let mut agent = Agent { number, shared: shared.clone(), synced: Vec::new() };
                let Err(error) = agent.follow(controller, &roots, &token, &first).await else { return };
                *shared.failure.lock().unwrap_or_else(|e| e.into_inner()) = Some(format!("agent {number}: {error:#}"));
                shared.stirred.notify_one();
            })
        });
        Crowd { tasks: each.collect(), shared }
    }

    /// Waits until every agent has been told all.
    pub(super) async fn synced(&self) -> Result<()> {
        self.until("all agents to be told all", || self.shared.synced.load(Ordering::Relaxed) == self.shared.agents)
            .await
    }

    /// Looks for changes of pods from now on.
    pub(super) fn watch(&self) {
        self.shared.watching.store(true, Ordering::Relaxed);
    }

    /// Waits until every agent has been told of the pods; yields when each was told, by pod, the last one last.
    pub(super) async fn told(&self, pods: &[usize]) -> Result<Vec<Vec<Instant>>> {
        let whole = |arrivals: &HashMap<usize, Vec<Instant>>| {
            pods.iter().all(|pod| arrivals.get(pod).is_some_and(|all| all.len() >= self.shared.agents))
        };
        self.until("all agents to be told of a change", || whole(&self.shared.arrivals())).await?;
        let mut arrivals = self.shared.arrivals();
        Ok(pods.iter().filter_map(|pod| arrivals.remove(pod)).collect())
    }

    /// What each of them holds.
    pub(super) fn holding(&self) -> Holding {
        self.shared.holding.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    pub(super) fn count(&self) -> Count {
        let shared = &self.shared;
        let [received, sent, read, responses] =
            [&shared.carried.received, &shared.carried.sent, &shared.read, &shared.responses]
                .map(|count| count.load(Ordering::Relaxed));
        Count { received, sent, read, responses }
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) -> Result<()> {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !holds() {
                if let Some(failure) = &*self.shared.failure.lock().unwrap_or_else(|e| e.into_inner()) {
                    bail!("{failure}");
                }
                self.shared.stirred.notified().await;
            }
            Ok(())
        });
        waited.await.with_context(|| format!("waited {PATIENCE:?} in vain: {what}"))?
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    fn arrivals(&self) -> MutexGuard<'_, HashMap<usize, Vec<Instant>>> {
        self.arrivals.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Holding {
    /// The same, said with names and versions, as agents of others do.
    pub(super) fn named(self) -> Holding {
        Holding { digests: BTreeMap::new(), ..self }
    }

    /// The first request of each kind, in the order in which an agent sends them.
    fn requests(&self) -> Vec<(Kind, DeltaDiscoveryRequest)> {
        let kinds = [Kind::Authorization, Kind::Address].into_iter();
        let request = |kind: Kind| DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            initial_resource_versions: match self.digests.get(&kind) {
                Some(digest) => [(EVERYTHING.to_owned(), digest.clone())].into(),
                None => self.versions.get(&kind).into_iter().flatten().map(pair).collect(),
            },
            ..DeltaDiscoveryRequest::default()
        };
        kinds.map(|kind| (kind, request(kind))).collect()
    }

    fn take(&mut self, kind: Kind, told: &Told) -> Result<()> {
        self.digests.remove(&kind);
        if told.version.starts_with(DIGEST) {
            self.digests.insert(kind, told.version.clone());
        }
        let held = self.versions.entry(kind).or_default();
        for name in &told.removed {
            held.remove(name);
        }
        for resource in &told.resources {
            let named = Named::decode(resource.clone())?;
            held.insert(named.name, named.version);
        }
        Ok(())
    }
}

fn pair((name, version): (&String, &String)) -> (String, String) {
    (name.clone(), version.clone())
}

struct Agent {
    number: usize,
    shared: Arc<Shared>,
    /// Kinds of which all was told.
    synced: Vec<Kind>,
}

impl Agent {
    async fn follow(
        &mut self,
        controller: SocketAddr,
        roots: &str,
        token: &str,
        first: &[(Kind, DeltaDiscoveryRequest)],
    ) -> Result<()> {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots)).domain_name("localhost");
        // Windows as an agent has them.
        let endpoint = Endpoint::from_shared(format!("https://{controller}"))?
            .tls_config(tls)?
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20);
        let channel =
            endpoint.connect_with_connector(Dialler { to: controller, carried: self.shared.carried.clone() }).await?;
        let mut client = tonic::client::Grpc::new(channel)
            .max_decoding_message_size(256 << 20)
            .accept_compressed(CompressionEncoding::Zstd);
        let (requests, outgoing) = mpsc::unbounded_channel();
        for (_, request) in first {
            requests.send(DeltaDiscoveryRequest { node: Some(node(self.number)), ..request.clone() })?;
        }
        let mut request = Request::new(UnboundedReceiverStream::new(outgoing));
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
        client.ready().await?;
        let path = http::uri::PathAndQuery::from_static(METHOD);
        let mut responses = client.streaming(request, path, Raw).await?.into_inner();
        while let Some(response) = responses.message().await? {
            let answer = self.take(response)?;
            requests.send(answer)?;
        }
        bail!("the controller ended the stream")
    }

    /// Notes what a response says, and yields what is answered.
    fn take(&mut self, response: Bytes) -> Result<DeltaDiscoveryRequest> {
        let now = Instant::now();
        self.shared.read.fetch_add(response.len() as u64, Ordering::Relaxed);
        self.shared.responses.fetch_add(1, Ordering::Relaxed);
        let told = Told::decode(response).context("a response")?;
        let kind = Kind::of(&told.type_url).with_context(|| format!("a response of type {}", told.type_url))?;
        if self.number == 0 {
            self.shared.holding.lock().unwrap_or_else(|e| e.into_inner()).take(kind, &told)?;
        }
        if self.shared.watching.load(Ordering::Relaxed) {
            let mut arrivals = self.shared.arrivals();
            for resource in &told.resources {
                if let Some(pod) = world::number_of(&Named::decode(resource.clone())?.name) {
                    arrivals.entry(pod).or_default().push(now);
                }
            }
            drop(arrivals);
            self.shared.stirred.notify_one();
        }
        if told.version != PARTIAL && !self.synced.contains(&kind) {
            self.synced.push(kind);
            if self.synced.len() == 2 {
                self.shared.synced.fetch_add(1, Ordering::Relaxed);
                self.shared.stirred.notify_one();
            }
        }
        Ok(DeltaDiscoveryRequest {
            type_url: told.type_url,
            response_nonce: told.nonce,
            ..DeltaDiscoveryRequest::default()
        })
    }
}

fn node(number: usize) -> Node {
    let id = node_id([127, 0, 0, 1].into(), &format!("weft-node-{number}"), "weft-system", "cluster.local");
    Node { id, cluster: "Kubernetes".to_owned(), metadata: None }
}

const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Longest wait for all agents.
const PATIENCE: Duration = Duration::from_secs(60);

//! The control stream's serving end: incremental (delta) xDS over one gRPC stream for each agent.
//!
//! ```text
//! watch<Arc<World>> --+--> one task an agent: Session (pure) --> mpsc(1) --> HTTP/2 stream
//!                     +--> ...                                   full: this agent waits, nobody else
//!                                             Pace (pure)   <--- acknowledged
//! ```
//! Nothing is queued for an agent but one response; what changes while it is slow is read from the world once it takes
//! the next, so it sees the latest state of each resource, once.

mod agents;
mod method;
mod pace;
mod requests;
pub(crate) mod session;
pub(crate) mod subscription;
pub(crate) mod response;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use mesh_core::wire::discovery::{DeltaDiscoveryRequest, Node};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;
use tonic::{Request, Status};
use tracing::{debug, info, warn};

use crate::access::{Access, Caller};
use crate::store::World;
use pace::Pace;
use requests::{Requests, Turns};
use response::Response;
use session::Session;
use subscription::{Heard, SessionError};

pub(crate) use agents::Progress;
pub use agents::{AgentView, Agents, SubscriptionView};
pub use method::Discovery;

/// Streams that one node may have open: an agent and the waypoints that sign in with the node's token, their successors, and
/// some that are not yet known to be dead.
const MAX_STREAMS_OF_NODE: usize = 32;

#[derive(Clone)]
pub struct Ads {
    worlds: watch::Receiver<Arc<World>>,
    access: Arc<Access>,
    agents: Arc<Agents>,
    /// True once the controller is to stop.
    stopping: watch::Receiver<bool>,
    turns: Turns,
    metrics: Metrics,
}

#[derive(Clone, Default)]
struct Metrics {
    responses: Counter,
    resources: Counter,
    nacks: Counter,
}

impl Ads {
    pub fn new(
        worlds: watch::Receiver<Arc<World>>,
        access: Arc<Access>,
        agents: Arc<Agents>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self { worlds, access, agents, stopping, turns: Turns::default(), metrics: Metrics::default() }
    }

    pub fn register(&self, registry: &mut Registry) {
        let Metrics { responses, resources, nacks } = &self.metrics;
        registry.register("weft_ads_responses", "Discovery responses sent", responses.clone());
        registry.register("weft_ads_resources", "Resources sent", resources.clone());
        registry.register("weft_ads_nacks", "Discovery responses that agents refused", nacks.clone());
    }

    pub fn into_service(self) -> Discovery {
        Discovery(self)
    }

    /// Serves one more agent.
    async fn open(&self, request: Request<Requests>) -> Result<mpsc::Receiver<Result<Response, Status>>, Status> {
        let caller = self.access.caller(request.metadata()).await?;
        let node = &caller.node;
        if self.agents.streams_of(node) >= MAX_STREAMS_OF_NODE {
            warn!(%node, "too many control streams of one node");
            return Err(Status::resource_exhausted(format!("node {node} has {MAX_STREAMS_OF_NODE} streams open")));
        }
        let peer = request.remote_addr();
        let (responses, stream) = mpsc::channel(1);
        let agent = self.agents.enter(node.clone(), peer);
        info!(%node, ?peer, agent = agent.id(), "agent connected");
        let (session, pace) = (Session::default(), Pace::default());
        let served = Served { ads: self.clone(), caller, agent, session, pace };
        tokio::spawn(served.run(request.into_inner(), responses));
        Ok(stream)
    }
}

/// One agent's stream.
struct Served {
    ads: Ads,
    caller: Caller,
    agent: agents::Entered,
    session: Session,
    pace: Pace,
}

impl Served {
    async fn run(mut self, mut requests: Requests, responses: mpsc::Sender<Result<Response, Status>>) {
        let end = self.serve(&mut requests, &responses).await;
        let (node, agent) = (&self.caller.node, self.agent.id());
        match end {
            Ok(why) => info!(%node, agent, why, "agent gone"),
            Err(status) => {
                info!(%node, agent, code = ?status.code(), why = status.message(), "agent's stream ended");
                // If the agent does not take it, it learns of the end by the stream's closing.
                let _ = responses.try_send(Err(status));
            }
        }
    }

    async fn serve(
        &mut self,
        requests: &mut Requests,
        responses: &mpsc::Sender<Result<Response, Status>>,
    ) -> Result<&'static str, Status> {
        let mut worlds = self.ads.worlds.clone();
        let mut stopping = self.ads.stopping.clone();
        let mut world = worlds.borrow_and_update().clone();
        loop {
            // What was begun is told to its end as it was then.
            if !self.session.is_torn() {
                world = worlds.borrow_and_update().clone();
            }
            let now = Instant::now();
            let rests_until = self.pace.free_at().filter(|at| *at > now && !self.session.is_amid());
            let work = self.session.has_work(&world);
            tokio::select! {
                // In this order: what an agent asks for in one breath is answered together.
                biased;
                _ = stopping.wait_for(|stop| *stop) => {
                    return Err(Status::unavailable("the controller is stopping"));
                }
                request = requests.message(), if world.synced => match request {
                    Ok(Some(request)) => self.hear(&world, request)?,
                    Ok(None) => return Ok("closed by the agent"),
                    Err(status) => {
                        debug!(code = ?status.code(), message = status.message(), "control stream broke");
                        return Ok("connection lost");
                    }
                },
                // Meanwhile nothing that changes wakes it.
                () = sleep_until(rests_until.unwrap_or(now).into()), if rests_until.is_some() => {
                    self.pace.rested(self.session.has_work(&worlds.borrow()));
                }
                place = responses.reserve(), if work && rests_until.is_none() => match place {
                    Ok(place) => {
                        self.ads.access.check(&self.caller, Instant::now())?;
                        if let Some(response) = self.session.next(&world).map_err(ended)? {
                            self.ads.metrics.responses.inc();
                            self.ads.metrics.resources.inc_by(response.resources() as u64);
                            self.pace.told(Instant::now());
                            place.send(Ok(response));
                        }
                        self.agent.show(&self.session);
                    }
                    Err(_) => return Ok("stream dropped"),
                },
                changed = worlds.changed(), if rests_until.is_none() => if changed.is_err() {
                    return Err(Status::unavailable("the controller is stopping"));
                },
                () = responses.closed() => return Ok("stream dropped"),
            }
        }
    }

    fn hear(&mut self, world: &World, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        if let Some(node) = &request.node {
            self.agent.named(&node.id);
            if let Some(claimed) = node_name(node).filter(|claimed| *claimed != &*self.caller.node) {
                debug!(node = %self.caller.node, claimed, "agent calls its node something else");
            }
        }
        match self.session.hear(world, request).map_err(ended)? {
            Heard::Refused { kind, message } => {
                self.ads.metrics.nacks.inc();
                warn!(node = %self.caller.node, ?kind, %message, "agent refuses a response");
            }
            Heard::Subscribed { kind } => debug!(node = %self.caller.node, ?kind, "agent subscribes"),
            Heard::Acknowledged { .. } => {}
        }
        if self.session.is_heard() {
            self.pace.acknowledged(Instant::now());
        }
        self.agent.show(&self.session);
        Ok(())
    }
}

fn ended(error: SessionError) -> Status {
    match error {
        SessionError::Type(_) => Status::invalid_argument(error.to_string()),
        SessionError::TooManyNames => Status::resource_exhausted(error.to_string()),
        SessionError::TooFarBehind => Status::aborted(error.to_string()),
    }
}

fn node_name(node: &Node) -> Option<&str> {
    match node.metadata.as_ref()?.fields.get("NODE_NAME")?.kind.as_ref()? {
        prost_types::value::Kind::StringValue(name) => Some(name),
        _ => None,
    }
}

//! To an endpoint and back, as often as the rule's retries allow.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, StatusCode, Version};
use mesh_core::l7::Protocol;
use mesh_core::workload::Uid;
use mesh_net::header_list::HeaderList;
use rand::RngExt;

use super::story::Story;
use crate::aim::{Aim, Destination, Unknown};
use crate::body::{Held, Replay};
use crate::engine::balance::stick;
use crate::engine::outliers;
use crate::engine::respond::{self, Reply};
use crate::engine::retry::{ATTEMPT_COUNT, Broken, EXPECTED_TIMEOUT, Outcome, Retries};
use crate::message::{self, Departing, Joined, Response};
use crate::session::Session;
use crate::upstream::{SendError, Version as Spoken};
use crate::world::{Compiled, World};

/// What a request is sent by: one state of the world, from its first try to its last.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) session: &'a Session,
    pub(super) world: &'a World,
    pub(super) compiled: &'a Compiled,
}

/// A request as it goes on.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) authority: String,
    /// Path and query.
    pub(super) target: String,
    /// Shared by all tries that add nothing.
    pub(super) headers: Arc<HeaderList>,
    /// Of the client's request.
    pub(super) version: Version,
    pub(super) upgrade: Option<HeaderValue>,
    pub(super) is_grpc: bool,
    pub(super) query: Option<String>,
}

/// What the rule says of tries.
#[derive(Clone, Copy)]
pub(super) struct Patience<'a> {
    pub(super) retries: &'a Retries,
    /// For the whole exchange.
    pub(super) timeout: Option<Duration>,
    /// The endpoint that the client's session is with: for the first try.
    pub(super) pinned: Option<&'a Uid>,
}

/// A response's head, who gave it, and what it asks to be added.
pub(super) struct Answer {
    pub(super) response: Response,
    /// The connection, if it has become something else.
    pub(super) joined: Option<Joined>,
    pub(super) endpoint: Uid,
    /// From the first try to this head.
    pub(super) took: Duration,
    pub(super) set_cookie: Option<String>,
}

pub(super) async fn forward(
    at: At<'_>,
    story: &mut Story,
    to: &Destination,
    outgoing: &Outgoing,
    body: &Replay,
    patience: Patience<'_>,
) -> Result<Answer, Reply> {
    let At { session, world, .. } = at;
    let began = Instant::now();
    let aim = aim(at, to, outgoing).map_err(|Unknown| respond::no_backend(StatusCode::SERVICE_UNAVAILABLE))?;
    story.record.service = aim.service.clone().or_else(|| story.record.service.take());
    let mut tried: Vec<Uid> = Vec::new();
    let mut made = 0;
    let mut _retry = None;
    // An upgrade's bytes cannot be sent again.
    let attempts = if outgoing.upgrade.is_some() { 0 } else { patience.retries.attempts };
    if attempts == 0 {
        body.last();
    }
    loop {
        made += 1;
        story.record.attempts = made;
        let now = if made == 1 { began } else { Instant::now() };
        let left = patience.timeout.map(|whole| whole.saturating_sub(now.duration_since(began)));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(respond::timeout());
        }
        let pinned = patience.pinned.filter(|_| made == 1).and_then(|uid| aim.pinned(session, uid));
        let endpoint = pinned.or_else(|| aim.endpoint(session, world, &tried, now));
        let endpoint = endpoint.ok_or_else(respond::no_healthy_upstream)?;
        story.record.destination = Some(endpoint.workload.clone());
        story.record.upstream = Some(endpoint.address);
        let under_way = aim.begin(&endpoint).map_err(|_| respond::overflow())?;
        let request = request(outgoing, body, patience, now.duration_since(began), made);
        let version = spoken(&aim, outgoing);
        let terms = aim.terms(session);
        let limit = match (left, patience.retries.per_try_timeout) {
            (Some(left), Some(one)) => Some(left.min(one)),
            (left, one) => left.or(one),
        };
        let upstreams = &session.shared.upstreams;
        let client = session.client.address;
        // In one place: a future that is moved is copied.
        let vouched = aim.vouched(session, world, &endpoint);
        let mut sending = pin!(upstreams.send(&endpoint, version, &terms, client, vouched, request));
        let sent = match limit {
            Some(limit) => tokio::time::timeout(limit, sending.as_mut()).await.map_err(|_| ()),
            None => Ok(sending.as_mut().await),
        };
        let (outcome, error) = match sent {
            Ok(Ok(message::Answer { response, joined })) => {
                aim.judge(session, &endpoint, outliers::Outcome::Status(outcome_status(&response)));
                let again = {
                    let answered = Outcome::Answered { status: response.status, headers: &response.headers };
                    again(patience, made, attempts, &answered, body)
                };
                match again.and_then(|wait| Some((wait, aim.retry()?))) {
                    Some((wait, taken)) => {
                        _retry = taken;
                        tried.push(endpoint.uid().clone());
                        pause(wait, patience, began).await?;
                        continue;
                    }
                    None => {
                        body.answered();
                        let response = response.map(|body| body.watched(Held(Some(under_way))));
                        let (endpoint, set_cookie) = (endpoint.uid().clone(), aim.stuck.set_cookie.clone());
                        return Ok(Answer { response, joined, endpoint, took: began.elapsed(), set_cookie });
                    }
                }
            }
            Ok(Err(SendError::Request(_))) if body.is_stalled() => return Err(respond::stalled()),
            Ok(Err(error @ SendError::Request(_))) => {
                story.record.details = error.to_string().into();
                return Err(respond::bad_request());
            }
            Ok(Err(error @ SendError::Overflow(_))) => (Broken::Overflow, Some(error)),
            Ok(Err(error)) => {
                aim.judge(session, &endpoint, outliers::Outcome::Failed);
                (broken(&error), Some(error))
            }
            Err(()) => {
                aim.judge(session, &endpoint, outliers::Outcome::TimedOut);
                let whole = patience.timeout.is_some_and(|whole| began.elapsed() >= whole);
                if whole {
                    return Err(respond::timeout());
                }
                (Broken::TryTimeout, None)
            }
        };
        if let Some(error) = &error {
            story.record.failure = error.to_string();
        }
        let again = again::<HeaderList>(patience, made, attempts, &Outcome::Broken(outcome), body);
        match again.and_then(|wait| Some((wait, aim.retry()?))) {
            Some((wait, taken)) => {
                _retry = taken;
                tried.push(endpoint.uid().clone());
                pause(wait, patience, began).await?;
            }
            None => return Err(own(outcome, error.as_ref(), made > 1)),
        }
    }
}

/// A copy: one try, whose answer is only read.
pub(super) async fn once(at: At<'_>, to: &Destination, outgoing: &Outgoing, body: &Replay) -> Option<Response> {
    let At { session, world, compiled } = at;
    let aim = aim(at, to, outgoing).ok()?;
    let endpoint = aim.endpoint(session, world, &[], Instant::now())?;
    let patience = Patience { retries: compiled.default_retries(), timeout: None, pinned: None };
    let request = request(outgoing, body, patience, Duration::ZERO, 1);
    let terms = aim.terms(session);
    let (client, service) = (session.client.address, aim.vouched(session, world, &endpoint));
    let sending =
        session.shared.upstreams.send(&endpoint, spoken(&aim, outgoing), &terms, client, service, request).await;
    sending.ok().map(|answer| answer.response)
}

fn aim<'a>(at: At<'a>, to: &Destination, outgoing: &Outgoing) -> Result<Aim<'a>, Unknown> {
    let At { session, world, compiled } = at;
    let fields = &*outgoing.headers;
    let head = stick::Head { fields, query: outgoing.query.as_deref(), client: session.client.address.ip() };
    Aim::new(session, world, compiled, to, &head)
}

fn request(outgoing: &Outgoing, body: &Replay, patience: Patience<'_>, spent: Duration, made: u32) -> Departing {
    let mut headers = outgoing.headers.clone();
    if made > 1 {
        Arc::make_mut(&mut headers).insert(ATTEMPT_COUNT, HeaderValue::from(made));
    }
    if let Some(time) = patience.retries.expected_timeout_ms(patience.timeout, spent) {
        Arc::make_mut(&mut headers).insert(EXPECTED_TIMEOUT, HeaderValue::from(time));
    }
    Departing {
        method: outgoing.method.clone(),
        authority: outgoing.authority.clone(),
        target: outgoing.target.clone(),
        headers,
        upgrade: outgoing.upgrade.clone(),
        body: body.reader(),
    }
}

fn spoken(aim: &Aim<'_>, outgoing: &Outgoing) -> Spoken {
    let is_second = outgoing.version == Version::HTTP_2;
    match aim.protocol {
        _ if outgoing.upgrade.is_some() => Spoken::Http1,
        Protocol::Http2 | Protocol::Grpc => Spoken::Http2,
        Protocol::Http if aim.policy.pool.upgrade => Spoken::Http2,
        Protocol::Http if !(aim.policy.pool.use_client_protocol || is_second && outgoing.is_grpc) => Spoken::Http1,
        _ if is_second => Spoken::Http2,
        _ => Spoken::Http1,
    }
}

/// For gRPC the HTTP status that its code stands for.
fn outcome_status(response: &Response) -> u16 {
    let status = response.headers.get(respond::GRPC_STATUS).and_then(|v| v.to_str().ok()?.parse::<u16>().ok());
    match status {
        None | Some(0) => response.status.as_u16(),
        Some(4) => 504,
        Some(14) => 503,
        Some(2 | 12 | 13 | 15) => 500,
        Some(_) => 200,
    }
}

fn again<R: crate::engine::head::Fields + ?Sized>(
    patience: Patience<'_>,
    made: u32,
    attempts: u32,
    outcome: &Outcome<'_, R>,
    body: &Replay,
) -> Option<Duration> {
    if made > attempts || !body.can_repeat() {
        return None;
    }
    patience.retries.next_try(made, outcome, rand::rng().random())
}

async fn pause(wait: Duration, patience: Patience<'_>, began: Instant) -> Result<(), Reply> {
    let left = patience.timeout.map(|whole| whole.saturating_sub(began.elapsed()));
    if left.is_some_and(|left| left <= wait) {
        tokio::time::sleep(left.unwrap_or_default()).await;
        return Err(respond::timeout());
    }
    tokio::time::sleep(wait).await;
    Ok(())
}

fn broken(error: &SendError) -> Broken {
    match error {
        SendError::Unreached(_) => Broken::Connect,
        SendError::Unsent(_) => Broken::Reset { sent: false },
        SendError::RefusedStream => Broken::Refused,
        SendError::Lost(_) | SendError::Protocol(_) => Broken::Reset { sent: true },
        SendError::Overflow(_) | SendError::Request(_) => Broken::Overflow,
    }
}

fn own(outcome: Broken, error: Option<&SendError>, retried: bool) -> Reply {
    match (outcome, error) {
        (Broken::TryTimeout, _) => respond::timeout(),
        (Broken::Overflow, _) => respond::overflow(),
        (Broken::Connect, Some(SendError::Unreached(unreached))) if unreached.reason() == "connect_timeout" => {
            respond::reset("connection timeout", retried)
        }
        (Broken::Connect, _) => respond::reset("remote connection failure", retried),
        (Broken::Refused, _) => respond::reset("remote refused stream reset", retried),
        (Broken::Reset { .. }, Some(SendError::Protocol(_))) => respond::reset("protocol error", retried),
        (Broken::Reset { .. }, _) => respond::reset("connection termination", retried),
    }
}

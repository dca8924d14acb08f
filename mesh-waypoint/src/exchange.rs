//! One request's story: what it is, whether it may, where it goes, and what comes back.

mod forward;
mod mirror;
mod admit;
mod limit;
mod external;
mod story;
mod edit;
mod read;

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue, StatusCode, Version, header};
use rand::RngExt;

use crate::aim::Destination;
use crate::body::{Body, Replay};
use crate::date;
use crate::engine::decide::{Forward, Then};
use crate::engine::head;
use crate::engine::headers;
use crate::engine::respond::{self, Reply};
use crate::message::{self, Arriving, Joined, Response, Service};
use crate::overload::Shed;
use crate::session::{InForce, Session};
use crate::telemetry::{Record, Word};
use crate::world::{Compiled, World};
use forward::{Answer, At, Outgoing, Patience};
use read::Incoming;
use story::Story;

impl Service for Session {
    async fn answer(&self, arriving: Arriving) -> message::Answer {
        let world = self.world();
        let in_force = self.in_force(&world);
        let record = Record::new(self.client.clone(), self.asked.address, read::protocol(arriving.version));
        let mut story = Story::begin(self.shared.telemetry.clone(), record);
        let taken = self.party.request().map(|taken| story.taken = Some(taken));
        let answer = match &in_force.compiled {
            _ if let Err(shed) = taken => overloaded(self, &in_force, &mut story, &arriving, shed),
            Some(compiled) => {
                story.rules = compiled.telemetry.clone();
                respond(self, &world, &in_force, compiled, &mut story, arriving).await
            }
            // It does not use this waypoint any more.
            None => own(&mut story, respond::no_backend(StatusCode::SERVICE_UNAVAILABLE)),
        };
        finish(story, answer)
    }

    fn refuse(&self, status: StatusCode, why: &str) -> message::Answer {
        let details = format!("http1.codec_error{{{}}}", why.replace(' ', "_"));
        unread(self, Reply { status, ..respond::bad_request() }, details)
    }

    fn too_slow(&self) -> message::Answer {
        unread(self, respond::slow_head(), String::new())
    }

    fn is_tight(&self) -> bool {
        self.shared.overload.is_tight()
    }

    fn tight(&self) -> impl Future<Output = ()> + Send {
        self.shared.overload.tight()
    }
}

/// The answer to what was not read as a request. `details`: those of the reply if there are none.
fn unread(session: &Session, reply: Reply, details: String) -> message::Answer {
    let record = Record::new(session.client.clone(), session.asked.address, read::protocol(Version::HTTP_11));
    let mut story = Story::begin(session.shared.telemetry.clone(), record);
    story.record.service = session.in_force(&session.world()).service.clone();
    story.record.details = details.into();
    let answer = own(&mut story, reply);
    finish(story, answer)
}

/// The answer to a request that is not looked at: what is told of it is what it says itself.
fn overloaded(
    session: &Session,
    in_force: &InForce,
    story: &mut Story,
    arriving: &Arriving,
    shed: Shed,
) -> message::Answer {
    session.shared.telemetry.shed(shed);
    story.record.service = in_force.service.clone();
    story.record.texts.set(Word::Method, arriving.method.as_str());
    story.record.texts.set(Word::Path, &arriving.target);
    story.record.is_grpc = head::is_grpc(&arriving.headers);
    let reply = respond::overloaded().for_client(story.record.is_grpc);
    own(story, reply)
}

fn finish(mut story: Story, answer: message::Answer) -> message::Answer {
    let message::Answer { mut response, joined } = answer;
    edit::apply(&story.edits, &mut response.headers);
    if joined.is_some() {
        response.headers.insert(header::SERVER, headers::SERVER);
    } else {
        headers::finish_reply(&mut response.headers);
    }
    response.headers.get_or_insert_with(header::DATE, || date::value(SystemTime::now()));
    story.record.status = response.status.as_u16();
    story.record.hear(response.headers.get(respond::GRPC_STATUS));
    if let Some(headers) = story.headers() {
        headers.response = response.headers.clone();
    }
    message::Answer { response: response.map(|body| body.followed(story)), joined }
}

async fn respond(
    session: &Session,
    world: &World,
    in_force: &InForce,
    compiled: &Arc<Compiled>,
    story: &mut Story,
    mut arriving: Arriving,
) -> message::Answer {
    let limits = session.shared.limits;
    // A stream of gRPC may be quiet for as long as its ends want.
    let waits = arriving.body.whole().is_none() && !head::is_grpc(&arriving.headers);
    let patience = waits.then_some(limits.stream_idle);
    let body = Replay::new(std::mem::take(&mut arriving.body), limits.replay, patience);
    story.body = Some(body.clone());
    story.record.service = in_force.service.clone();
    story.record.texts.set(Word::Method, arriving.method.as_str());
    story.record.texts.set(Word::Path, &arriving.target);
    let is_forced = arriving.headers.contains_key(&FORCE_TRACE);
    let mut incoming = match Incoming::read(&mut arriving, compiled.model.path_normalization) {
        Ok(incoming) => incoming,
        Err(bad) => {
            story.record.details = bad.to_string().into();
            return own(story, respond::bad_request());
        }
    };
    headers::ensure_request_id(&mut incoming.headers, request_id);
    describe(story, &incoming);
    let (tracer, tracing) = (session.shared.telemetry.tracer(), &compiled.model.telemetry.tracing);
    story.record.trace = tracer.begin(tracing, &incoming.headers, is_forced);

    if let Err(reply) = admit::admit(session, world, in_force, compiled, story, &mut incoming, &body).await {
        return own(story, reply);
    }
    if let Some(begun) = &story.record.trace {
        begun.write(&mut incoming.headers);
    }

    let uid = session.client.workload.as_ref().map(|workload| &workload.uid);
    let asked = head::Request {
        head: head::Head {
            method: incoming.method.as_str(),
            scheme: incoming.scheme,
            authority: &incoming.authority,
            path: &incoming.path,
            query: incoming.query.as_deref(),
            protocol: read::protocol(incoming.version),
            headers: &incoming.headers,
        },
        client: head::Client {
            namespace: session.client.identity.namespace(),
            uid,
            identity: Some(session.client.identity.uri()),
            address: Some(session.client.address),
        },
        received: story.record.began_at,
    };
    story.record.is_grpc = asked.head.is_grpc();
    let at = At { session, world, compiled };
    let Some(routes) = compiled.routes(session.asked.address.port()) else {
        if incoming.path == "*" {
            return own(story, respond::not_found());
        }
        let outgoing = outgoing(incoming, story.record.is_grpc, None);
        let patience = Patience { retries: compiled.default_retries(), timeout: None, pinned: None };
        let sent = forward::forward(at, story, &Destination::Itself, &outgoing, &body, patience);
        return match sent.await {
            Ok(Answer { response, joined, .. }) => message::Answer { response, joined: held(joined, story) },
            Err(reply) => {
                let is_grpc = story.record.is_grpc;
                own(story, reply.for_client(is_grpc))
            }
        };
    };
    let decision = routes.decide(&asked, || rand::rng().random());
    if let Some(rule) = decision.rule {
        story.record.route = Some(rule.origin.clone());
    }
    if let Some(delay) = decision.delay {
        tokio::time::sleep(delay).await;
        story.record.flags = "DI";
    }
    let forward = match decision.then {
        Then::Reply(reply) => return own(story, reply),
        Then::Forward(forward) => forward,
    };
    let received = asked.received;
    let pin = forward.rule.session.as_ref().and_then(|session| session.pin(&asked.head, received));
    let outgoing = outgoing(incoming, forward.is_grpc(), Some(&forward));
    if !forward.mirrors.is_empty() {
        Box::pin(mirror::copies(session, world, compiled, &forward, &outgoing, &body)).await;
    }
    let to = Destination::Service {
        service: forward.service.clone(),
        port: forward.port,
        subset: forward.subset.map(Arc::from),
    };
    let pinned = pin.as_ref().map(|pin| &pin.endpoint);
    let patience = Patience { retries: &forward.rule.retries, timeout: forward.rule.timeout, pinned };
    match forward::forward(at, story, &to, &outgoing, &body, patience).await {
        Ok(Answer { response, joined: Some(joined), .. }) => {
            message::Answer { response, joined: held(Some(joined), story) }
        }
        Ok(Answer { mut response, endpoint, took, set_cookie, joined: None }) => {
            headers::strip_hop_by_hop(&mut response.headers);
            let time = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            response.headers.insert(headers::SERVICE_TIME, HeaderValue::from(time));
            let status = response.status.as_u16();
            forward.reply_headers(status, &mut response.headers);
            if let Some(cookie) = set_cookie.and_then(|cookie| HeaderValue::try_from(cookie).ok()) {
                response.headers.append(header::SET_COOKIE, cookie);
            }
            let begun = forward.rule.session.as_ref();
            let begun = begun.and_then(|session| session.header(&endpoint, pin.as_ref(), received));
            if let Some((name, value)) = begun {
                response.headers.append(name, value);
            }
            story.record.details = "via_upstream".into();
            response.into()
        }
        Err(reply) => {
            let reply = forward.answer(reply);
            own(story, reply)
        }
    }
}

/// With it a client of the reference's proxy asks for a request's spans.
const FORCE_TRACE: HeaderName = HeaderName::from_static("x-envoy-force-trace");

fn outgoing(incoming: Incoming, is_grpc: bool, forward: Option<&Forward<'_>>) -> Outgoing {
    let mut target = incoming.canonical();
    let Incoming { method, mut authority, mut headers, version, upgrade, query, .. } = incoming;
    if let Some(forward) = forward {
        forward.edits.apply(&mut headers);
        if let Some(rewritten) = &forward.target {
            // A target without its slash would end in the host.
            target = if rewritten.starts_with('/') { rewritten.clone() } else { format!("/{rewritten}") };
        }
        if let Some(host) = forward.authority.as_ref().and_then(|host| host.to_str().ok()) {
            host.clone_into(&mut authority);
        }
    }
    Outgoing { method, authority, target, headers: Arc::new(headers), version, upgrade, is_grpc, query }
}

fn describe(story: &mut Story, incoming: &Incoming) {
    if let Some(headers) = story.headers() {
        headers.request = incoming.headers.clone();
    }
    let texts = &mut story.record.texts;
    texts.set(Word::Authority, &incoming.authority);
    for (word, name) in [
        (Word::RequestId, headers::REQUEST_ID),
        (Word::UserAgent, header::USER_AGENT),
        (Word::ForwardedFor, headers::FORWARDED_FOR),
    ] {
        if let Some(value) = incoming.headers.get(&name) {
            texts.set_bytes(word, value.as_bytes());
        }
    }
}

/// Keeps this instance from ending for as long as the connection is.
fn held(joined: Option<Joined>, story: &Story) -> Option<Joined> {
    joined.map(|joined| Joined { held: Some(Box::new(story.live())), ..joined })
}

/// An answer of the waypoint's own.
fn own(story: &mut Story, reply: Reply) -> message::Answer {
    story.own(reply.why);
    Response { status: reply.status, headers: reply.headers, body: Body::full(reply.body) }.into()
}

/// A random UUID (RFC 9562, version 4).
fn request_id() -> HeaderValue {
    let random: u128 = rand::rng().random();
    let id = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{id:032x}");
    let text = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("-"))
}

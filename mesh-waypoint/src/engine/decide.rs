//! What becomes of a request once policy has let it in: the rule that it takes, and all that this rule wants done.
//!
//! ```text
//! path::target, headers::sanitise -> (authorization) -> decide -> Reply                        not found, preflight, abort,
//!                                                           |                                   redirect, direct, no backend
//!                                                           +--> Forward: endpoint -> try -> retry.. -> reply_headers | answer
//! ```

mod rule;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use mesh_core::l7::route::{self, BackendRef, HttpRoutes};
use mesh_core::workload::ServiceKey;
use mesh_net::header_list::HeaderList;

use super::cors::{Grant, Verdict};
use super::head::{Fields, Request, with_query};
use super::headers::{Edits, ORIGINAL_HOST, ORIGINAL_PATH, Ops, ReplyOps};
use super::matcher::{BadEntry, Matched, Matcher};
use super::respond::{self, Reply};
use super::split;
use rule::{Action, Backend, To};
pub use rule::{BadRule, Rule};

/// All routes of a service's port. A worker has a clone of its own: regular expressions keep memory to work in, which threads
/// would have to take turns for.
#[derive(Clone, Debug)]
pub struct CompiledRoutes {
    matcher: Matcher,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRoutes {
    #[error(transparent)]
    Entry(#[from] BadEntry),
    #[error("rule {rule}: {source}")]
    Rule { rule: Arc<str>, source: BadRule },
}

#[derive(Debug)]
pub struct Decision<'a> {
    /// `None`: none holds.
    pub rule: Option<&'a Rule>,
    /// Waited before anything else. The rule's timeout begins behind it.
    pub delay: Option<Duration>,
    pub then: Then<'a>,
}

#[expect(clippy::large_enum_variant, reason = "most decisions are the large one, and memory of its own costs more")]
#[derive(Debug)]
pub enum Then<'a> {
    /// Complete, but for [`super::headers::finish_reply`].
    Reply(Reply),
    Forward(Forward<'a>),
}

/// A request that goes to a backend.
#[derive(Debug)]
pub struct Forward<'a> {
    pub rule: &'a Rule,
    /// Drawn once: retries stay with it.
    pub service: &'a ServiceKey,
    pub port: u16,
    pub subset: Option<&'a str>,
    /// Path and query in place of the request's; may lack its `/`, as the reference has it.
    pub target: Option<String>,
    /// Host in place of the request's.
    pub authority: Option<HeaderValue>,
    /// Of the request's headers, mirrored copies included.
    pub edits: Edits<'a>,
    /// Each gets a copy of the first try ([`split::mark_copy`]).
    pub mirrors: Vec<&'a BackendRef>,
    reply: ReplyOps<'a>,
    grant: Option<Grant<'a>>,
    is_grpc: bool,
}

impl CompiledRoutes {
    pub fn new(routes: &HttpRoutes) -> Result<Self, BadRoutes> {
        let matcher = Matcher::new(routes)?;
        let rule = |rule: &route::Rule| {
            Rule::new(rule).map_err(|source| BadRoutes::Rule { rule: rule.origin.clone(), source })
        };
        Ok(Self { matcher, rules: routes.rules.iter().map(rule).collect::<Result<_, _>>()? })
    }

    /// For a port about whose requests nobody has said anything: to the service, with the default retries.
    pub fn to_service(service: ServiceKey, port: u16) -> Result<Self, BadRoutes> {
        let to = BackendRef::Service { service, port, subset: None };
        let backend = route::Backend {
            weight: 1,
            to,
            request_headers: route::HeaderOps::default(),
            response_headers: route::HeaderOps::default(),
            rewrite: None,
        };
        let forward = route::Forward { backends: vec![backend], rewrite: route::Rewrite::default(), otherwise: 503 };
        let rule = route::Rule {
            origin: "default".into(),
            action: route::Action::Forward(forward),
            request_headers: route::HeaderOps::default(),
            response_headers: route::HeaderOps::default(),
            timeout: None,
            retries: route::Retries::default(),
            fault: route::Fault::default(),
            cors: None,
            mirrors: Vec::new(),
            session: None,
        };
        let entry = route::Entry { matches: route::Match::default(), rule: 0 };
        Self::new(&HttpRoutes { entries: vec![entry], rules: vec![rule] })
    }

    /// `draw` yields numbers drawn evenly from all of `u64`; it is asked only for what is left to chance.
    pub fn decide<F: Fields + ?Sized>(&self, request: &Request<'_, F>, mut draw: impl FnMut() -> u64) -> Decision<'_> {
        let is_grpc = request.head.is_grpc();
        let Some(matched) = self.matcher.first(&request.head, &request.client) else {
            let then = Then::Reply(respond::not_found().for_client(is_grpc));
            return Decision { rule: None, delay: None, then };
        };
        let rule = &self.rules[matched.rule];
        let grant = match rule.cors.as_ref().map(|cors| cors.verdict(&request.head)) {
            Some(Verdict::Preflight(reply)) => {
                return Decision { rule: Some(rule), delay: None, then: Then::Reply(reply) };
            }
            Some(Verdict::Granted(grant)) => Some(grant),
            Some(Verdict::Silent) | None => None,
        };
        let fault = &rule.fault;
        let injected = if fault.delay.is_none() && fault.abort.is_none() {
            respond::Injected::default()
        } else {
            respond::inject(fault, millionth(draw()), millionth(draw()))
        };
        let then = match injected.abort {
            // The reference's CORS headers are not on these.
            Some(with) => {
                Then::Reply(dress(respond::abort(with, is_grpc), &ReplyOps::new(&rule.response, None, request), None))
            }
            None => rule.then(request, matched, grant, is_grpc, draw),
        };
        Decision { rule: Some(rule), delay: injected.delay, then }
    }
}

impl Rule {
    /// What is done first and what after it, which has the last word: the only destination, but the rule where there are several,
    /// as the reference puts them together.
    fn ordered<'a>(&self, rule: &'a Ops, destination: &'a Ops) -> (&'a Ops, &'a Ops) {
        match &self.action {
            Action::Forward(forward) if forward.backends.len() > 1 => (destination, rule),
            _ => (rule, destination),
        }
    }

    fn then<'a, F: Fields + ?Sized>(
        &'a self,
        request: &Request<'_, F>,
        matched: Matched,
        grant: Option<Grant<'a>>,
        is_grpc: bool,
        mut draw: impl FnMut() -> u64,
    ) -> Then<'a> {
        let own = |reply: Reply, backend: Option<&'a Backend>| {
            let ops = match backend {
                Some(backend) => {
                    let (first, then) = self.ordered(&self.response, &backend.response);
                    ReplyOps::new(first, Some(then), request)
                }
                None => ReplyOps::new(&self.response, None, request),
            };
            Then::Reply(dress(reply.for_client(is_grpc), &ops, grant.as_ref()))
        };
        let forward = match &self.action {
            Action::Redirect(redirect) => return own(redirect.reply(&request.head, matched.taken), None),
            Action::Respond(reply) => return own(reply.clone(), None),
            Action::Forward(forward) => forward,
        };
        let drawn = match &forward.backends[..] {
            [only] if only.weight > 0 => Some(0),
            several => split::draw(several.iter().map(|backend| backend.weight), draw()),
        };
        let Some(backend) = drawn.map(|at| &forward.backends[at]) else {
            return own(respond::no_backend(forward.otherwise), None);
        };
        let (service, port, subset) = match &backend.to {
            To::Service { service, port, subset } => (service, *port, subset.as_deref()),
            To::Missing(status) => return own(respond::no_backend(*status), Some(backend)),
        };
        let rewrite = backend.rewrite.as_ref().unwrap_or(&forward.rewrite);
        let (first, then) = self.ordered(&self.request, &backend.request);
        let mut edits = Edits::of_request(first, Some(then), request);
        let target = rewrite
            .path
            .as_ref()
            .map(|path| with_query(&path.of(request.head.path, matched.taken), request.head.query));
        let original = |text: &str| HeaderValue::from_str(text).ok();
        if target.is_some()
            && let Some(path) = original(&request.head.target())
        {
            edits.put(&ORIGINAL_PATH, path);
        }
        let authority = rewrite.authority.clone();
        let authority = authority.or_else(|| self.request.host(request)).or_else(|| backend.request.host(request));
        if authority.is_some()
            && let Some(host) = original(request.head.authority)
        {
            edits.put(&ORIGINAL_HOST, host);
        }
        Then::Forward(Forward {
            rule: self,
            service,
            port,
            subset,
            target,
            authority,
            edits,
            mirrors: split::mirrors(&self.mirrors, || millionth(draw())).filter(|to| is_there(to)).collect(),
            reply: {
                let (first, then) = self.ordered(&self.response, &backend.response);
                ReplyOps::new(first, Some(then), request)
            },
            grant,
            is_grpc,
        })
    }
}

impl Forward<'_> {
    /// What is done to the headers of the backend's reply.
    pub fn reply_headers(&self, status: u16, headers: &mut HeaderList) {
        self.reply.apply(status, headers);
        if let Some(grant) = &self.grant {
            grant.apply(headers);
        }
    }

    /// A reply in the backend's place ([`respond::timeout`], [`respond::reset`] and the like), in the client's words.
    pub fn answer(&self, reply: Reply) -> Reply {
        dress(reply.for_client(self.is_grpc), &self.reply, self.grant.as_ref())
    }

    /// Whether failures are told in gRPC's words.
    pub fn is_grpc(&self) -> bool {
        self.is_grpc
    }
}

fn dress(mut reply: Reply, ops: &ReplyOps<'_>, grant: Option<&Grant<'_>>) -> Reply {
    ops.apply(reply.status.as_u16(), &mut reply.headers);
    if let Some(grant) = grant {
        grant.apply(&mut reply.headers);
    }
    reply
}

fn is_there(to: &BackendRef) -> bool {
    matches!(to, BackendRef::Service { .. })
}

/// 0 to 999,999
fn millionth(drawn: u64) -> u32 {
    u32::try_from(drawn % 1_000_000).unwrap_or_default()
}

#[cfg(test)]
mod tests;

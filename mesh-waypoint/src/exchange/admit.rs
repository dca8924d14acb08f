//! Whether a request may pass: its tokens, then policy, then what it takes of rate limits.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use futures_util::future::join_all;
use http::{HeaderName, HeaderValue, StatusCode, header};
use mesh_core::l7::authentication::JwtRule;
use mesh_net::unix_time;
use tracing::{info, warn};

use super::edit;
use super::external::{self, Ruling};
use super::limit;
use super::read::Incoming;
use super::story::Story;
use crate::body::Replay;
use crate::engine::authorization::{Decision, Request, Verdict};
use crate::engine::head;
use crate::engine::jwt;
use crate::engine::respond::{self, Reply, Why};
use crate::fetch;
use crate::keys::Need;
use crate::session::{InForce, Session};
use crate::world::{Compiled, World};

/// # Errors
/// The answer to a request that may not pass.
pub(super) async fn admit(
    session: &Session,
    world: &World,
    in_force: &InForce,
    compiled: &Arc<Compiled>,
    story: &mut Story,
    incoming: &mut Incoming,
    body: &Replay,
) -> Result<(), Reply> {
    let is_grpc = head::is_grpc(&incoming.headers);
    let accepted = match compiled.model.jwt.is_empty() {
        true => None,
        false => Box::pin(authenticate(session, compiled, incoming)).await.map_err(|refusal| {
            story.record.details = format!("jwt_authn_access_denied{{{}}}", refusal.body.replace(' ', "_")).into();
            refused(&refusal).for_client(is_grpc)
        })?,
    };
    // Policy sees the query as it came.
    let query = incoming.query.clone();
    if let Some(accepted) = &accepted {
        change(incoming, &accepted.changes);
    }
    let narrowed = session.narrowed(in_force, compiled);
    // Each authorizer is asked once: policy is evaluated anew when it has let the request pass.
    let mut passed = Vec::new();
    loop {
        let (decision, ruling) = {
            let request = Request {
                method: incoming.method.as_str(),
                host: &incoming.authority,
                path: &incoming.path,
                query: query.as_deref(),
                fields: &incoming.headers,
                authenticated: accepted.as_ref().and_then(|accepted| accepted.authenticated.as_ref()),
            };
            let decision = narrowed.policies.evaluate(&request, &passed);
            let is_allowed = matches!(decision.verdict, Verdict::Allow(_));
            (decision, is_allowed.then(|| narrowed.limits.take(&request, Instant::now)))
        };
        record(session, &decision);
        let question = match decision.verdict {
            Verdict::Allow(_) => {
                return match limit::apply(session, story, ruling.unwrap_or_default()) {
                    None => Ok(()),
                    Some(reply) => Err(reply.for_client(is_grpc)),
                };
            }
            Verdict::Deny(denial) => {
                let by = denial.policy.as_deref().unwrap_or("none");
                story.record.details = format!("rbac_access_denied_matched_policy[{by}]").into();
                return Err(respond::denied().for_client(is_grpc));
            }
            Verdict::Ask(question) => question,
        };
        let authorizer = &question.authorizer;
        match Box::pin(external::ask(session, world, compiled, authorizer, incoming, body)).await {
            Ok(Ruling::Allow { request, response }) => {
                edit::apply(&request, &mut incoming.headers);
                story.edits.extend(response);
            }
            Ok(Ruling::Deny(reply)) => return Err(reply.for_client(is_grpc)),
            Err(_) if body.is_stalled() => return Err(respond::stalled().for_client(is_grpc)),
            Err(error) => {
                let (provider, policy) = (&authorizer.provider, &question.policy);
                warn!(%provider, %policy, %error, fail_open = authorizer.fail_open, "an authorizer cannot be asked");
                if !authorizer.fail_open {
                    story.record.details = "ext_authz_error".into();
                    let status = StatusCode::from_u16(authorizer.status_on_error).unwrap_or(StatusCode::FORBIDDEN);
                    return Err(Reply::text(status, "", Why::Authorizer).for_client(is_grpc));
                }
            }
        }
        passed.push(authorizer.provider.clone());
    }
}

async fn authenticate(
    session: &Session,
    compiled: &Compiled,
    incoming: &Incoming,
) -> Result<Option<jwt::Accepted>, jwt::Refusal> {
    let target = incoming.canonical();
    let head = jwt::Head { scheme: "http", host: &incoming.authority, target: &target, fields: &incoming.headers };
    let now = unix_time::seconds(SystemTime::now());
    let keys = &session.shared.keys;
    let judge = || {
        let used = Mutex::new(Vec::new());
        let known = |rule: &JwtRule| {
            used.lock().unwrap_or_else(PoisonError::into_inner).push(rule.clone());
            keys.known(rule)
        };
        let outcome = compiled.authentication.authenticate(&head, &known, now);
        (outcome, used.into_inner().unwrap_or_else(PoisonError::into_inner))
    };
    let (first, used) = judge();
    let may_change = first.as_ref().err().map(|refusal| refusal.reason != jwt::BadToken::Signature);
    let mut fetches = Vec::new();
    for rule in used {
        let need = match (keys.known(&rule), may_change) {
            (None, _) => Need::Any,
            // Which key was missed is not told where another rule had something else to say.
            (Some(_), Some(true)) => Need::Another,
            (Some(_), _) => Need::Fresh,
        };
        if keys.is_due(&rule, need) {
            fetches.push((rule, need));
        }
    }
    if fetches.is_empty() {
        return first.map(Some);
    }
    let fetch = |(rule, need): (JwtRule, Need)| {
        let session = session.clone();
        async move {
            let get = move |wanted| {
                let session = session.clone();
                async move { fetch::text(&session, &wanted).await }
            };
            keys.fetch(&rule, need, get).await;
        }
    };
    join_all(fetches.into_iter().map(fetch)).await;
    // The issuer may have changed its keys, or they had not been fetched yet.
    match first {
        Ok(accepted) => Ok(Some(accepted)),
        Err(_) => judge().0.map(Some),
    }
}

fn refused(refusal: &jwt::Refusal) -> Reply {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::UNAUTHORIZED);
    let mut reply = Reply::text(status, refusal.body.clone(), Why::Denied);
    if let Ok(value) = HeaderValue::from_str(&refusal.www_authenticate) {
        reply.headers.insert(header::WWW_AUTHENTICATE, value);
    }
    reply
}

fn change(incoming: &mut Incoming, changes: &jwt::Changes) {
    for name in &changes.remove {
        incoming.headers.remove(&**name);
    }
    for (name, value) in &changes.set {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            incoming.headers.insert(name, value);
        }
    }
    if let Some(target) = &changes.target {
        incoming.query = target.split_once('?').map(|(_, query)| query.to_owned());
    }
}

fn record(session: &Session, decision: &Decision) {
    let telemetry = &session.shared.telemetry;
    let (client, identity) = (session.client.address, &session.client.identity);
    for policy in &decision.recorded {
        info!(target: "audit", %policy, %client, %identity, "audited");
        telemetry.recorded("audit", policy);
    }
    match &decision.dry_run {
        Some(Verdict::Deny(denial)) => {
            info!(target: "audit", %client, %identity, "dry run: would be {denial}");
            telemetry.recorded("dry_run_deny", denial.policy.as_deref().unwrap_or("none"));
        }
        Some(Verdict::Allow(policy)) => {
            let policy = policy.as_deref().unwrap_or("none");
            info!(target: "audit", %client, %identity, policy, "dry run: would be allowed");
            telemetry.recorded("dry_run_allow", policy);
        }
        Some(Verdict::Ask(_)) | None => {}
    }
}

//! Whether a request may pass: its tokens, then policy.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue, StatusCode, header};
use tracing::info;

use super::read::Incoming;
use super::story::Story;
use crate::engine::authorization::{Decision, Peer, Request, Verdict};
use crate::engine::jwt;
use crate::engine::respond::{self, Reply, Why};
use crate::session::Session;
use crate::world::Compiled;

/// # Errors
/// The answer to a request that may not pass.
pub(super) async fn admit(
    session: &Session,
    compiled: &Arc<Compiled>,
    story: &mut Story,
    incoming: &mut Incoming,
) -> Result<(), Reply> {
    let is_grpc =
        incoming.headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    let accepted = authenticate(session, compiled, incoming).await.map_err(|refusal| {
        story.record.details = format!("jwt_authn_access_denied{{{}}}", refusal.body.replace(' ', "_"));
        refused(&refusal).for_client(is_grpc)
    })?;
    // Policy sees the query as it came.
    let query = incoming.query.clone();
    if let Some(accepted) = &accepted {
        change(incoming, &accepted.changes);
    }
    let policies = session.policies(
        compiled,
        Peer {
            identity: Some(&session.client.identity),
            address: session.client.address.ip(),
            destination: session.asked.address.ip(),
            port: session.asked.address.port(),
            sni: None,
        },
    );
    let request = Request {
        method: incoming.method.as_str(),
        host: &incoming.authority,
        path: &incoming.path,
        query: query.as_deref(),
        fields: &incoming.headers,
        authenticated: accepted.as_ref().and_then(|accepted| accepted.authenticated.as_ref()),
    };
    let decision = policies.evaluate(&request, &[]);
    record(session, &decision);
    match decision.verdict {
        Verdict::Allow(_) => Ok(()),
        Verdict::Deny(denial) => {
            let by = denial.policy.as_deref().unwrap_or("none");
            story.record.details = format!("rbac_access_denied_matched_policy[{by}]");
            Err(respond::denied().for_client(is_grpc))
        }
        Verdict::Ask(question) => {
            // Nobody has been asked: what it would have said is not known.
            story.record.details = format!("ext_authz_error[{}]", question.policy);
            let status = StatusCode::from_u16(question.authorizer.status_on_error).unwrap_or(StatusCode::FORBIDDEN);
            match question.authorizer.fail_open {
                true => Ok(()),
                false => Err(Reply::text(status, "", Why::Denied).for_client(is_grpc)),
            }
        }
    }
}

async fn authenticate(
    session: &Session,
    compiled: &Compiled,
    incoming: &Incoming,
) -> Result<Option<jwt::Accepted>, jwt::Refusal> {
    if compiled.model.jwt.is_empty() {
        return Ok(None);
    }
    let target = incoming.canonical();
    let head = jwt::Head { scheme: "http", host: &incoming.authority, target: &target, fields: &incoming.headers };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or_default();
    let keys = &session.shared.keys;
    let first = compiled.authentication.authenticate(&head, &|rule| keys.known(rule), now);
    match first {
        // The issuer may have changed its keys, or they have not been fetched yet.
        Err(refusal) if matches!(refusal.reason, jwt::BadToken::NoKeys | jwt::BadToken::NoSuchKey) => {
            for rule in &compiled.model.jwt {
                keys.fetch(rule).await;
            }
            compiled.authentication.authenticate(&head, &|rule| keys.known(rule), now).map(Some)
        }
        other => other.map(Some),
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

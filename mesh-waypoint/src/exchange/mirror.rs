//! Copies of a request that go elsewhere, and whose answers nobody waits for.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;

use super::forward::{self, At, Outgoing};
use crate::aim::Destination;
use crate::body::Replay;
use crate::engine::decide::Forward;
use crate::engine::split;
use crate::session::Session;
use crate::world::{Compiled, World};

/// Longest that a copy may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends a copy to each mirror of the rule. One with a larger body than what is kept for retries is not copied: nothing of the
/// request itself is to wait for it.
pub(super) async fn copies(
    session: &Session,
    world: &World,
    compiled: &std::sync::Arc<Compiled>,
    forward: &Forward<'_>,
    outgoing: &Outgoing,
    body: &Replay,
) {
    if forward.mirrors.is_empty() || outgoing.upgrade.is_some() {
        return;
    }
    // Read to its end once; the request and its copies read what is kept.
    if !matches!(body.prefix(session.shared.limits.replay).await, Ok((_, true))) {
        return;
    }
    for to in &forward.mirrors {
        let Some(to) = Destination::of(to) else { continue };
        let mut copy = outgoing.clone();
        if let Some(own) = world.own.as_ref().and_then(|own| own.addresses.first()) {
            split::mark_copy(Arc::make_mut(&mut copy.headers), *own);
        }
        let (session, world, compiled, body) = (session.clone(), world.clone(), compiled.clone(), body.copy());
        tokio::spawn(async move {
            let at = At { session: &session, world: &world, compiled: &compiled };
            let sending = forward::once(at, &to, &copy, &body);
            if let Ok(Some(response)) = tokio::time::timeout(PATIENCE, sending).await {
                // Read, so that its connection can be used again.
                let _ = response.body.collect().await;
            }
        });
    }
}

//! Authorizers that are asked about a request: what they are told, and what comes of their answer.
//!
//! What is said and heard is what the reference's proxy says and hears, so that authorizers written for it serve here.

mod grpc;
mod http;

use ::http::StatusCode;
use bytes::Bytes;
use mesh_core::l7::authorization::{ExternalAuthorizer, ExternalProtocol};
use thiserror::Error;

use super::edit::Edit;
use super::read::Incoming;
use crate::body::{BodyError, Replay};
use crate::engine::respond::{Reply, Why};
use crate::errand::ErrandError;
use crate::session::Session;
use crate::world::{Compiled, World};

/// What an authorizer says.
#[derive(Debug)]
pub(super) enum Ruling {
    Allow {
        request: Vec<Edit>,
        response: Vec<Edit>,
    },
    /// The answer to the client.
    Deny(Reply),
}

/// Why an authorizer has said nothing.
#[derive(Debug, Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Errand(#[from] ErrandError),
    #[error("the authorizer answered with {0}")]
    Status(StatusCode),
    #[error("the authorizer answered with gRPC status {0}")]
    Grpc(String),
    #[error("the authorizer's answer is no message of gRPC")]
    Frame,
    #[error("the authorizer's answer cannot be read: {0}")]
    Message(#[from] prost::DecodeError),
    #[error("the request's body broke off: {0}")]
    Body(#[source] BodyError),
}

/// As much of a request's body as an authorizer gets to see.
#[derive(Debug)]
struct Seen {
    bytes: Bytes,
    is_all: bool,
}

/// # Errors
/// See [`AskError`]: what then happens is the authorizer's `fail_open`.
pub(super) async fn ask(
    session: &Session,
    world: &World,
    compiled: &Compiled,
    authorizer: &ExternalAuthorizer,
    incoming: &Incoming,
    body: &Replay,
) -> Result<Ruling, AskError> {
    let seen = match authorizer.max_body_bytes {
        // What an upgrade's bytes are is nobody's affair, and they have no end.
        0 => None,
        _ if incoming.upgrade.is_some() => None,
        most => {
            let most = most as usize;
            // One more tells that there is more.
            let read = if authorizer.allow_partial_body { most } else { most.saturating_add(1) };
            let (bytes, is_all) = body.prefix(read).await.map_err(AskError::Body)?;
            if bytes.len() > most {
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                return Ok(Ruling::Deny(Reply::text(status, "Payload Too Large", Why::Authorizer)));
            }
            (!bytes.is_empty()).then_some(Seen { bytes, is_all })
        }
    };
    let seen = seen.as_ref();
    match authorizer.protocol {
        ExternalProtocol::Http => http::ask(session, world, compiled, authorizer, incoming, seen).await,
        ExternalProtocol::Grpc => grpc::ask(session, world, compiled, authorizer, incoming, seen).await,
    }
}

/// Largest answer.
const MOST: usize = 1 << 20;

/// Whether the whole body was shown.
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

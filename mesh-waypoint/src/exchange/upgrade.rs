//! Connections that become something else: WebSocket and its like.

use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tracing::debug;

use super::story::Story;
use crate::body::{self, Body};

/// Joins both ends once the response has told the client that its connection is another one from here on. A response that
/// changes nothing goes on as it is.
pub(super) fn join(mut response: Response<Body>, client: Option<OnUpgrade>, story: &mut Story) -> Response<Body> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return response;
    }
    let upstream = hyper::upgrade::on(&mut response);
    if let Some(client) = client {
        let live = story.live();
        tokio::spawn(async move {
            let _live = live;
            let (client, upstream) = match tokio::try_join!(client, upstream) {
                Ok(both) => both,
                Err(error) => return debug!(%error, "an upgrade came to nothing"),
            };
            let joined = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(upstream)).await;
            if let Err(error) = joined {
                debug!(%error, "an upgraded connection broke off");
            }
        });
    }
    response.map(|_| body::empty())
}

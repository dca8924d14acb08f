//! Requests to an endpoint: many at a time on a connection.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body::Body as HttpBody;
use mesh_net::http2::connection::{Limits, Role};
use mesh_net::http2::fields::{Fields, Pseudo};
use mesh_net::http2::frame::Code;
use thiserror::Error;
use tracing::debug;

use super::arriving::{Arriving, Own};
use super::link::Link;
use super::server::send_body;
pub use super::stream::Over;
use crate::body::Body;
use crate::io::ByteStream;
use crate::length::{self, TwoWays};
use crate::message::{Answer, Departing, Response};
use crate::stall::Impatient;

/// A connection. When the last of its clones is gone, it ends with its last stream.
#[derive(Clone)]
pub struct Connection(Arc<Handle>);

struct Handle(Arc<Link>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.unused();
    }
}

/// Why no answer came.
#[derive(Debug, Error)]
pub enum Failed {
    /// Nothing was sent: another connection may take it.
    #[error("the connection takes no further request")]
    Unopened(Box<Departing>),
    #[error("{0}")]
    Over(Over),
    #[error(transparent)]
    Length(#[from] TwoWays),
}

impl Connection {
    /// Begins to speak HTTP/2. `patience`: how long the endpoint may take nothing of what is to be sent to it.
    pub fn start(io: impl ByteStream + 'static, max_head: u32, patience: Duration) -> Self {
        let mut io = Impatient::new(io, patience);
        let link = Link::new(
            Role::Client,
            Limits {
                first_window: 64 << 10,
                stream_window: 4 << 20,
                growth: 16 << 20,
                max_frame: 64 << 10,
                max_streams: u32::MAX >> 1,
                max_head,
            },
            patience,
        );
        let driven = link.clone();
        tokio::spawn(async move {
            if let Err(error) = poll_fn(|cx| driven.poll_drive(cx, &mut io, |_| {})).await {
                debug!(%error, "a connection to an endpoint broke off");
            }
        });
        Self(Arc::new(Handle(link)))
    }

    /// Whether another stream may be opened at once.
    pub fn is_free(&self) -> bool {
        self.0.0.available() > 0
    }

    /// Whether no stream will be opened any more.
    pub fn is_closed(&self) -> bool {
        self.0.0.is_over()
    }

    /// Waits until another stream may be opened, or none will be.
    pub async fn freed(&self) {
        poll_fn(|cx| self.0.0.poll_available(cx)).await;
    }

    /// Sends a request and waits for the answer's head.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn send(&self, request: Departing) -> Result<Answer, Failed> {
        let link = &self.0.0;
        let end = request.body.is_end_stream();
        let Departing { method, authority, target, headers, upgrade, body } = request;
        let is_head = method == Method::HEAD;
        let pseudo = Pseudo {
            method: Some(method),
            scheme: Some(Bytes::from_static(b"http")),
            authority: Some(authority.into()),
            path: Some(target.into()),
            ..Pseudo::default()
        };
        let Ok(stream) = link.open(&pseudo, &headers, end) else {
            let Pseudo { method, authority, path, .. } = pseudo;
            let text = |bytes: Option<Bytes>| String::from_utf8(bytes.unwrap_or_default().into()).unwrap_or_default();
            let (authority, target) = (text(authority), text(path));
            let method = method.unwrap_or_default();
            let request = Departing { method, authority, target, headers, upgrade, body };
            return Err(Failed::Unopened(Box::new(request)));
        };
        let own = Own { link: link.clone(), stream, code: Code::CANCEL };
        if !end {
            upload(link.clone(), stream, body).await;
        }
        let head = poll_fn(|cx| link.poll_head(cx, stream)).await.map_err(Failed::Over)?;
        let Fields { pseudo, mut headers } = *head;
        let status = pseudo.status.unwrap_or(StatusCode::OK);
        let said = length::said(&mut headers)?;
        if status == StatusCode::NO_CONTENT {
            headers.remove(header::CONTENT_LENGTH);
        }
        // These say how long another answer would be (RFC 9110, section 8.6).
        let is_bodiless = is_head || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        let body = Arriving::body(link, stream, said.filter(|_| !is_bodiless), own);
        Ok(Response { status, headers, body }.into())
    }
}

/// Sends what there is of a body; the rest follows by itself.
async fn upload(link: Arc<Link>, stream: u32, body: Body) {
    let mut sending = Box::pin(async move {
        let body = pin!(body);
        if let Err(over) = send_body(&link, stream, body).await {
            debug!(%over, "a request was not sent whole");
            link.give_up(stream, over);
        }
    });
    let first = poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await;
    if first.is_pending() {
        tokio::spawn(sending);
    }
}

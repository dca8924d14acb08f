//! Requests of a client: each a stream, each a task.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::{HeaderName, Method, StatusCode, Version, header};
use http_body::Body as HttpBody;
use mesh_net::http2::connection::{self, Role};
use mesh_net::http2::fields::{Fields, Pseudo};
use mesh_net::http2::frame::Code;
use tokio::sync::watch;
use tracing::debug;

use super::arriving::{self, Own};
use super::link::{Asked, Link};
use super::patience::{Patience, Waits};
use super::stream::Over;
use crate::body::Body;
use crate::io::ByteStream;
use crate::length;
use crate::limits::Limits;
use crate::message::{Answer, Arriving, Response, Service};
use crate::stall::Clock;

/// Answers all requests of a connection.
pub async fn serve(
    service: Arc<impl Service + 'static>,
    limits: &Limits,
    mut draining: watch::Receiver<bool>,
    mut io: impl ByteStream,
) {
    let link = Link::new(
        Role::Server,
        connection::Limits {
            first_window: 64 << 10,
            stream_window: 1 << 20,
            growth: 16 << 20,
            max_frame: 64 << 10,
            max_streams: limits.max_streams,
            max_head: u32::try_from(limits.max_head).unwrap_or(u32::MAX),
        },
        limits.stream_idle,
    );
    let closing = Closing(link.clone());
    let mut told = pin!(async {
        // The sender is gone when the process is about to end.
        let _ = draining.wait_for(|d| *d).await;
    });
    let mut tight = pin!(service.tight());
    let (mut is_told, mut has_asked) = (false, false);
    let mut patience = Patience::new(limits);
    let mut is_over = false;
    let ended = poll_fn(|cx| {
        // Each connection is good for a request, however little memory there is.
        if !is_told && (told.as_mut().poll(cx).is_ready() || has_asked && tight.as_mut().poll(cx).is_ready()) {
            is_told = true;
            link.drain();
        }
        let driven = link.poll_drive(cx, &mut io, |asked| {
            has_asked = true;
            // Boxed, because a task is moved several times before it runs, and this one is large.
            tokio::spawn(Box::pin(one(service.clone(), link.clone(), asked)));
        });
        if driven.is_ready() {
            return driven;
        }
        match patience.poll(cx, link.waits()) {
            Poll::Ready(Waits::Request) if !is_over => {
                is_over = true;
                link.unused();
            }
            // Who does not end what it began is told nothing, and neither is who does not listen.
            Poll::Ready(Waits::Request | Waits::Head(_)) => return Poll::Ready(Ok(())),
            Poll::Ready(Waits::No) | Poll::Pending => {}
        }
        Poll::Pending
    });
    if let Err(error) = ended.await {
        debug!(%error, "a connection broke off");
    }
    drop(closing);
}

/// Ends a connection's streams with the task that moves its bytes.
struct Closing(Arc<Link>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

async fn one(service: Arc<impl Service + 'static>, link: Arc<Link>, asked: Asked) {
    let Asked { stream, fields, end } = asked;
    let mut own = Own { link: link.clone(), stream, code: Code::CANCEL };
    let Some(arriving) = request(&link, stream, *fields, end) else {
        own.code = Code::PROTOCOL_ERROR;
        return;
    };
    let is_head = arriving.method == Method::HEAD;
    let mut answering = pin!(service.answer(arriving));
    let answer = poll_fn(|cx| {
        if let Poll::Ready(answer) = answering.as_mut().poll(cx) {
            return Poll::Ready(Some(answer));
        }
        link.poll_over(cx, stream).map(|_| None)
    });
    let Some(answer) = answer.await else { return };
    match send(&link, stream, answer, is_head).await {
        // The rest of a request that has its answer is of no use.
        Ok(()) => own.code = Code::NO_ERROR,
        Err(over) => debug!(%over, "an answer was not sent whole"),
    }
}

/// `None`: it does not say what it asks for.
fn request(link: &Arc<Link>, stream: u32, fields: Fields, end: bool) -> Option<Arriving> {
    let Fields { pseudo, mut headers } = fields;
    let Pseudo { method, scheme, authority, path, .. } = pseudo;
    let text = |bytes: Bytes| String::from_utf8(bytes.into()).ok();
    let said = length::said(&mut headers).ok()?;
    scheme?;
    // A line of HTTP/1.1 ends at blanks, and only there has a target other forms (RFC 9113, section 8.3.1).
    let path = path.filter(|path| path.starts_with(b"/") || path == "*").filter(|path| !path.contains(&b' '))?;
    let body = match (end, said) {
        (true, None | Some(0)) => Body::empty(),
        (true, Some(_)) => return None,
        (false, said) => arriving::Arriving::body(link, stream, said, ()),
    };
    Some(Arriving {
        method: method?,
        authority: match authority {
            Some(authority) => Some(text(authority)?),
            None => None,
        },
        target: text(path)?,
        version: Version::HTTP_2,
        headers,
        body,
    })
}

async fn send(link: &Link, stream: u32, answer: Answer, is_head: bool) -> Result<(), Over> {
    let Response { status, mut headers, body } = answer.response;
    for name in APART {
        headers.remove(name);
    }
    let mut body = pin!(body);
    let is_bodiless = is_head || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    let is_empty = is_bodiless || body.is_end_stream();
    link.send_head(stream, &Fields { pseudo: Pseudo::reply(status), headers }, is_empty);
    if is_empty {
        // Whoever follows it learns that it is over.
        poll_fn(|cx| body.as_mut().poll_frame(cx).map(drop)).await;
        return Ok(());
    }
    send_body(link, stream, body).await
}

/// Fields that HTTP/2 does not have (RFC 9113, section 8.2.2).
const APART: [HeaderName; 3] = [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE];

/// Sends a body to its end. One that breaks off, or of which the peer takes no more, leaves the stream without an end.
pub(super) async fn send_body(link: &Link, stream: u32, mut body: Pin<&mut Body>) -> Result<(), Over> {
    let mut over = false;
    let mut clock = Clock::new(link.patience());
    while !over {
        let frame = poll_fn(|cx| match body.as_mut().poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Ok(frame)),
            Poll::Pending => link.poll_over(cx, stream).map(Err),
        });
        let mut data = match frame.await? {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    link.send_trailers(stream, frame.into_trailers().unwrap_or_default().into());
                    return Ok(());
                }
            },
            Some(Err(error)) => {
                debug!(%error, "a body broke off");
                return Err(Over::Body);
            }
            None => {
                over = true;
                Bytes::new()
            }
        };
        over |= body.is_end_stream();
        let mut left = data.len();
        poll_fn(|cx| {
            let polled = link.poll_send(cx, stream, &mut data, over);
            if data.len() < left {
                left = data.len();
                clock.moved();
            }
            clock.judge(cx, polled).map(|judged| judged.unwrap_or(Err(Over::Unread)))
        })
        .await?;
    }
    Ok(())
}

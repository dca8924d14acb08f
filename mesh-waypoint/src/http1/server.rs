//! Requests of a client: one after the other on a connection, in one task.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode, Version, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::watch;
use tracing::debug;

use super::framing::{self, Framing};
use super::head::{self, BadHead, RequestHead};
use super::rest::{Arrived, Rest};
use super::written::Written;
use crate::body::{Body, BodyError};
use crate::engine::headers::takes_trailers;
use crate::inlet;
use crate::io::{ByteStream, Rewound};
use crate::limits::Limits;
use crate::message::{Answer, Arriving, Response, Service};
use crate::outbox::Outbox;
use crate::stall::Clock;

/// A connection, shared with the body of the request that is under way.
struct Line<S> {
    io: S,
    input: BytesMut,
    out: Outbox,
    /// Of the request's body.
    rest: Rest,
    /// The client wants to be told to go on with the body.
    waits: bool,
    /// The client sends no more.
    ended: bool,
}

/// What waits for its turn while a request is answered.
const PIPELINED: usize = 64 << 10;
/// What a client that is answered before it has said all may go on to say, so that it reads the answer before a reset.
const LINGER: (usize, Duration) = (1 << 20, Duration::from_secs(1));

/// Answers all requests of a connection, of which `first` was read before.
pub async fn serve<S: ByteStream + 'static>(
    service: &impl Service,
    limits: &Limits,
    mut draining: watch::Receiver<bool>,
    io: S,
    first: BytesMut,
) {
    let line = Line { io, input: first, out: Outbox::default(), rest: Rest::Over, waits: false, ended: false };
    let line = Arc::new(Mutex::new(line));
    let Limits { head_timeout, idle_timeout, max_head, .. } = *limits;
    let leaving = draining.clone();
    let mut over = pin!(async {
        tokio::select! {
            _ = draining.wait_for(|draining| *draining) => {}
            () = service.tight() => {}
        }
    });
    let mut idle = Clock::new(idle_timeout);
    loop {
        let next = async {
            if !begun(&line, &mut idle, over.as_mut()).await {
                return Ok(None);
            }
            let mut head = poll_fn(|cx| lock(&line).poll_head(cx, max_head));
            // Nearly always it is there.
            if let Poll::Ready(head) = poll_fn(|cx| Poll::Ready(Pin::new(&mut head).poll(cx))).await {
                return head;
            }
            // Who says half of a head and stops holds no more than that.
            tokio::time::timeout(head_timeout, head).await.unwrap_or(Err(BadHead::TooSlow))
        };
        let head = match next.await {
            Ok(Some(head)) => head,
            Ok(None) => break,
            // Lines that are empty are no request.
            Err(BadHead::TooSlow) if lock(&line).input.iter().all(u8::is_ascii_whitespace) => break,
            Err(bad) => {
                let answered = match bad {
                    BadHead::TooSlow => service.too_slow(),
                    BadHead::TooLong(_) => {
                        service.refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, &bad.to_string())
                    }
                    _ => service.refuse(StatusCode::BAD_REQUEST, &bad.to_string()),
                };
                let asked =
                    Asked { method: Method::GET, version: Version::HTTP_11, keep_alive: false, trailers: false };
                if answer(&line, &asked, answered, true).await.is_ok() {
                    linger(&line).await;
                }
                return;
            }
        };
        let (asked, arriving) = begin(&line, head);
        let exchanging = Box::pin(service.answer(arriving));
        let Some(answered) = answered(&line, exchanging).await else { return };
        let is_last = *leaving.borrow() || service.is_tight();
        match answer(&line, &asked, answered, is_last).await {
            Ok(true) => {}
            Ok(false) => return linger(&line).await,
            Err(error) => return debug!(%error, "a connection broke off"),
        }
    }
    // There is nobody to be told of an error.
    let _ = poll_fn(|cx| Pin::new(&mut lock(&line).io).poll_shutdown(cx)).await;
}

/// Waits for the first byte of a request; false: there will be none.
async fn begun<S: ByteStream>(
    line: &Mutex<Line<S>>,
    idle: &mut Clock,
    mut over: Pin<&mut impl Future<Output = ()>>,
) -> bool {
    let came = |cx: &mut Context<'_>| {
        let mut line = lock(line);
        let Line { io, input, ended, .. } = &mut *line;
        if !input.is_empty() {
            return Poll::Ready(true);
        }
        if *ended {
            return Poll::Ready(false);
        }
        inlet::poll_fill(io, input, cx).map(|came| came.is_ok_and(|bytes| bytes > 0))
    };
    // Nearly always it is there.
    if let Poll::Ready(came) = poll_fn(|cx| Poll::Ready(came(cx))).await {
        return came;
    }
    poll_fn(|cx| {
        let came = came(cx);
        match idle.judge(cx, came) {
            Poll::Ready(came) => Poll::Ready(came.unwrap_or(false)),
            Poll::Pending => over.as_mut().poll(cx).map(|()| false),
        }
    })
    .await
}

fn lock<S>(line: &Mutex<Line<S>>) -> MutexGuard<'_, Line<S>> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What has to be known of a request to answer it.
struct Asked {
    method: Method,
    version: Version,
    keep_alive: bool,
    /// The client takes fields behind the body.
    trailers: bool,
}

fn begin<S: ByteStream + 'static>(line: &Arc<Mutex<Line<S>>>, head: RequestHead) -> (Asked, Arriving) {
    let RequestHead { method, target, version, mut headers, body, keep_alive, waits } = head;
    if waits {
        // It is this end that tells it to go on.
        headers.remove(header::EXPECT);
    }
    let trailers = takes_trailers(&headers);
    let asked = Asked { method: method.clone(), version, keep_alive, trailers };
    let mut rest = Rest::from(body);
    let mut own = lock(line);
    let body = match rest.whole(&mut own.input) {
        Some(whole) => Body::full(whole),
        None if rest.is_over() => Body::empty(),
        None => {
            (own.rest, own.waits) = (rest, waits);
            drop(own);
            Body::stream(Upload { line: line.clone() })
        }
    };
    (asked, Arriving { method, authority: None, target, version, headers, body })
}

/// Waits for the answer; `None`: the client is gone.
async fn answered<S: ByteStream>(
    line: &Mutex<Line<S>>,
    mut exchanging: Pin<Box<impl Future<Output = Answer>>>,
) -> Option<Answer> {
    poll_fn(|cx| {
        if let Poll::Ready(answered) = exchanging.as_mut().poll(cx) {
            return Poll::Ready(Some(answered));
        }
        match lock(line).poll_gone(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Writes an answer; whether another request may come.
async fn answer<S: ByteStream + 'static>(
    line: &Arc<Mutex<Line<S>>>,
    asked: &Asked,
    answered: Answer,
    is_last: bool,
) -> io::Result<bool> {
    let Answer { response, joined } = answered;
    let Response { status, headers, body } = response;
    let mut body = pin!(body);
    if let Some(joined) = joined {
        lock(line).out.put_with(|out| {
            let upgrade = Some("upgrade");
            head::write_response(out, asked.version, status, &headers, None, upgrade);
        });
        poll_fn(|cx| lock(line).poll_out(cx)).await?;
        drop(poll_fn(|cx| body.as_mut().poll_frame(cx)).await);
        // Nobody else has it: the request that asked for this has no body.
        let input = std::mem::take(&mut lock(line).input).freeze();
        joined.carry(&mut Rewound::new(input, Locked(line.clone()))).await;
        return Ok(false);
    }
    let is_bodiless =
        asked.method == Method::HEAD || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    let framing = match is_bodiless {
        true => None,
        false => Some(framing::to_write(&headers, body.size_hint().exact(), asked.version == Version::HTTP_11)),
    };
    let keeps = {
        let mut own = lock(line);
        let keeps = asked.keep_alive && !is_last && framing != Some(Framing::Close) && own.rest.is_over() && !own.ended;
        let connection = match (keeps, asked.version) {
            (false, Version::HTTP_11) => Some("close"),
            (true, Version::HTTP_10) => Some("keep-alive"),
            _ => None,
        };
        // Nothing is said between an answer's head and its end.
        own.waits = false;
        own.out.put_with(|out| {
            head::write_response(out, asked.version, status, &headers, framing, connection);
        });
        keeps
    };
    let mut written = Written(framing.unwrap_or(Framing::Close));
    let mut over = None;
    poll_fn(|cx| {
        loop {
            let mut waits = false;
            while over.is_none() && !lock(line).out.is_full() {
                let Poll::Ready(frame) = body.as_mut().poll_frame(cx) else {
                    waits = true;
                    break;
                };
                let put = match (is_bodiless, frame.transpose()) {
                    (true, _) => Ok(true),
                    (false, Ok(frame)) => {
                        written.put(frame, asked.trailers, &mut lock(line).out).map_err(io::Error::other)
                    }
                    (false, Err(error)) => Err(io::Error::other(error)),
                };
                over = put.map(|over| over.then_some(Ok(()))).unwrap_or_else(|error| Some(Err(error)));
            }
            let mut own = lock(line);
            let flushed = own.poll_out(cx)?;
            if over.is_some() {
                // What came before a body broke off is the client's.
                ready!(flushed);
                return Poll::Ready(over.take().unwrap_or(Ok(())));
            }
            if waits || flushed.is_pending() {
                return own.poll_gone(cx).map(|()| Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
    })
    .await?;
    // The answer may have come before the request's end, of which the rest is of no use to anybody.
    Ok(keeps)
}

/// Ends a connection so that the client reads what it was told.
async fn linger<S: ByteStream>(line: &Mutex<Line<S>>) {
    let (most, time) = LINGER;
    let mut heard = 0;
    let ending = poll_fn(|cx| {
        let mut own = lock(line);
        ready!(Pin::new(&mut own.io).poll_shutdown(cx))?;
        while heard < most && !own.ended {
            let Line { io, input, .. } = &mut *own;
            input.clear();
            match ready!(inlet::poll_fill(io, input, cx))? {
                0 => break,
                some => heard += some,
            }
        }
        Poll::Ready(io::Result::Ok(()))
    });
    // It is over in any case.
    let _ = tokio::time::timeout(time, ending).await;
}

impl<S: ByteStream> Line<S> {
    fn poll_head(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Result<Option<RequestHead>, BadHead>> {
        let mut lines = self.input.len() + 1;
        loop {
            // A head ends with a line: of anything less it needs no second look.
            if (self.input.len() > most || lines > 0)
                && let Some(head) = head::request(&mut self.input, most)?
            {
                return Poll::Ready(Ok(Some(head)));
            }
            let before = self.input.len();
            match ready!(inlet::poll_fill(&mut self.io, &mut self.input, cx)) {
                Ok(0) | Err(_) => return Poll::Ready(Ok(None)),
                Ok(_) => lines = self.input[before..].iter().filter(|byte| **byte == b'\n').count(),
            }
        }
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.out.poll_write(cx, &mut self.io))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Ready when the connection is lost. What comes meanwhile is kept.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.out.is_empty() && matches!(self.poll_out(cx), Poll::Ready(Err(_))) {
            return Poll::Ready(());
        }
        while self.rest.is_over() && !self.ended && self.input.len() < PIPELINED {
            match ready!(inlet::poll_fill(&mut self.io, &mut self.input, cx)) {
                // It may still listen.
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}

/// A request's body.
struct Upload<S> {
    line: Arc<Mutex<Line<S>>>,
}

impl<S: ByteStream> HttpBody for Upload<S> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut line = lock(&self.line);
        let Line { io, input, out, rest, waits, ended } = &mut *line;
        if std::mem::take(waits) && input.is_empty() {
            out.put(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if !out.is_empty()
            && let Poll::Ready(Err(error)) = out.poll_write(cx, io)
        {
            return Poll::Ready(Some(Err(error.into())));
        }
        loop {
            match rest.next(input)? {
                Arrived::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Arrived::Trailers(trailers) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Arrived::End => return Poll::Ready(None),
                Arrived::More => {}
            }
            if *ended || ready!(inlet::poll_fill(io, input, cx))? == 0 {
                *ended = true;
                return Poll::Ready(Some(Err("the client broke off".into())));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.line).rest.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.line).rest.length().map(SizeHint::with_exact).unwrap_or_default()
    }
}

/// The bytes of a connection that is no HTTP any more.
struct Locked<S>(Arc<Mutex<Line<S>>>);

impl<S: ByteStream> tokio::io::AsyncRead for Locked<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).io).poll_read(cx, buffer)
    }
}

impl<S: ByteStream> tokio::io::AsyncWrite for Locked<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut lock(&self.0).io).poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).io).poll_shutdown(cx)
    }
}

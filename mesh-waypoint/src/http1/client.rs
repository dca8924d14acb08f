//! Requests to endpoints: one at a time on a connection, whose bytes are moved by whoever waits for the answer.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use thiserror::Error;
use tokio::io::AsyncRead;

use super::framing::{self, Framing};
use super::head::{self, BadHead, ResponseHead};
use super::rest::{Arrived, Rest};
use super::written::Written;
use crate::body::{Body, BodyError};
use crate::inlet;
use crate::io::{ByteStream, Rewound};
use crate::message::{Answer, Departing, Joined, Response};
use crate::outbox::Outbox;

/// A connection on which no request is under way.
pub struct Connection {
    io: Box<dyn ByteStream>,
    input: BytesMut,
}

/// Gets a connection back that can be used again.
pub trait Keeper: Send + Unpin + 'static {
    fn keep(&mut self, connection: Connection);
}

/// For a connection that is of no further use.
pub struct Once;

impl Keeper for Once {
    fn keep(&mut self, _: Connection) {}
}

/// Why no answer came.
#[derive(Debug, Error)]
pub enum Failed {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the endpoint closed the connection")]
    Closed,
    #[error(transparent)]
    Head(#[from] BadHead),
    /// The client's, which the endpoint has a part of.
    #[error("the request's body: {0}")]
    Body(BodyError),
}

/// A failure, and whether the endpoint may have got something of the request.
#[derive(Debug, Error)]
#[error("{failed}")]
pub struct Lost {
    pub failed: Failed,
    pub sent: bool,
}

impl Connection {
    pub fn new(io: Box<dyn ByteStream>) -> Self {
        Self { io, input: BytesMut::new() }
    }

    /// Whether the endpoint has neither closed it nor said anything that nobody asked for.
    pub fn is_alive(&mut self) -> bool {
        let mut byte = [0];
        let mut buffer = tokio::io::ReadBuf::new(&mut byte);
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.io).poll_read(&mut cx, &mut buffer).is_pending()
    }

    /// Sends a request and waits for the answer's head. The rest of both bodies moves as the answer's is read.
    ///
    /// # Errors
    /// See [`Lost`].
    pub async fn send(self, request: Departing, mut keeper: impl Keeper, most_head: usize) -> Result<Answer, Lost> {
        let Departing { method, authority, target, headers, upgrade, body } = request;
        let length = HttpBody::size_hint(&body).exact();
        let mut framing = Some(framing::to_write(&headers, length, true));
        if framing == Some(Framing::Length(0)) && !(method == Method::POST || method == Method::PUT) {
            framing = None;
        }
        let mut out = Outbox::default();
        out.put_with(|out| head::write_request(out, &method, &target, &authority, &headers, framing, upgrade.as_ref()));
        drop((headers, target, authority));
        let written = Written(framing.unwrap_or(Framing::Length(0)));
        let mut upload = Upload { begun: false, out, body: Some(body), written };
        let Self { mut io, mut input } = self;
        let mut words = 0;
        let answer = loop {
            let head = poll_fn(|cx| poll_head(cx, &mut io, &mut input, &mut upload, &method, most_head)).await;
            let head = head.map_err(|failed| Lost { failed, sent: upload.begun })?;
            // A word before the answer (RFC 9110, section 15.2).
            let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
            if !head.status.is_informational() || switches && upgrade.is_some() {
                break head;
            }
            words += 1;
            if switches || words > MOST_WORDS {
                return Err(Lost { failed: BadHead::Unasked.into(), sent: true });
            }
        };
        let ResponseHead { status, headers, body, keep_alive } = answer;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let joined = Joined { upstream: Box::new(Rewound::new(input.freeze(), io)), held: None };
            return Ok(Answer { response: Response { status, headers, body: Body::empty() }, joined: Some(joined) });
        }
        let mut rest = Rest::from(body);
        let whole = if rest.is_over() { Some(Bytes::new()) } else { rest.whole(&mut input) };
        if let (Some(whole), true) = (&whole, upload.is_over()) {
            if keep_alive && input.is_empty() {
                keeper.keep(Self { io, input: BytesMut::new() });
            }
            return Ok(Response { status, headers, body: Body::full(whole.clone()) }.into());
        }
        let arriving = Arriving { io: Some(io), input, rest, first: whole, upload, keep_alive, keeper };
        Ok(Response { status, headers, body: Body::stream(arriving) }.into())
    }
}

fn poll_head(
    cx: &mut Context<'_>,
    io: &mut Box<dyn ByteStream>,
    input: &mut BytesMut,
    upload: &mut Upload,
    method: &Method,
    most: usize,
) -> Poll<Result<ResponseHead, Failed>> {
    // An endpoint that has heard enough answers, and may close: what it said counts.
    let sent = upload.poll(cx, io);
    let mut looked = 0;
    loop {
        // A head ends with a line: of anything less it needs no second look.
        if (input.len() > most || input[looked..].contains(&b'\n'))
            && let Some(head) = head::response(input, method, most)?
        {
            return Poll::Ready(Ok(head));
        }
        looked = input.len();
        match inlet::poll_fill(&mut **io, input, cx) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(Failed::Closed)),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            Poll::Pending => {
                return match sent {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    _ => Poll::Pending,
                };
            }
        }
    }
}

/// The request on its way out.
struct Upload {
    /// The endpoint may have got something of it.
    begun: bool,
    out: Outbox,
    body: Option<Body>,
    written: Written,
}

impl Upload {
    fn is_over(&self) -> bool {
        self.body.is_none() && self.out.is_empty()
    }

    /// Ready when all is written, or nothing more can be.
    fn poll(&mut self, cx: &mut Context<'_>, io: &mut Box<dyn ByteStream>) -> Poll<Result<(), Failed>> {
        loop {
            let mut waits = false;
            while let Some(body) = &mut self.body
                && !self.out.is_full()
            {
                let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
                    waits = true;
                    break;
                };
                let frame = frame.transpose().map_err(Failed::Body)?;
                let is_last = self.written.put(frame, true, &mut self.out);
                if is_last.map_err(|error| Failed::Body(error.into()))? {
                    self.body = None;
                }
            }
            let before = self.out.len();
            let written = self.out.poll_write(cx, &mut **io);
            self.begun |= self.out.len() < before;
            ready!(written)?;
            if self.body.is_none() {
                ready!(Pin::new(&mut **io).poll_flush(cx))?;
                return Poll::Ready(Ok(()));
            }
            if waits {
                let _ = Pin::new(&mut **io).poll_flush(cx)?;
                return Poll::Pending;
            }
        }
    }
}

/// Words before an answer (RFC 9110, section 15.2) that an endpoint may say.
const MOST_WORDS: u32 = 100;

/// An answer's body.
struct Arriving<K> {
    io: Option<Box<dyn ByteStream>>,
    input: BytesMut,
    rest: Rest,
    /// All of it, if it came with the head.
    first: Option<Bytes>,
    upload: Upload,
    keep_alive: bool,
    keeper: K,
}

impl<K: Keeper> Arriving<K> {
    fn over(&mut self) {
        if let Some(io) = self.io.take()
            && self.keep_alive
            && self.upload.is_over()
            && self.input.is_empty()
        {
            self.keeper.keep(Connection { io, input: BytesMut::new() });
        }
    }
}

impl<K: Keeper> HttpBody for Arriving<K> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(first) = this.first.take().filter(|first| !first.is_empty()) {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        loop {
            let Some(io) = &mut this.io else { return Poll::Ready(None) };
            // Both sides may speak at once. What became of the request shows in the answer.
            let uploaded = if this.upload.is_over() { Poll::Ready(Ok(())) } else { this.upload.poll(cx, io) };
            match this.rest.next(&mut this.input)? {
                Arrived::Data(data) => {
                    if this.rest.is_over() {
                        this.over();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Arrived::Trailers(trailers) => {
                    this.over();
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Arrived::End => {
                    // An answer may be over before its request is: the rest of that is given up.
                    this.over();
                    return Poll::Ready(None);
                }
                Arrived::More => {}
            }
            if let Poll::Ready(Err(Failed::Body(error))) = uploaded {
                return Poll::Ready(Some(Err(error)));
            }
            match ready!(inlet::poll_fill(&mut **io, &mut this.input, cx))? {
                0 if matches!(this.rest, Rest::Close) => {
                    this.io = None;
                    this.rest = Rest::Over;
                    return Poll::Ready(None);
                }
                0 => return Poll::Ready(Some(Err(Failed::Closed.into()))),
                _ => {}
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.io.is_none() && self.first.is_none() && self.rest.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, Bytes::len) as u64;
        match self.rest.length() {
            Some(left) => SizeHint::with_exact(first + left),
            None => SizeHint::default(),
        }
    }
}

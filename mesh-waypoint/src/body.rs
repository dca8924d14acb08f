//! Bodies on their way through, and what has to be kept of one to send it again.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::stall::Clock;

pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// What follows a head. Most bodies are there at once, and cost nothing then.
#[derive(Default)]
pub struct Body(Kind);

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Stream(Pin<Box<dyn HttpBody<Data = Bytes, Error = BodyError> + Send>>),
}

impl Body {
    pub fn empty() -> Self {
        Self::default()
    }

    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Self::empty() } else { Self(Kind::Full(bytes)) }
    }

    pub fn stream(body: impl HttpBody<Data = Bytes, Error = BodyError> + Send + 'static) -> Self {
        if body.is_end_stream() { Self::empty() } else { Self(Kind::Stream(Box::pin(body))) }
    }

    /// All of it, if it is there.
    pub fn whole(&self) -> Option<&[u8]> {
        match &self.0 {
            Kind::Empty => Some(&[]),
            Kind::Full(bytes) => Some(bytes),
            Kind::Stream(_) => None,
        }
    }

    /// Tells `watch` of what its sender sends: of what is there already, at once.
    pub fn watched(self, mut watch: impl Watch + 'static) -> Self {
        match self.whole() {
            Some(whole) => {
                watch.passed(whole.len());
                watch.ended();
                self
            }
            None => Self::stream(Watched::new(self, watch)),
        }
    }

    /// Tells `watch` of what its reader takes, and drops it with the body.
    pub fn followed(self, watch: impl Watch + 'static) -> Self {
        Self(Kind::Stream(Box::pin(Watched::new(self, watch))))
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.whole() {
            Some(whole) => write!(f, "{} bytes", whole.len()),
            None => f.write_str("a body under way"),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Stream(stream) => stream.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream(stream) => stream.size_hint(),
        }
    }
}

/// A request's body that may be sent more than once, as long as what has been sent of it is no more than a limit.
#[derive(Clone)]
pub struct Replay(Arc<Mutex<Kept>>);

struct Kept {
    rest: Option<Body>,
    /// What has come of it so far, while it may be sent again.
    frames: Vec<Frame<Bytes>>,
    bytes: usize,
    limit: usize,
    /// Some of it is lost to later readers.
    spent: bool,
    total: u64,
    /// For what its sender may take to go on, until there is an answer.
    clock: Option<Clock>,
    stalled: bool,
}

impl Kept {
    /// More of what has not come yet.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let polled = Pin::new(rest).poll_frame(cx);
        let Some(clock) = &mut self.clock else { return polled };
        clock.judge(cx, polled).map(|judged| {
            judged.unwrap_or_else(|stalled| {
                self.stalled = true;
                Some(Err(stalled.into()))
            })
        })
    }
}

impl Replay {
    /// `patience`: how long its sender may stop in the middle before there is an answer.
    pub fn new(body: Body, limit: usize, patience: Option<Duration>) -> Self {
        Self(Arc::new(Mutex::new(Kept {
            rest: Some(body),
            frames: Vec::new(),
            bytes: 0,
            limit,
            spent: false,
            total: 0,
            clock: patience.map(Clock::new),
            stalled: false,
        })))
    }

    /// What has come so far, as a body of its own that others may read meanwhile.
    pub fn copy(&self) -> Self {
        let kept = self.lock();
        Self(Arc::new(Mutex::new(Kept {
            rest: None,
            frames: kept.frames.iter().map(again).collect(),
            bytes: kept.bytes,
            limit: kept.limit,
            spent: kept.spent,
            total: kept.total,
            clock: None,
            stalled: false,
        })))
    }

    /// Whether another reader would see all of it.
    pub fn can_repeat(&self) -> bool {
        !self.lock().spent
    }

    /// Keeps nothing from here on: there will be no further reader.
    pub fn last(&self) {
        let mut kept = self.lock();
        kept.limit = 0;
    }

    /// There is an answer: from here on the sender may take its time.
    pub fn answered(&self) {
        self.lock().clock = None;
    }

    /// Whether its sender stopped in the middle for too long.
    pub fn is_stalled(&self) -> bool {
        self.lock().stalled
    }

    /// Bytes that have come of it so far.
    pub fn received(&self) -> u64 {
        self.lock().total
    }

    /// The first bytes of it, `most` at most, and whether that is all. They are kept for those who read it, whatever the limit.
    ///
    /// # Errors
    /// It broke off.
    pub async fn prefix(&self, most: usize) -> Result<(Bytes, bool), BodyError> {
        poll_fn(|cx| {
            let mut kept = self.lock();
            while kept.bytes < most && kept.rest.is_some() {
                match ready!(kept.poll_rest(cx)) {
                    Some(Ok(frame)) => {
                        let bytes = frame.data_ref().map_or(0, Buf::remaining);
                        kept.total += bytes as u64;
                        kept.bytes += bytes;
                        kept.limit = kept.limit.max(kept.bytes);
                        kept.frames.push(frame);
                    }
                    Some(Err(error)) => {
                        kept.spent = true;
                        return Poll::Ready(Err(error));
                    }
                    None => kept.rest = None,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await?;
        let kept = self.lock();
        let mut first = BytesMut::with_capacity(kept.bytes.min(most));
        for data in kept.frames.iter().filter_map(Frame::data_ref) {
            first.extend_from_slice(&data[..data.len().min(most - first.len())]);
        }
        let is_all = kept.bytes <= most && kept.rest.as_ref().is_none_or(HttpBody::is_end_stream);
        Ok((first.freeze(), is_all))
    }

    /// A reader from the beginning. Of several, only the youngest is to be read.
    pub fn reader(&self) -> Body {
        let mut kept = self.lock();
        if kept.frames.is_empty() && kept.rest.as_ref().is_some_and(|rest| rest.whole().is_some()) {
            // It is there: it needs no reader.
            let Some(Body(Kind::Full(bytes))) = kept.rest.take() else { return Body::empty() };
            kept.total += bytes.len() as u64;
            kept.bytes = bytes.len();
            match bytes.len() > kept.limit {
                true => kept.spent = true,
                false => kept.frames.push(Frame::data(bytes.clone())),
            }
            return Body::full(bytes);
        }
        if let ([one], None) = (&kept.frames[..], &kept.rest)
            && let Some(data) = one.data_ref()
        {
            return Body::full(data.clone());
        }
        drop(kept);
        Body::stream(Reader { kept: self.clone(), next: 0 })
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Reader {
    kept: Replay,
    next: usize,
}

impl HttpBody for Reader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let replay = self.kept.clone();
        let mut kept = replay.lock();
        if let Some(frame) = kept.frames.get(self.next) {
            let again = again(frame);
            self.next += 1;
            return Poll::Ready(Some(Ok(again)));
        }
        let frame = match ready!(kept.poll_rest(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                kept.spent = true;
                return Poll::Ready(Some(Err(error)));
            }
            None => {
                kept.rest = None;
                return Poll::Ready(None);
            }
        };
        let bytes = frame.data_ref().map_or(0, Buf::remaining);
        kept.total += bytes as u64;
        kept.bytes += bytes;
        if kept.bytes > kept.limit {
            kept.spent = true;
            kept.frames.clear();
            self.next = 0;
        } else if !kept.spent {
            kept.frames.push(apart(&frame));
            self.next += 1;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.kept.lock();
        self.next >= kept.frames.len() && kept.rest.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.kept.lock();
        if self.next == 0 && kept.frames.is_empty() {
            return kept.rest.as_ref().map(HttpBody::size_hint).unwrap_or_else(|| SizeHint::with_exact(0));
        }
        let ahead: usize = kept.frames.iter().skip(self.next).filter_map(Frame::data_ref).map(Buf::remaining).sum();
        let rest = kept.rest.as_ref().map(HttpBody::size_hint).unwrap_or_else(|| SizeHint::with_exact(0));
        let mut hint = SizeHint::new();
        hint.set_lower(ahead as u64 + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(ahead as u64 + upper);
        }
        hint
    }
}

/// Memory of its own: a few bytes that are kept must not hold all with which they came.
fn apart(frame: &Frame<Bytes>) -> Frame<Bytes> {
    match frame.data_ref() {
        Some(data) => Frame::data(Bytes::copy_from_slice(data)),
        None => again(frame),
    }
}

/// Bytes are shared, not copied.
fn again(frame: &Frame<Bytes>) -> Frame<Bytes> {
    match (frame.data_ref(), frame.trailers_ref()) {
        (Some(data), _) => Frame::data(data.clone()),
        (None, Some(trailers)) => Frame::trailers(trailers.clone()),
        (None, None) => Frame::data(Bytes::new()),
    }
}

/// A body that tells what passed, and that it ended, to somebody who is dropped with it.
struct Watched<W> {
    inner: Body,
    watch: W,
}

/// See [`Watched`].
pub trait Watch: Send + Unpin {
    fn passed(&mut self, bytes: usize);

    fn trailers(&mut self, trailers: &http::HeaderMap);

    /// The whole of it has passed.
    fn ended(&mut self);

    /// It broke off before its end, by the sender.
    fn failed(&mut self);
}

impl<W: Watch> Watched<W> {
    fn new(inner: Body, mut watch: W) -> Self {
        if inner.is_end_stream() {
            watch.ended();
        }
        Self { inner, watch }
    }
}

impl<W: Watch> HttpBody for Watched<W> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let next = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &next {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.watch.passed(data.len());
                }
                if let Some(trailers) = frame.trailers_ref() {
                    self.watch.trailers(trailers);
                }
                if self.inner.is_end_stream() {
                    self.watch.ended();
                }
            }
            Some(Err(_)) => self.watch.failed(),
            None => self.watch.ended(),
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Keeps something for as long as a body is on its way.
pub struct Held<T>(pub Option<T>);

impl<T: Send + Unpin> Watch for Held<T> {
    fn passed(&mut self, _: usize) {}

    fn trailers(&mut self, _: &http::HeaderMap) {}

    fn ended(&mut self) {
        self.0 = None;
    }

    fn failed(&mut self) {
        self.0 = None;
    }
}

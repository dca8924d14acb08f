//! A body that comes on a stream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use mesh_net::http2::frame::Code;

use super::link::Link;
use super::stream::Next;
use crate::body::{Body, BodyError};

/// One end of a stream. Dropped, it gives up what is left of it.
pub(super) struct Own {
    pub(super) link: Arc<Link>,
    pub(super) stream: u32,
    /// What the peer is told if the stream is not over by then.
    pub(super) code: Code,
}

impl Drop for Own {
    fn drop(&mut self) {
        self.link.leave(self.stream, self.code);
    }
}

/// See the module's description.
pub(super) struct Arriving<K> {
    link: Arc<Link>,
    stream: u32,
    /// What `content-length` says is still to come.
    left: Option<u64>,
    /// Held for as long as it is read.
    _held: K,
}

impl<K: Send + Unpin + 'static> Arriving<K> {
    /// The body of `left` bytes, if that is known.
    pub(super) fn body(link: &Arc<Link>, stream: u32, left: Option<u64>, held: K) -> Body {
        if let Some(whole) = link.whole(stream)
            && left.is_none_or(|left| left == whole.len() as u64)
        {
            return Body::full(whole);
        }
        Body::stream(Self { link: link.clone(), stream, left, _held: held })
    }
}

impl<K: Send + Unpin + 'static> HttpBody for Arriving<K> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let wrong = || Poll::Ready(Some(Err("the body is not as long as content-length says".into())));
        match ready!(self.link.poll_next(cx, self.stream)) {
            Ok(Next::Data(data)) => {
                if let Some(left) = &mut self.left {
                    match left.checked_sub(data.len() as u64) {
                        Some(now) => *left = now,
                        None => return wrong(),
                    }
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Ok(_) if self.left.is_some_and(|left| left > 0) => wrong(),
            Ok(Next::Trailers(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Ok(Next::End) => Poll::Ready(None),
            Err(over) => Poll::Ready(Some(Err(over.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_none_or(|left| left == 0) && self.link.is_ended(self.stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map(SizeHint::with_exact).unwrap_or_default()
    }
}

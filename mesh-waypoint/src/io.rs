//! A tunnel's stream as a byte stream for libraries.

use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use mesh_net::tunnel::stream::{Filled, RecvHalf, SendHalf, Stream, StreamError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes both ways. Dropped before its end was written, it gives the stream up: the peer sees a reset.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// See [`ByteStream`].
pub struct Carried {
    send: SendHalf,
    recv: RecvHalf,
}

impl From<Stream> for Carried {
    fn from(stream: Stream) -> Self {
        let (send, recv) = stream.split();
        Self { send, recv }
    }
}

impl AsyncRead for Carried {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if !ready!(self.recv.poll_ready(cx)).map_err(broken)? {
            return Poll::Ready(Ok(()));
        }
        let taken = self.recv.write_to(|pieces| {
            let before = buffer.filled().len();
            for piece in pieces {
                let some = piece.len().min(buffer.remaining());
                buffer.put_slice(&piece[..some]);
            }
            Ok(buffer.filled().len() - before)
        });
        Poll::Ready(taken.map(drop))
    }
}

impl AsyncWrite for Carried {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let most: usize = data.iter().map(|piece| piece.len()).sum();
        if most == 0 {
            return Poll::Ready(Ok(0));
        }
        ready!(self.send.poll_ready(cx)).map_err(broken)?;
        let filled = self.send.send_from(most, |places| Ok(Filled { bytes: copy(data, places), end: false }));
        Poll::Ready(filled.map_err(broken)?.map(|filled| filled.bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send.poll_flushed(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send.finish();
        self.send.poll_flushed(cx).map_err(broken)
    }
}

/// As much of `data` as `places` have room for.
fn copy(data: &[IoSlice<'_>], places: &mut [IoSliceMut<'_>]) -> usize {
    let mut left = data.iter().flat_map(|piece| (!piece.is_empty()).then_some(&piece[..]));
    let (mut piece, mut bytes) = (left.next().unwrap_or_default(), 0);
    for place in places {
        let mut at = 0;
        while at < place.len() && !piece.is_empty() {
            let some = piece.len().min(place.len() - at);
            place[at..at + some].copy_from_slice(&piece[..some]);
            (at, bytes, piece) = (at + some, bytes + some, &piece[some..]);
            if piece.is_empty() {
                piece = left.next().unwrap_or_default();
            }
        }
    }
    bytes
}

fn broken(error: StreamError) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

/// A byte stream of which some was read before.
pub struct Rewound<T> {
    first: bytes::Bytes,
    inner: T,
}

impl<T> Rewound<T> {
    pub fn new(first: bytes::Bytes, inner: T) -> Self {
        Self { first, inner }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewound<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let some = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first.split_to(some));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewound<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

//! Reads a socket in large pieces for a TLS layer that asks for small ones.
//!
//! rustls asks for at most 4 KiB at a time, four reads for one full record. The buffer that turns those into one read is
//! the thread's, not the connection's: a connection holds it only while bytes are in it, so an idle one holds nothing.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(super) struct ReadAhead<T> {
    io: T,
    held: Option<Held>,
}

struct Held {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

thread_local! {
    /// The buffer that no connection of this thread holds.
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

impl<T> ReadAhead<T> {
    pub(super) fn new(io: T) -> Self {
        Self { io, held: None }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ReadAhead<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.held.is_none() {
            let mut buffer = SPARE.take().unwrap_or_else(|| vec![0; READ_AHEAD].into_boxed_slice());
            let mut into = ReadBuf::new(&mut buffer);
            let read = Pin::new(&mut this.io).poll_read(cx, &mut into);
            let end = into.filled().len();
            if !matches!(read, Poll::Ready(Ok(()))) || end == 0 {
                SPARE.set(Some(buffer));
                return read;
            }
            this.held = Some(Held { buffer, start: 0, end });
        }
        if let Some(held) = &mut this.held {
            let n = out.remaining().min(held.end - held.start);
            out.put_slice(&held.buffer[held.start..held.start + n]);
            held.start += n;
            if held.start == held.end {
                SPARE.set(this.held.take().map(|held| held.buffer));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ReadAhead<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// Bytes per read of a socket.
const READ_AHEAD: usize = 256 << 10;

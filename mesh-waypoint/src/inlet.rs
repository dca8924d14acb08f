//! How bytes come in: connections that wait have no place of their own to be read into.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Bytes of one call: what a peer's whole send buffer holds.
const MOST: usize = 256 << 10;

/// Reads what there is to the end of `input`; 0 bytes: nothing follows.
///
/// # Errors
/// Of the stream.
pub fn poll_fill<R: AsyncRead + Unpin + ?Sized>(
    io: &mut R,
    input: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    poll_with(io, cx, |came| {
        input.extend_from_slice(came);
        came.len()
    })
}

/// Reads what there is; none: nothing follows.
///
/// # Errors
/// Of the stream.
pub fn poll_bytes<R: AsyncRead + Unpin + ?Sized>(io: &mut R, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    poll_with(io, cx, Bytes::copy_from_slice)
}

fn poll_with<R: AsyncRead + Unpin + ?Sized, T>(
    io: &mut R,
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<T>> {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(MOST, 0);
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(io).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(take(buffer.filled())))
    })
}

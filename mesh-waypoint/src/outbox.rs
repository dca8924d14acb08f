//! What is to be written, gathered so that one call takes all of it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// Bytes that wait for a socket, in order. Small pieces are put together, large ones are passed on as they are.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Before `open`.
    sealed: VecDeque<Bytes>,
    open: BytesMut,
    length: usize,
}

impl Outbox {
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether so much waits that no more of a body should be asked for.
    pub fn is_full(&self) -> bool {
        self.length >= AHEAD.get()
    }

    pub fn put(&mut self, bytes: &[u8]) {
        self.open.extend_from_slice(bytes);
        self.length += bytes.len();
    }

    /// Lets `write` append.
    pub fn put_with(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.open.len();
        write(&mut self.open);
        self.length += self.open.len() - before;
    }

    pub fn put_bytes(&mut self, bytes: Bytes) {
        if bytes.len() <= SMALL {
            return self.put(&bytes);
        }
        self.length += bytes.len();
        if !self.open.is_empty() {
            self.sealed.push_back(self.open.split().freeze());
        }
        self.sealed.push_back(bytes);
    }

    /// Writes until nothing is left. Memory that is not needed at rest is given back.
    ///
    /// # Errors
    /// Of the stream.
    pub fn poll_write<W: AsyncWrite + Unpin + ?Sized>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut W,
    ) -> Poll<io::Result<()>> {
        while self.length > 0 {
            if self.sealed.is_empty() {
                let written = ready!(Pin::new(&mut *io).poll_write(cx, &self.open))?;
                self.written(written)?;
                continue;
            }
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let all = self.sealed.iter().map(|piece| &piece[..]).chain([&self.open[..]]);
            let mut count = 0;
            for (place, piece) in pieces.iter_mut().zip(all) {
                *place = IoSlice::new(piece);
                count += 1;
            }
            let written = match &pieces[..count] {
                [one] => ready!(Pin::new(&mut *io).poll_write(cx, one)),
                several => ready!(Pin::new(&mut *io).poll_write_vectored(cx, several)),
            }?;
            self.written(written)?;
        }
        self.open = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    #[cfg(test)]
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let pieces: Vec<&[u8]> = self.sealed.iter().map(|piece| &piece[..]).chain([&self.open[..]]).collect();
        pieces.concat()
    }

    fn written(&mut self, mut count: usize) -> io::Result<()> {
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.length -= count;
        while let Some(first) = self.sealed.front_mut() {
            if first.len() > count {
                first.advance(count);
                return Ok(());
            }
            count -= first.len();
            self.sealed.pop_front();
        }
        self.open.advance(count);
        Ok(())
    }
}

thread_local! {
    /// Bytes that wait for the socket before bodies may add to them.
    static AHEAD: Cell<usize> = const { Cell::new(PLENTY) };
}

/// Whether bodies are read ahead of their readers from here on, by all connections of this thread.
pub fn read_ahead(reads: bool) {
    AHEAD.set(if reads { PLENTY } else { SMALL });
}

/// Where there is memory for it.
const PLENTY: usize = 256 << 10;
/// Bytes up to which copying is cheaper than one piece more.
const SMALL: usize = 4096;
/// Pieces of one call.
const PIECES: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    proptest! {
        #[test]
        fn what_is_put_comes_out_in_order(
            pieces in prop::collection::vec((any::<bool>(), any::<u8>(), 0..9000_usize), 0..50), room in 1..20_000_usize,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for (whole, byte, length) in pieces {
                let piece = vec![byte; length];
                expected.extend_from_slice(&piece);
                if whole { outbox.put_bytes(piece.into()) } else { outbox.put(&piece) }
            }
            prop_assert_eq!(outbox.len(), expected.len());
            let came = runtime.block_on(async {
                let (mut near, mut far) = tokio::io::duplex(room);
                let writing = async {
                    std::future::poll_fn(|cx| outbox.poll_write(cx, &mut near)).await.unwrap();
                    near.shutdown().await.unwrap();
                };
                let mut came = Vec::new();
                let (_, read) = tokio::join!(writing, far.read_to_end(&mut came));
                read.unwrap();
                came
            });
            prop_assert!(came == expected);
            prop_assert!(outbox.is_empty());
        }
    }
}

//! For tests: an encrypted connection as plain reading and writing, for peers that say what no peer should.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::link::Link;
use super::{ClientTls, KEY_LIMIT, ServerTls};

/// Reads and writes what is encrypted. Reading ends only where the peer says so.
pub struct Raw {
    pub(crate) link: Link,
    arrived: VecDeque<Bytes>,
}

impl Raw {
    pub(crate) fn new(link: Link) -> Self {
        Self { link, arrived: VecDeque::new() }
    }
}

impl From<ClientTls> for Raw {
    fn from(tls: ClientTls) -> Self {
        Self::new(tls.into_inner().into_link(KEY_LIMIT))
    }
}

impl From<ServerTls> for Raw {
    fn from(tls: ServerTls) -> Self {
        Self::new(tls.into_inner().into_link(KEY_LIMIT))
    }
}

impl AsyncRead for Raw {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { link, arrived } = self.get_mut();
        while arrived.is_empty() {
            if !ready!(link.poll_receive(cx, |bytes| arrived.push_back(bytes)))? {
                return Poll::Ready(Ok(()));
            }
        }
        while let Some(front) = arrived.front_mut().filter(|_| out.remaining() > 0) {
            let some = front.len().min(out.remaining());
            out.put_slice(&front[..some]);
            front.advance(some);
            if front.is_empty() {
                arrived.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Raw {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let link = &mut self.get_mut().link;
        ready!(link.poll_flush(cx))?;
        let sent = link.send_from(
            0,
            data.len(),
            |places| {
                let mut filled = 0;
                for place in places {
                    let some = place.len();
                    place.copy_from_slice(&data[filled..filled + some]);
                    filled += some;
                }
                Ok(filled)
            },
            |_, _, _| {},
        )?;
        Poll::Ready(sent)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().link.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let link = &mut self.get_mut().link;
        ready!(link.poll_flush(cx))?;
        link.close();
        link.poll_flush(cx)
    }
}

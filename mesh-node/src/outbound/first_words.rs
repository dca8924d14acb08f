//! What a client says before its destination is reached: read so that it can go along with the question, and kept until it is
//! known that somebody has it.

use std::io;
use std::os::fd::AsRawFd as _;
use std::task::{Context, Poll, ready};

use mesh_net::tunnel::early::{self, Early};
use nix::sys::socket::{MsgFlags, recv};
use tokio::net::TcpStream;

use crate::splice::Begun;

pub(super) struct FirstWords<'a> {
    client: &'a TcpStream,
    looked: bool,
    /// `None` until it has said something, or has ended.
    said: Option<Box<[u8]>>,
    broken: Option<io::Error>,
}

impl<'a> FirstWords<'a> {
    pub(super) fn of(client: &'a TcpStream) -> Self {
        Self { client, looked: false, said: None, broken: None }
    }

    /// What is left to be carried, of which `sent` bytes have gone along.
    pub(super) fn begun(self, sent: usize) -> Begun {
        let said = self.said.unwrap_or_default();
        let unsent = if sent == 0 { said } else { Box::default() };
        Begun { sent, unsent, broken: self.broken }
    }

    /// The runtime has not asked the kernel yet whether a new socket can be read, so the first time it is just tried.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if std::mem::replace(&mut self.looked, true) {
            return self.client.try_read(into);
        }
        Ok(recv(self.client.as_raw_fd(), into, MsgFlags::MSG_DONTWAIT)?)
    }
}

impl Early for FirstWords<'_> {
    fn poll_said(&mut self, cx: &mut Context<'_>) -> Poll<&[u8]> {
        while self.said.is_none() {
            if self.looked && ready!(self.client.poll_read_ready(cx)).is_err() {
                return Poll::Ready(&[]);
            }
            let mut room = [0; early::MOST];
            match self.read(&mut room) {
                Ok(bytes) => self.said = Some(room[..bytes].into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A socket tells its error once.
                Err(error) => (self.said, self.broken) = (Some(Box::default()), Some(error)),
            }
        }
        Poll::Ready(self.said.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    async fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (dialled, listener.accept().await.unwrap().0)
    }

    async fn said(words: &mut FirstWords<'_>) -> Vec<u8> {
        poll_fn(|cx| words.poll_said(cx).map(<[u8]>::to_vec)).await
    }

    #[tokio::test]
    async fn it_is_said_again_until_somebody_has_it() {
        let (mut client, accepted) = sockets().await;
        let mut words = FirstWords::of(&accepted);
        let first = poll_fn(|cx| Poll::Ready(words.poll_said(cx).is_ready())).await;
        assert!(!first, "nothing was said");
        client.write_all(b"GET / HTTP/1.1").await.unwrap();
        for _ in 0..3 {
            assert_eq!(said(&mut words).await, b"GET / HTTP/1.1");
        }
        let begun = words.begun(0);
        assert_eq!((&*begun.unsent, begun.sent), (&b"GET / HTTP/1.1"[..], 0));
    }

    #[tokio::test]
    async fn what_has_gone_along_is_not_left_and_no_more_than_that_is_taken() {
        let (mut client, accepted) = sockets().await;
        client.write_all(&vec![7; early::MOST + 5]).await.unwrap();
        accepted.readable().await.unwrap();
        let mut words = FirstWords::of(&accepted);
        assert_eq!(said(&mut words).await.len(), early::MOST);
        let begun = words.begun(early::MOST);
        assert_eq!((begun.unsent.len(), begun.sent), (0, early::MOST));
        assert_eq!(accepted.try_read(&mut [0; 64]).unwrap(), 5);
    }

    #[tokio::test]
    async fn a_reset_is_told_though_the_socket_tells_it_once() {
        let (client, accepted) = sockets().await;
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        let mut words = FirstWords::of(&accepted);
        assert!(said(&mut words).await.is_empty());
        assert_eq!(words.begun(0).broken.map(|error| error.kind()), Some(io::ErrorKind::ConnectionReset));
    }

    #[tokio::test]
    async fn a_client_that_only_ends_says_nothing() {
        let (client, accepted) = sockets().await;
        drop(client);
        let mut words = FirstWords::of(&accepted);
        assert!(said(&mut words).await.is_empty());
        assert!(words.begun(0).broken.is_none());
    }
}

//! A TLS connection on a socket: plaintext in, plaintext out.
//!
//! Memory is the thread's while bytes are in hand and nobody's otherwise: what an idle connection keeps is its keys.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::lent::Lent;
use super::record::{self, Violation};
use super::session::{Opened, Session};

pub(crate) struct Encrypted<T> {
    io: T,
    session: Session,
    incoming: Incoming,
    /// Sealed and not yet taken by the socket.
    outgoing: Option<Lent>,
    state: State,
}

/// What has come and was not asked for yet.
enum Incoming {
    Nothing,
    /// The beginning of a record, while the rest is awaited.
    Parked(Box<[u8]>),
    Held {
        lent: Lent,
        /// Opened data, by where it lies.
        data: Range<usize>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The peer has said that it sends no more.
    PeerClosed,
    Failed(Failure),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Failure {
    Violation(Violation),
    Alert(AlertDescription),
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Violation(violation) => Self::new(io::ErrorKind::InvalidData, violation),
            Failure::Alert(alert) => Self::new(io::ErrorKind::InvalidData, rustls::Error::AlertReceived(alert)),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Encrypted<T> {
    /// Goes on with a session; `early` was read behind its handshake.
    pub(super) fn new(io: T, session: Session, early: &[u8]) -> Self {
        let incoming = if early.is_empty() { Incoming::Nothing } else { Incoming::Parked(early.into()) };
        Self { io, session, incoming, outgoing: None, state: State::Open }
    }

    #[cfg(test)]
    pub(super) fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Whether no memory is held for bytes under way.
    #[cfg(test)]
    pub(super) fn holds_nothing(&self) -> bool {
        matches!(self.incoming, Incoming::Nothing) && self.outgoing.is_none()
    }

    /// Hands the socket what is sealed.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(lent) = &mut self.outgoing {
            if lent.is_empty() {
                self.outgoing = None;
                break;
            }
            match ready!(Pin::new(&mut self.io).poll_write(cx, lent.bytes()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => lent.consume(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Hands the socket what is sealed, then what the session owes the peer.
    fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_drain(cx))?;
            if !self.session.owes() || self.state != State::Open {
                return Poll::Ready(Ok(()));
            }
            let mut lent = Lent::take();
            let sealed = self.session.seal_owed(&mut lent);
            self.outgoing = Some(lent);
            sealed.map_err(|violation| self.fail(violation))?;
        }
    }

    fn fail(&mut self, violation: Violation) -> io::Error {
        let failure = Failure::Violation(violation);
        self.state = State::Failed(failure);
        // The peer is told once, behind what is already on its way, if the socket takes it.
        let lent = self.outgoing.get_or_insert_with(Lent::take);
        if lent.space().len() >= record::OVERHEAD + 2 {
            self.session.seal_alert(violation.alert(), lent);
        }
        let _ = self.poll_drain(&mut Context::from_waker(std::task::Waker::noop()));
        failure.into()
    }

    /// Takes the next data that is there into `data`; false when a whole record is not.
    fn open_next(&mut self) -> Result<bool, Violation> {
        let Incoming::Held { lent, data } = &mut self.incoming else { return Ok(false) };
        while Range::is_empty(data) {
            let Some(length) = record::length(lent.bytes())?.filter(|length| *length <= lent.bytes().len()) else {
                return Ok(false);
            };
            let start = lent.start();
            match self.session.open(&mut lent.bytes()[..length])? {
                Opened::Data(place) => *data = start + place.start..start + place.end,
                Opened::Control => {}
                Opened::Closed => self.state = State::PeerClosed,
                Opened::Alert(alert) => self.state = State::Failed(Failure::Alert(alert)),
            }
            lent.consume(length);
            if self.state != State::Open {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads more from the socket; 0 bytes at its end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let (mut lent, data) = match std::mem::replace(&mut self.incoming, Incoming::Nothing) {
            Incoming::Nothing => (Lent::take(), 0..0),
            Incoming::Parked(begun) => (Lent::with(&begun), 0..0),
            Incoming::Held { lent, data } => (lent, data),
        };
        debug_assert!(data.is_empty(), "it would be overwritten");
        lent.make_room();
        let mut into = ReadBuf::new(lent.space());
        let read = Pin::new(&mut self.io).poll_read(cx, &mut into);
        let count = into.filled().len();
        lent.filled(count);
        self.incoming = match &read {
            Poll::Pending if lent.is_empty() => Incoming::Nothing,
            Poll::Pending => Incoming::Parked((&*lent.bytes()).into()),
            Poll::Ready(_) => Incoming::Held { lent, data: 0..0 },
        };
        read.map_ok(|()| count)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.remaining();
        loop {
            match &mut this.incoming {
                Incoming::Held { lent, data } if !Range::is_empty(data) => {
                    let n = data.len().min(out.remaining());
                    out.put_slice(lent.at(data.start..data.start + n));
                    data.start += n;
                    if Range::is_empty(data) && lent.is_empty() {
                        this.incoming = Incoming::Nothing;
                    }
                    if out.remaining() == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                _ => {}
            }
            match this.state {
                // What it sent before is delivered first.
                _ if out.remaining() < before && this.state != State::Open => return Poll::Ready(Ok(())),
                State::Open => {}
                State::PeerClosed => return Poll::Ready(Ok(())),
                State::Failed(failure) => return Poll::Ready(Err(failure.into())),
            }
            match this.open_next() {
                Ok(true) => continue,
                Ok(false) if this.state != State::Open => {
                    this.incoming = Incoming::Nothing;
                    continue;
                }
                Ok(false) => {}
                Err(violation) => {
                    let error = this.fail(violation);
                    this.incoming = Incoming::Nothing;
                    return if out.remaining() < before { Poll::Ready(Ok(())) } else { Poll::Ready(Err(error)) };
                }
            }
            if this.session.owes()
                && let Poll::Ready(Err(error)) = this.poll_settle(cx)
            {
                return Poll::Ready(Err(error));
            }
            if out.remaining() < before {
                return Poll::Ready(Ok(()));
            }
            if ready!(this.poll_fill(cx))? == 0 {
                // An end that the peer has not announced may be somebody else's (RFC 8446, section 6.1).
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        if let State::Failed(failure) = this.state {
            return Poll::Ready(Err(failure.into()));
        }
        let mut lent = Lent::take();
        let sealed = this.session.seal(slices, &mut lent);
        this.outgoing = Some(lent);
        let sealed = sealed.map_err(|violation| this.fail(violation))?;
        match this.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // It is this connection's to send from here on.
            _ => Poll::Ready(Ok(sealed)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_settle(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        if !this.session.is_closed() {
            let mut lent = Lent::take();
            this.session.seal_alert(AlertDescription::CloseNotify, &mut lent);
            this.outgoing = Some(lent);
            ready!(this.poll_drain(cx))?;
        }
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

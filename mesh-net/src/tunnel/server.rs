//! The accepting end: yields the streams that one peer asks for.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use http::{Method, StatusCode};
use mesh_core::identity::SpiffeId;

use super::hbone::{self, Driven, Hbone, KeepAlive};
use super::head::{self, Baggage, Head};
use super::lane::{self, Berth as _, Lane};
use super::stream::{Carrier, Stream, StreamError};
use super::{Config, ConnectionError};
use crate::http2::connection::Role;
use crate::http2::fields::{Fields, Pseudo};
use crate::tls::{ALPN_WEFT, ServerTls};

/// A connection that a peer opens streams on. An HBONE connection's bytes move only while [`Connection::accept`] is polled.
pub struct Connection {
    peer: Arc<SpiffeId>,
    kind: Kind,
}

enum Kind {
    Shared(Box<Shared>),
    Lane(Arc<Quay>),
    Over,
}

struct Shared {
    hbone: Arc<Hbone>,
    alive: KeepAlive,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.hbone.close();
    }
}

/// Where the lane is while it is free.
#[derive(Default)]
struct Quay(Mutex<Mooring>);

#[derive(Default)]
struct Mooring {
    lane: Option<Box<Lane>>,
    /// It will not come back.
    lost: bool,
    draining: bool,
    waker: Option<Waker>,
}

impl Quay {
    fn lock(&self) -> MutexGuard<'_, Mooring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl lane::Berth for Quay {
    fn back(&self, lane: Option<Box<Lane>>) {
        let mut mooring = self.lock();
        mooring.lost = lane.is_none();
        mooring.lane = lane;
        mooring.waker.take().into_iter().for_each(Waker::wake);
    }
}

impl Connection {
    /// # Errors
    /// No valid HTTP/2 preface within `config.handshake_timeout`. A lane needs no further handshake.
    pub async fn handshake(tls: ServerTls, config: &Config) -> Result<Self, ConnectionError> {
        let is_lane = tls.alpn() == ALPN_WEFT;
        let tls = tls.into_inner();
        let peer = Arc::new(tls.peer().clone());
        if is_lane {
            let quay = Quay::default();
            quay.lock().lane = Some(Box::new(Lane::new(tls, config)));
            return Ok(Self { peer, kind: Kind::Lane(Arc::new(quay)) });
        }
        let mut shared =
            Box::new(Shared { hbone: Hbone::new(tls, Role::Server, config), alive: KeepAlive::new(config) });
        let greeted = poll_fn(|cx| {
            let driven = shared.hbone.poll_drive(cx, &mut shared.alive);
            match driven {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ if shared.hbone.is_greeted() => Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => Poll::Ready(Err(ConnectionError::Protocol("no HTTP/2 preface".to_owned()))),
                Poll::Pending => Poll::Pending,
            }
        });
        tokio::time::timeout(config.handshake_timeout, greeted)
            .await
            .map_err(|_| ConnectionError::Timeout(config.handshake_timeout))??;
        Ok(Self { peer, kind: Kind::Shared(shared) })
    }

    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }

    /// Whether it carries one stream at a time: [`Connection::accept`] yields the next when that has ended.
    pub fn is_lane(&self) -> bool {
        matches!(self.kind, Kind::Lane(_))
    }

    /// The next stream that the peer asks for; `None` after an orderly end, or after an error was yielded. Cancel-safe.
    /// Requests that are no valid CONNECT are answered with 400 here.
    pub async fn accept(&mut self) -> Option<Result<Request, ConnectionError>> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Request, ConnectionError>>> {
        let next = match &mut self.kind {
            Kind::Shared(shared) => ready!(shared.poll_next(cx, &self.peer)),
            Kind::Lane(quay) => ready!(poll_next(quay, cx, &self.peer)),
            Kind::Over => None,
        };
        if !matches!(next, Some(Ok(_))) {
            self.kind = Kind::Over;
        }
        Poll::Ready(next)
    }

    /// Says that no further stream is taken; those that are open finish, and [`Connection::accept`], which must still be
    /// called, then yields `None`.
    pub fn drain(&mut self) {
        match &self.kind {
            Kind::Shared(shared) => shared.hbone.drain(),
            Kind::Lane(quay) => {
                let mut mooring = quay.lock();
                mooring.draining = true;
                mooring.waker.take().into_iter().for_each(Waker::wake);
            }
            Kind::Over => {}
        }
    }
}

impl Shared {
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        peer: &Arc<SpiffeId>,
    ) -> Poll<Option<Result<Request, ConnectionError>>> {
        loop {
            while let Some((carried, fields)) = self.hbone.next_asked() {
                if let Some(request) = asked(carried, &fields, peer) {
                    return Poll::Ready(Some(Ok(request)));
                }
            }
            match ready!(self.hbone.poll_drive(cx, &mut self.alive)) {
                Ok(Driven::Asked) => {}
                Ok(Driven::Over) => return Poll::Ready(None),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}

/// `None` for what is no valid CONNECT, which is answered then.
fn asked(carried: hbone::Carried, fields: &Fields, peer: &Arc<SpiffeId>) -> Option<Request> {
    let Pseudo { method, scheme, authority, path, protocol, .. } = &fields.pseudo;
    let head = match (method, authority) {
        (Some(Method::CONNECT), Some(authority)) if scheme.is_none() && path.is_none() && protocol.is_none() => {
            let authority = std::str::from_utf8(authority).ok();
            authority.and_then(|authority| Head::from_fields(authority, head::texts(&fields.headers)).ok())
        }
        _ => None,
    };
    let Some((head, ignored_headers)) = head else {
        // A peer that gave the stream up needs no answer.
        let _ = carried.reply(&reply(Status::BadRequest.http(), None), true);
        return None;
    };
    let answer = Some(Answer::Hbone(carried));
    Some(Request { head, peer: peer.clone(), ignored_headers, answer })
}

fn poll_next(
    quay: &Arc<Quay>,
    cx: &mut Context<'_>,
    peer: &Arc<SpiffeId>,
) -> Poll<Option<Result<Request, ConnectionError>>> {
    let mut mooring = quay.lock();
    loop {
        let Some(mut lane) = mooring.lane.take() else {
            if mooring.lost {
                return Poll::Ready(None);
            }
            mooring.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if mooring.draining {
            lane.leave();
            return Poll::Ready(None);
        }
        let bytes = match lane.poll_asked(cx) {
            Poll::Ready(Ok(Some(bytes))) => bytes,
            Poll::Ready(Ok(None)) => return Poll::Ready(None),
            Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
            Poll::Pending => {
                mooring.lane = Some(lane);
                mooring.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
        };
        match Lane::read_head(bytes) {
            Ok(Some((head, ignored_headers))) => {
                let answer = Some(Answer::Lane(lane, quay.clone()));
                return Poll::Ready(Some(Ok(Request { head, peer: peer.clone(), ignored_headers, answer })));
            }
            Ok(None) => {
                if let Err(error) = lane.answer(Status::BadRequest.code(), None) {
                    return Poll::Ready(Some(Err(ConnectionError::Io(error))));
                }
                mooring.lane = Some(lane);
            }
            Err(error) => return Poll::Ready(Some(Err(error))),
        }
    }
}

/// A stream that the peer asks for and nobody has answered. Dropped, it is given up.
pub struct Request {
    head: Head,
    peer: Arc<SpiffeId>,
    ignored_headers: u32,
    /// Taken by whoever answers.
    answer: Option<Answer>,
}

enum Answer {
    Hbone(hbone::Carried),
    Lane(Box<Lane>, Arc<Quay>),
}

impl Request {
    pub fn head(&self) -> &Head {
        &self.head
    }

    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }

    /// Optional headers that were malformed and therefore left out of the head.
    pub fn ignored_headers(&self) -> u32 {
        self.ignored_headers
    }

    /// Answers 200, with the destination's baggage.
    ///
    /// # Errors
    /// The peer gave the stream up or the connection is gone.
    pub fn accept(mut self, baggage: Option<&Baggage>) -> Result<Stream, StreamError> {
        let carrier = match self.answer.take().expect("answered once, by value") {
            Answer::Hbone(carried) => {
                carried.reply(&reply(StatusCode::OK, baggage), false)?;
                Carrier::Hbone(Arc::new(carried))
            }
            Answer::Lane(lane, quay) => {
                let carried = lane::Carried::new(lane, quay);
                carried.answer(lane::OK, baggage)?;
                Carrier::Lane(Arc::new(carried))
            }
        };
        Ok(Stream::new(carrier))
    }

    /// Leaves the request to another connection: the peer may ask again there at once. A lane is closed with it.
    pub fn decline(mut self) {
        match self.answer.take().expect("answered once, by value") {
            Answer::Hbone(carried) => carried.decline(),
            Answer::Lane(lane, quay) => {
                lane.leave();
                quay.back(None);
            }
        }
    }

    /// Answers with an error status and ends the stream. Why is said in our log, never to the peer.
    pub fn refuse(mut self, status: Status) {
        match self.answer.take().expect("answered once, by value") {
            // A peer that gave the stream up needs no answer.
            Answer::Hbone(carried) => drop(carried.reply(&reply(status.http(), None), true)),
            Answer::Lane(mut lane, quay) => {
                let answered = lane.answer(status.code(), None);
                quay.back(answered.is_ok().then_some(lane));
            }
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(Answer::Lane(lane, quay)) = self.answer.take() {
            // Resets it: nothing has been answered.
            drop(lane::Carried::new(lane, quay));
        }
    }
}

fn reply(status: StatusCode, baggage: Option<&Baggage>) -> Fields {
    let baggage = baggage.map(|baggage| (head::BAGGAGE, baggage.encode()));
    Fields { pseudo: Pseudo::reply(status), headers: head::headers(baggage) }
}

/// How a stream is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 400: not CONNECT, or an authority that is not of this workload.
    BadRequest,
    /// 401: policy.
    Denied,
    /// 503: the destination refused the connection, or is not ready.
    Unavailable,
}

impl Status {
    pub fn code(self) -> u16 {
        self.http().as_u16()
    }

    fn http(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Denied => StatusCode::UNAUTHORIZED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

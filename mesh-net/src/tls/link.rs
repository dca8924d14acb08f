//! A TLS connection on a socket, record by record. Nothing is copied between what the socket reads or writes and what a
//! caller is shown: data is read into the place where it is sealed, and handed out from where it was opened.
//!
//! Memory is the thread's while bytes are in hand and nobody's otherwise: what an idle link keeps is its keys.

use std::io::{self, IoSliceMut};
use std::net::Shutdown;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rustls::AlertDescription;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::block::Block;
use super::budget::{LARGE, Leave};
use super::lent::Lent;
use super::record::{self, CONTENT, HEADER, LONGEST, OVERHEAD, Violation};
use super::session::{Opened, Session};

/// Most records that one system call moves.
pub(crate) const MOST: usize = LARGE;

pub(crate) struct Link {
    tcp: Arc<TcpStream>,
    session: Box<Session>,
    incoming: Incoming,
    /// Sealed and not yet taken by the socket.
    outgoing: Option<Lent>,
    /// Small things to be sealed once the socket has taken what is before them.
    later: Vec<u8>,
    state: State,
}

/// The beginning of a record whose end has not come.
enum Incoming {
    Nothing,
    InHand(Block),
    /// Put aside, because too many are in hand.
    Parked(Box<[u8]>),
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

impl Link {
    /// Goes on with a session; `early` was read behind its handshake.
    pub(super) fn new(tcp: TcpStream, session: Session, early: &[u8]) -> Self {
        let incoming = if early.is_empty() { Incoming::Nothing } else { Incoming::Parked(early.into()) };
        Self {
            tcp: Arc::new(tcp),
            session: Box::new(session),
            incoming,
            outgoing: None,
            later: Vec::new(),
            state: State::Open,
        }
    }

    /// The socket, for those who watch it or set its options. Nobody else reads or writes it.
    pub(crate) fn tcp(&self) -> &Arc<TcpStream> {
        &self.tcp
    }

    pub(super) fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Whether no memory is held for bytes under way.
    #[cfg(test)]
    pub(super) fn holds_nothing(&self) -> bool {
        matches!(self.incoming, Incoming::Nothing) && self.is_flushed()
    }

    /// Whether nothing waits for the socket.
    pub(crate) fn is_flushed(&self) -> bool {
        self.outgoing.is_none() && self.later.is_empty()
    }

    /// Ready once nothing waits for the socket: data may be sent.
    ///
    /// # Errors
    /// Of the socket; the link is over.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.flush()? {
            ready!(self.tcp.poll_write_ready(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Hands the socket what it takes; whether nothing is left.
    ///
    /// # Errors
    /// Of the socket; the link is over.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        loop {
            if let Some(lent) = &mut self.outgoing {
                while !lent.is_empty() {
                    match self.tcp.try_write(lent.bytes()) {
                        Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                        Ok(written) => lent.consume(written),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                        Err(error) => return Err(error),
                    }
                }
                self.outgoing = None;
            }
            if self.later.is_empty() && !(self.session.owes() && self.state == State::Open) {
                return Ok(true);
            }
            let later = std::mem::take(&mut self.later);
            let mut rest = &later[..];
            let lent = self.outgoing.insert(Lent::take());
            let sealed = self.session.seal_owed(lent).and_then(|()| {
                while !rest.is_empty() && lent.space().len() >= ROOM + rest.len().min(CONTENT) {
                    let (some, after) = rest.split_at(rest.len().min(CONTENT));
                    self.session.seal(some, lent)?;
                    rest = after;
                }
                Ok(())
            });
            self.later = rest.to_vec();
            sealed.map_err(|violation| self.fail(violation))?;
        }
    }

    /// Puts a few bytes behind what waits for the socket, to leave with the next [`Link::flush`].
    ///
    /// # Errors
    /// `OutOfMemory` when far too much waits already: the peer makes us answer and does not read.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let lent = self.outgoing.get_or_insert_with(Lent::take);
        if self.later.is_empty() && bytes.len() <= CONTENT && lent.space().len() >= ROOM + bytes.len() {
            let sealed = self.session.seal(bytes, lent);
            return sealed.map_err(|violation| self.fail(violation));
        }
        if self.later.len() + bytes.len() > LATER {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.later.extend_from_slice(bytes);
        Ok(())
    }

    /// Lets `read` fill the places of up to [`MOST`] records, `most` bytes in all, and sends what it says is there, as one
    /// frame a record: `frame` writes the first `head` bytes of a record, given how much data follows and whether it is the
    /// last of this batch. Yields what `read` yielded; nothing is sent for none. Only when nothing waits for the socket.
    ///
    /// # Errors
    /// Of the socket; the link is over.
    pub(crate) fn send_from(
        &mut self,
        head: usize,
        most: usize,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
        mut frame: impl FnMut(&mut [u8], usize, bool),
    ) -> io::Result<io::Result<usize>> {
        debug_assert!(self.is_flushed(), "data would overtake what waits");
        if let State::Failed(failure) = self.state {
            return Err(failure.into());
        }
        let mut lent = Lent::largest();
        let records = lent.records();
        self.session.ready_for(records as u64, &mut lent).map_err(|violation| self.fail(violation))?;
        let data = CONTENT - head;
        let space = lent.space();
        let mut left = most;
        let mut count = 0;
        let mut places: [IoSliceMut<'_>; MOST] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        for (place, record) in places.iter_mut().zip(space.chunks_exact_mut(CONTENT + OVERHEAD).take(records)) {
            if left == 0 {
                break;
            }
            let some = data.min(left);
            *place = IoSliceMut::new(&mut record[HEADER + head..HEADER + head + some]);
            left -= some;
            count += 1;
        }
        let read = read(&mut places[..count]);
        let mut left = *read.as_ref().unwrap_or(&0);
        while left > 0 {
            let some = data.min(left);
            left -= some;
            let record = &mut lent.space()[..CONTENT + OVERHEAD];
            frame(&mut record[HEADER..HEADER + head], some, left == 0);
            let sealed = self.session.seal_in_place(record, head + some);
            lent.filled(sealed);
        }
        if !lent.is_empty() {
            self.outgoing = Some(lent);
            self.flush()?;
        }
        Ok(read)
    }

    /// Ends our side in good order: what waits, then the word that nothing follows, as far as the socket takes it now.
    pub(crate) fn close(&mut self) {
        if !self.session.is_closed() && !matches!(self.state, State::Failed(_)) && self.later.is_empty() {
            let lent = self.outgoing.get_or_insert_with(Lent::take);
            if lent.space().len() >= ROOM {
                self.session.seal_alert(AlertDescription::CloseNotify, lent);
            }
        }
        let _ = self.flush();
    }

    /// As [`Link::close`], and tells the socket's peer that nothing follows. What it says is received all the same.
    pub(crate) fn part(&mut self) {
        self.close();
        let _ = SockRef::from(&*self.tcp).shutdown(Shutdown::Write);
    }

    /// Hands the data of whole records to `deliver`, reading from the socket if none is there; false at the peer's end.
    ///
    /// # Errors
    /// Of the socket and of a peer that breaks the rules; an end that the peer has not announced is
    /// `UnexpectedEof`: it may be somebody else's (RFC 8446, section 6.1).
    pub(crate) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        mut deliver: impl FnMut(Bytes),
    ) -> Poll<io::Result<bool>> {
        loop {
            match self.state {
                State::Open => {}
                State::PeerClosed => return Poll::Ready(Ok(false)),
                State::Failed(failure) => return Poll::Ready(Err(failure.into())),
            }
            let mut block = match std::mem::replace(&mut self.incoming, Incoming::Nothing) {
                Incoming::Nothing => Block::take(Leave::left()),
                Incoming::InHand(block) => block,
                Incoming::Parked(begun) => {
                    let mut block = Block::take(Leave::left());
                    block.put_slice(&begun);
                    // What was read behind the handshake may be whole.
                    if self.open(&mut block, &mut deliver)? {
                        self.keep(block);
                        return Poll::Ready(Ok(true));
                    }
                    block
                }
            };
            if self.state != State::Open {
                continue;
            }
            // Who has much in hand that nobody takes gets it in single records.
            let most = match Leave::left() {
                1 => LONGEST,
                // As many as a peer of ours writes at once.
                records => records.min(block.records()) * (CONTENT + OVERHEAD),
            };
            let most = room(&block, most);
            match self.fill(&mut block, most) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => {
                    let mut data = self.open(&mut block, &mut deliver)?;
                    // More was there: the rest of a record that was cut off, so that the next read begins a block anew.
                    if let (true, Ok(Some(length))) = (read == most, record::length(&block))
                        && self.state == State::Open
                    {
                        let rest = length - block.len();
                        if matches!(self.fill(&mut block, rest), Ok(1..)) {
                            data |= self.open(&mut block, &mut deliver)?;
                        }
                    }
                    self.keep(block);
                    if self.session.owes() {
                        self.flush()?;
                    }
                    if data {
                        return Poll::Ready(Ok(true));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.keep(block);
                    ready!(self.tcp.poll_read_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn fill(&self, block: &mut BytesMut, most: usize) -> io::Result<usize> {
        block.reserve(most);
        let read = self.tcp.try_read_buf(&mut block.limit(most))?;
        if read > 0 && read < most {
            // It came up short, so nothing is left, and the runtime need not ask to learn that. (A read stops before urgent
            // data as well, which a peer of ours does not send.)
            let _ = self.tcp.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
        Ok(read)
    }

    /// Opens all whole records; whether there was data.
    fn open(&mut self, block: &mut BytesMut, deliver: &mut impl FnMut(Bytes)) -> io::Result<bool> {
        let mut data = false;
        while self.state == State::Open {
            let length = match record::length(block) {
                Ok(Some(length)) if length <= block.len() => length,
                Ok(_) => break,
                Err(violation) => return Err(self.fail(violation)),
            };
            let mut record = block.split_to(length);
            match self.session.open(&mut record) {
                Ok(Opened::Data(place)) => {
                    data = true;
                    record.truncate(place.end);
                    record.advance(place.start);
                    deliver(record.freeze());
                }
                Ok(Opened::Control) => {}
                Ok(Opened::Closed) => self.state = State::PeerClosed,
                Ok(Opened::Alert(alert)) => self.state = State::Failed(Failure::Alert(alert)),
                Err(violation) => {
                    let error = self.fail(violation);
                    // What came before is delivered; the next call tells.
                    return if data { Ok(true) } else { Err(error) };
                }
            }
        }
        Ok(data)
    }

    fn keep(&mut self, block: Block) {
        if block.is_empty() {
            return;
        }
        self.incoming = match block.may_be_kept() {
            true => Incoming::InHand(block),
            false => Incoming::Parked((&**block).into()),
        };
    }

    fn fail(&mut self, violation: Violation) -> io::Error {
        let failure = Failure::Violation(violation);
        self.state = State::Failed(failure);
        // The peer is told once, behind what is already on its way, if the socket takes it.
        let lent = self.outgoing.get_or_insert_with(Lent::take);
        if lent.space().len() >= ROOM && !self.session.is_closed() {
            self.session.seal_alert(violation.alert(), lent);
        }
        let _ = self.flush();
        failure.into()
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

/// Bytes to read into `block`: `most`, or fewer so that a record that was begun is completed where it lies, and the next one
/// that the read cuts off as well.
fn room(block: &BytesMut, most: usize) -> usize {
    let Ok(Some(length)) = record::length(block) else { return most };
    let room = block.capacity() - block.len();
    let rest = length - block.len();
    most.min(rest.max(room.saturating_sub(LONGEST)))
}

/// A record beside its content, and room for new keys and an alert behind it.
const ROOM: usize = 128;
/// Most bytes that wait for a socket besides data.
const LATER: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::budget::BATCH;
    use super::*;

    /// What follows a header at least: a record's kind and its tag.
    const SHORTEST: usize = HEADER + 17;

    proptest! {
        /// However reads cut records apart, no more than a header is ever moved for want of room.
        #[test]
        fn a_record_that_was_cut_off_is_completed_where_it_lies(
            lengths in vec(SHORTEST..=LONGEST, 1..200), reads in vec(0.0..2.0f64, 200), records in select(vec![BATCH, LARGE]),
        ) {
            let mut stream = BytesMut::new();
            for length in lengths {
                let body = u16::try_from(length - HEADER).unwrap();
                stream.put_slice(&[23, 3, 3]);
                stream.put_u16(body);
                stream.put_bytes(0, body.into());
            }
            let mut block = Block::take(records);
            for part in reads {
                let most = room(&block, records * (CONTENT + OVERHEAD));
                if block.len() < HEADER {
                    block.reserve(most);
                }
                // One read in two finds all that it asked for, and asks for the rest of the record that it cut off.
                let read = most.min((most as f64 * part) as usize + 1);
                receive(&mut block, &mut stream, read)?;
                if let (true, Ok(Some(length))) = (read == most, record::length(&block)) {
                    let rest = length - block.len();
                    receive(&mut block, &mut stream, rest)?;
                }
            }
        }
    }

    /// Takes the whole records out after a read, which has to find room.
    fn receive(block: &mut BytesMut, stream: &mut BytesMut, read: usize) -> Result<(), TestCaseError> {
        prop_assert!((1..=block.capacity() - block.len()).contains(&read), "{read} bytes behind {}", block.len());
        block.put_slice(&stream.split_to(read.min(stream.len())));
        while let Ok(Some(length)) = record::length(block)
            && length <= block.len()
        {
            block.advance(length);
        }
        Ok(())
    }
}

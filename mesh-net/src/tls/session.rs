//! A TLS 1.3 connection after its handshake: seals what is to be sent, opens what has come, answers what concerns the
//! connection itself. Keys, their successors and tickets come from rustls. Pure: no sockets.

use std::ops::Range;

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{AlertDescription, ContentType, Error, ExtractedSecrets};

use super::lent::Lent;
use super::record::{Key, Violation};

/// What rustls keeps of a connection that it has set up.
pub(super) enum Origin {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

pub(super) struct Session {
    tx: Key,
    rx: Key,
    origin: Origin,
    /// The beginning of a handshake message whose end has not come.
    partial: Vec<u8>,
    /// The peer asked us to take new keys.
    update_owed: bool,
    /// Records in a row that carried no data.
    empty: u32,
    /// We have said that nothing more comes from us.
    closed: bool,
    /// Records after which a key of ours is replaced.
    key_limit: u64,
}

/// What a record was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Data, at these bytes of the record.
    Data(Range<usize>),
    /// Something for the connection itself, done with.
    Control,
    /// The peer sends nothing any more.
    Closed,
    /// The peer gave up.
    Alert(AlertDescription),
}

impl Session {
    pub(super) fn new(secrets: ExtractedSecrets, origin: Origin) -> Result<Self, Violation> {
        let ExtractedSecrets { tx, rx } = secrets;
        Ok(Self {
            tx: Key::new(tx.0, tx.1)?,
            rx: Key::new(rx.0, rx.1)?,
            origin,
            partial: Vec::new(),
            update_owed: false,
            empty: 0,
            closed: false,
            key_limit: KEY_LIMIT,
        })
    }

    /// Takes new keys of our own after `records` records, [`KEY_LIMIT`] at most.
    pub(super) fn limit_keys(&mut self, records: u64) {
        self.key_limit = records.min(KEY_LIMIT);
    }

    /// Whether an alert has been sealed: nothing may follow it.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether something is to be sent though nobody has data: see [`Session::seal_owed`].
    pub(super) fn owes(&self) -> bool {
        self.update_owed && !self.closed
    }

    /// Seals `bytes`, [`CONTENT`] at most, as one record at the end of `out`.
    ///
    /// # Errors
    /// [`Violation::Keys`]
    pub(super) fn seal(&mut self, bytes: &[u8], out: &mut Lent) -> Result<(), Violation> {
        self.ready_for(1, out)?;
        let written = self.tx.seal(ContentType::ApplicationData, bytes, out.space());
        out.filled(written);
        Ok(())
    }

    /// Seals what we owe the peer, and new keys of our own if these are not good for `records` more.
    ///
    /// # Errors
    /// [`Violation::Keys`]
    pub(super) fn ready_for(&mut self, records: u64, out: &mut Lent) -> Result<(), Violation> {
        if self.owes() || self.tx.sequence + records >= self.key_limit { self.renew(out) } else { Ok(()) }
    }

    /// Seals the `length` bytes behind the header's place at the start of `record` where they are; yields the record's
    /// length. The key is good for it: see [`Session::ready_for`].
    pub(super) fn seal_in_place(&mut self, record: &mut [u8], length: usize) -> usize {
        self.tx.seal_in_place(ContentType::ApplicationData, record, length)
    }

    /// Seals what we owe the peer.
    ///
    /// # Errors
    /// [`Violation::Keys`]
    pub(super) fn seal_owed(&mut self, out: &mut Lent) -> Result<(), Violation> {
        if self.owes() { self.renew(out) } else { Ok(()) }
    }

    /// Seals an alert. After it nothing more may be sealed.
    pub(super) fn seal_alert(&mut self, alert: AlertDescription, out: &mut Lent) {
        let level = if alert == AlertDescription::CloseNotify { WARNING } else { FATAL };
        let written = self.tx.seal(ContentType::Alert, &[level, u8::from(alert)], out.space());
        out.filled(written);
        self.closed = true;
    }

    /// Tells the peer of our next key, and takes it (RFC 8446, section 4.6.3).
    fn renew(&mut self, out: &mut Lent) -> Result<(), Violation> {
        let written = self.tx.seal(ContentType::Handshake, &KEY_UPDATE, out.space());
        out.filled(written);
        let next = match &mut self.origin {
            Origin::Client(origin) => origin.update_tx_secret(),
            Origin::Server(origin) => origin.update_tx_secret(),
        };
        let (sequence, secrets) = next.map_err(|_| Violation::Keys)?;
        self.tx = Key::new(sequence, secrets)?;
        self.update_owed = false;
        Ok(())
    }

    /// Opens a record in place.
    ///
    /// # Errors
    /// See [`Violation`]; the connection is over.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<Opened, Violation> {
        let (kind, content) = self.rx.open(record)?;
        // Messages of one kind are not interrupted by another (RFC 8446, section 5.1).
        if kind != ContentType::Handshake && !self.partial.is_empty() {
            return Err(Violation::Unexpected);
        }
        if kind == ContentType::ApplicationData && !content.is_empty() {
            self.empty = 0;
            return Ok(Opened::Data(content));
        }
        self.empty += 1;
        if self.empty > EMPTY_LIMIT {
            return Err(Violation::Flood);
        }
        match kind {
            ContentType::ApplicationData => Ok(Opened::Control),
            ContentType::Alert => match record[content] {
                [_, alert] => Ok(match AlertDescription::from(alert) {
                    AlertDescription::CloseNotify => Opened::Closed,
                    // Of no consequence since TLS 1.3; the level of an alert says nothing any more (section 6).
                    AlertDescription::UserCanceled => Opened::Control,
                    other => Opened::Alert(other),
                }),
                _ => Err(Violation::Malformed),
            },
            ContentType::Handshake if content.is_empty() => Err(Violation::Unexpected),
            ContentType::Handshake => self.handshake(&record[content]).map(|()| Opened::Control),
            _ => Err(Violation::Unexpected),
        }
    }

    /// Messages after the handshake, whole or in pieces.
    fn handshake(&mut self, content: &[u8]) -> Result<(), Violation> {
        self.partial.extend_from_slice(content);
        let messages = std::mem::take(&mut self.partial);
        let mut rest = &messages[..];
        while let [kind, a, b, c, body @ ..] = rest {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if length > MESSAGE_LIMIT {
                return Err(Violation::Malformed);
            }
            let Some((body, after)) = body.split_at_checked(length) else { break };
            rest = after;
            match *kind {
                NEW_SESSION_TICKET => self.ticket(body)?,
                // New keys begin with the next record: nothing may follow in this one.
                KEY_UPDATE_KIND if !rest.is_empty() => return Err(Violation::Unexpected),
                KEY_UPDATE_KIND => self.peer_renews(body)?,
                _ => return Err(Violation::Unexpected),
            }
        }
        self.partial = rest.to_vec();
        Ok(())
    }

    fn ticket(&mut self, body: &[u8]) -> Result<(), Violation> {
        match &mut self.origin {
            Origin::Client(origin) => origin.handle_new_session_ticket(body).map_err(|error| match error {
                Error::InvalidMessage(_) => Violation::Malformed,
                _ => Violation::Unexpected,
            }),
            Origin::Server(_) => Err(Violation::Unexpected),
        }
    }

    fn peer_renews(&mut self, body: &[u8]) -> Result<(), Violation> {
        match body {
            [0] => {}
            // Asked twice before we came to answer, once is enough.
            [1] => self.update_owed = true,
            _ => return Err(Violation::Malformed),
        }
        let next = match &mut self.origin {
            Origin::Client(origin) => origin.update_rx_secret(),
            Origin::Server(origin) => origin.update_rx_secret(),
        };
        let (sequence, secrets) = next.map_err(|_| Violation::Keys)?;
        self.rx = Key::new(sequence, secrets)?;
        Ok(())
    }
}

/// Records that one AES-GCM key may seal: fewer than the 2^24.5 full ones of RFC 8446, section 5.5.
pub const KEY_LIMIT: u64 = 1 << 24;
/// Records in a row without data until a peer is taken to waste our time, as rustls has it.
const EMPTY_LIMIT: u32 = 32;
/// Longest message after a handshake, a ticket: its parts are of 16-bit lengths.
const MESSAGE_LIMIT: usize = 1 << 17;

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE_KIND: u8 = 24;
/// KeyUpdate, not asking the peer for its own.
const KEY_UPDATE: [u8; 5] = [KEY_UPDATE_KIND, 0, 0, 1, 0];
const WARNING: u8 = 1;
const FATAL: u8 = 2;

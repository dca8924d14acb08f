//! A section as it is read, field by field, and the rules that speak of more than one (RFC 9113, section 8).

use bytes::Bytes;
use http::header::{COOKIE, HeaderName, HeaderValue};

use super::field::Field;
use crate::http2::fields::Fields;

/// What a peer's field section is.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::http2) enum Decoded {
    Fields(Box<Fields>),
    /// Larger than we said we take, or against the rules of messages: the stream's fault, not the connection's.
    Malformed,
}

pub(super) struct Section<'a> {
    /// As it came.
    block: &'a [u8],
    fields: Box<Fields>,
    /// Bytes that there is still room for.
    room: usize,
    fits: bool,
    cookies: usize,
    /// A copy of the block, made when the first value comes that is in no table: they are slices of it.
    values: Bytes,
}

impl<'a> Section<'a> {
    /// One of up to `most` bytes, counted as section 6.5.2 does.
    pub(super) fn new(block: &'a [u8], most: usize) -> Self {
        Self { block, fields: Box::default(), room: most, fits: true, cookies: 0, values: Bytes::new() }
    }

    /// Whether a field of `size` bytes is to be added: false once the section breaks a rule.
    pub(super) fn takes(&mut self, size: usize) -> bool {
        match self.room.checked_sub(size) {
            Some(room) => self.room = room,
            None => self.fits = false,
        }
        self.fits
    }

    /// A value that no table keeps: the `length` bytes of the block before its last `left`.
    pub(super) fn slice(&mut self, length: usize, left: usize) -> Bytes {
        if self.values.is_empty() {
            self.values = Bytes::copy_from_slice(self.block);
        }
        let end = self.block.len() - left;
        self.values.slice(end - length..end)
    }

    /// Adds a field that a table keeps.
    pub(super) fn add_known(&mut self, field: &Field) {
        match field {
            Field::Header(name, value) => self.header(name.clone(), value.clone()),
            other => self.add(other.clone()),
        }
    }

    pub(super) fn add(&mut self, field: Field) {
        let pseudo = &mut self.fields.pseudo;
        let is_new = match field {
            Field::Header(name, value) => return self.header(name, value),
            Field::Method(method) => pseudo.method.replace(method).is_none(),
            Field::Scheme(scheme) => pseudo.scheme.replace(scheme).is_none(),
            Field::Authority(authority) => pseudo.authority.replace(authority).is_none(),
            Field::Path(path) => pseudo.path.replace(path).is_none(),
            Field::Protocol(protocol) => pseudo.protocol.replace(protocol).is_none(),
            Field::Status(status) => pseudo.status.replace(status).is_none(),
            Field::Unfit(_) => false,
        };
        // Once, and before all others.
        self.fits = is_new && self.fields.headers.is_empty();
    }

    fn header(&mut self, name: HeaderName, value: HeaderValue) {
        let headers = &mut self.fields.headers;
        if headers.is_empty() {
            headers.reserve(self.block.len().min(USUAL));
        }
        self.cookies += usize::from(name == COOKIE);
        self.fits = headers.len() < MOST;
        headers.append(name, value);
    }

    pub(super) fn end(mut self) -> Decoded {
        if !self.fits {
            return Decoded::Malformed;
        }
        if self.cookies > 1 && !join_cookies(&mut self.fields) {
            return Decoded::Malformed;
        }
        Decoded::Fields(self.fields)
    }
}

/// Makes one field of the pieces that a client may send it in (section 8.2.3).
fn join_cookies(fields: &mut Fields) -> bool {
    let pieces: Vec<&HeaderValue> = fields.headers.get_all(COOKIE).collect();
    let sensitive = pieces.iter().any(|piece| piece.is_sensitive());
    let text = pieces.iter().map(|piece| piece.as_bytes()).collect::<Vec<_>>().join(&b"; "[..]);
    let Ok(mut joined) = HeaderValue::from_maybe_shared(Bytes::from(text)) else { return false };
    joined.set_sensitive(sensitive);
    fields.headers.insert(COOKIE, joined);
    true
}

/// Most fields of a message: the reference's, and as many as HTTP/1.1 may have here. Pieces of a cookie count.
const MOST: usize = 100;
/// Fields that a message seldom has more of: room for as many takes a little more than a kilobyte.
const USUAL: usize = 12;

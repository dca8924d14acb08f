//! A section as it is read, field by field, and the rules that speak of more than one (RFC 9113, section 8).

use bytes::{Bytes, BytesMut};
use http::header::{COOKIE, HeaderValue};

use super::field::Field;
use crate::http2::fields::Fields;

/// What a peer's field section is.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::http2) enum Decoded {
    Fields(Box<Fields>),
    /// Larger than we said we take, or against the rules of messages: the stream's fault, not the connection's.
    Malformed,
}

pub(super) struct Section {
    fields: Box<Fields>,
    /// Bytes that there is still room for.
    room: usize,
    fits: bool,
    cookies: usize,
    /// Where values lie that are in no table; made when the first comes.
    values: BytesMut,
    /// Fields that may come, at a guess.
    expected: usize,
}

impl Section {
    /// One of up to `most` bytes, counted as section 6.5.2 does, that comes in `length` bytes.
    pub(super) fn new(most: usize, length: usize) -> Self {
        Self {
            fields: Box::default(),
            room: most,
            fits: true,
            cookies: 0,
            values: BytesMut::new(),
            expected: length.min(USUAL),
        }
    }

    /// Whether a field of `size` bytes is to be added: false once the section breaks a rule.
    pub(super) fn takes(&mut self, size: usize) -> bool {
        match self.room.checked_sub(size) {
            Some(room) => self.room = room,
            None => self.fits = false,
        }
        self.fits
    }

    /// A value for a field of this section alone. `left`: bytes of which the section's others are still to come.
    pub(super) fn keep(&mut self, value: &[u8], left: usize) -> Bytes {
        if value.is_empty() {
            return Bytes::new();
        }
        if self.values.capacity() < value.len() {
            // Strings of the rest may be coded, and get longer.
            self.values = BytesMut::with_capacity(value.len() + (left + left / 2).min(self.room));
        }
        self.values.extend_from_slice(value);
        self.values.split().freeze()
    }

    pub(super) fn add(&mut self, field: Field) {
        let Fields { pseudo, headers } = &mut *self.fields;
        let first = headers.is_empty();
        self.fits = match field {
            Field::Header(name, value) => {
                if first {
                    headers.reserve(self.expected);
                }
                self.cookies += usize::from(name == COOKIE);
                // It fails when there are more names than it can hold.
                headers.try_append(name, value).is_ok()
            }
            Field::Method(method) => first && pseudo.method.replace(method).is_none(),
            Field::Scheme(scheme) => first && pseudo.scheme.replace(scheme).is_none(),
            Field::Authority(authority) => first && pseudo.authority.replace(authority).is_none(),
            Field::Path(path) => first && pseudo.path.replace(path).is_none(),
            Field::Protocol(protocol) => first && pseudo.protocol.replace(protocol).is_none(),
            Field::Status(status) => first && pseudo.status.replace(status).is_none(),
            Field::Unfit(_) => false,
        };
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
    let pieces: Vec<&HeaderValue> = fields.headers.get_all(COOKIE).iter().collect();
    let sensitive = pieces.iter().any(|piece| piece.is_sensitive());
    let text = pieces.iter().map(|piece| piece.as_bytes()).collect::<Vec<_>>().join(&b"; "[..]);
    let Ok(mut joined) = HeaderValue::from_maybe_shared(Bytes::from(text)) else { return false };
    joined.set_sensitive(sensitive);
    fields.headers.insert(COOKIE, joined);
    true
}

/// Fields that a message seldom has more of: room for as many takes a little more than a kilobyte.
const USUAL: usize = 12;

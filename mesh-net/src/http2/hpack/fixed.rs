//! The static table (RFC 7541, appendix A).

use std::collections::HashMap;
use std::sync::LazyLock;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::OVERHEAD;
use super::field::{Field, Name};

/// Made once; what is taken out of it costs no memory.
pub(super) static FIXED: LazyLock<Fixed> = LazyLock::new(Fixed::new);

pub(super) struct Fixed {
    /// Each field with its size.
    fields: Vec<(Field, usize)>,
    /// The first index of each name.
    names: HashMap<&'static [u8], usize, RandomState>,
}

impl Fixed {
    fn new() -> Self {
        let field = |(name, value): &(&'static str, &'static str)| {
            let size = name.len() + value.len() + OVERHEAD;
            (Field::new(Name::read(name.as_bytes()), Bytes::from_static(value.as_bytes())), size)
        };
        // The first of a name comes last, and stays.
        let names = TABLE.iter().enumerate().rev().map(|(at, (name, _))| (name.as_bytes(), at + 1));
        Self { fields: TABLE.iter().map(field).collect(), names: names.collect() }
    }

    /// The field of an index from 1 to [`COUNT`], and its size.
    pub(super) fn get(&self, index: usize) -> Option<&(Field, usize)> {
        self.fields.get(index.checked_sub(1)?)
    }

    /// The first index with a name.
    pub(super) fn index(&self, name: &[u8]) -> Option<usize> {
        self.names.get(name).copied()
    }
}

/// The index with this value, of those with a name: `first` and what follows.
pub(super) fn with_value(first: usize, name: &[u8], value: &[u8]) -> Option<usize> {
    let same_name = TABLE[first - 1..].iter().take_while(|(own, _)| own.as_bytes() == name);
    same_name.zip(first..).find(|((_, own), _)| own.as_bytes() == value).map(|(_, index)| index)
}

/// Indices are 1 to this; those of the dynamic table go on behind it (section 2.3.3).
pub(super) const COUNT: usize = TABLE.len();

static TABLE: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

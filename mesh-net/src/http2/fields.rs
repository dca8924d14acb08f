//! What a request or a reply says of itself (RFC 9113, section 8).

use bytes::Bytes;
use http::{Method, StatusCode};

use crate::header_list::HeaderList;

/// A head, or what follows a message (then `pseudo` is empty).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    pub pseudo: Pseudo,
    /// All others. Values of one name are in the order in which they came. What was sent as never to be indexed is marked
    /// sensitive, and what is so marked is sent that way.
    pub headers: HeaderList,
}

/// Fields whose names begin with a colon (section 8.3). Bytes are as they came: without control characters and without
/// blanks at either end, and nothing more is known of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pseudo {
    pub method: Option<Method>,
    pub scheme: Option<Bytes>,
    pub authority: Option<Bytes>,
    pub path: Option<Bytes>,
    /// What an extended CONNECT asks for (RFC 8441, section 4).
    pub protocol: Option<Bytes>,
    pub status: Option<StatusCode>,
}

impl Pseudo {
    /// A reply's.
    pub fn reply(status: StatusCode) -> Self {
        Self { status: Some(status), ..Self::default() }
    }

    /// Whether there is none, as behind a message.
    pub(super) fn is_none(&self) -> bool {
        !self.is_asking() && self.status.is_none()
    }

    /// Whether there are some that only requests have.
    pub(super) fn is_asking(&self) -> bool {
        self.method.is_some()
            || self.scheme.is_some()
            || self.authority.is_some()
            || self.path.is_some()
            || self.protocol.is_some()
    }
}

impl From<Pseudo> for Fields {
    fn from(pseudo: Pseudo) -> Self {
        Self { pseudo, headers: HeaderList::new() }
    }
}

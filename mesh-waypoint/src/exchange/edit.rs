//! Changes to header fields that an authorizer asks for.

use http::{HeaderName, HeaderValue, header};
use mesh_net::header_list::HeaderList;

/// One line's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    how: How,
    name: HeaderName,
    value: HeaderValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// One line more.
    Append,
    /// In place of all there are.
    Set,
    AddIfAbsent,
    SetIfPresent,
    Remove,
}

impl Edit {
    /// `None`: no such line can be, or it is not for others to write: how a message is framed, and to whom it goes.
    pub(super) fn new(how: How, name: &[u8], value: &[u8]) -> Option<Self> {
        let (name, value) = (HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        (!APART.contains(&name) && name != "keep-alive" && name != "proxy-connection").then_some(Self {
            how,
            name,
            value,
        })
    }

    /// Lines of one name, in place of what is there: all of them, in their order.
    pub(super) fn lines<'a>(
        headers: &'a HeaderList,
        is_meant: impl Fn(&HeaderName) -> bool + 'a,
        first: How,
    ) -> impl Iterator<Item = Self> + 'a {
        headers.keys().filter(move |name| is_meant(name)).flat_map(move |name| {
            let lines = headers.get_all(name).enumerate();
            lines.filter_map(move |(at, value)| {
                let how = if at == 0 { first } else { How::Append };
                Self::new(how, name.as_str().as_bytes(), value.as_bytes())
            })
        })
    }
}

pub(super) fn apply(edits: &[Edit], headers: &mut HeaderList) {
    for Edit { how, name, value } in edits {
        match (how, headers.contains_key(name)) {
            (How::Append, _) => {
                headers.append(name, value.clone());
            }
            (How::Set, _) | (How::AddIfAbsent, false) | (How::SetIfPresent, true) => {
                headers.insert(name, value.clone());
            }
            (How::Remove, _) => {
                headers.remove(name);
            }
            (How::AddIfAbsent, true) | (How::SetIfPresent, false) => {}
        }
    }
}

const APART: [HeaderName; 7] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
];

//! What the first bytes of a connection are.

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    Http1,
    Http2,
    /// A TLS record with a handshake.
    Tls,
    Other,
}

/// HTTP/2's first bytes (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A request line that is longer is no request line: the reference's limit on a whole head.
pub const MOST: usize = 60 << 10;

/// Whether a client that speaks HTTP speaks HTTP/2; `None`: more is needed to tell.
pub fn is_second(first: &[u8]) -> Option<bool> {
    let shared = first.len().min(PREFACE.len());
    match first[..shared] == PREFACE[..shared] {
        true => (shared == PREFACE.len()).then_some(true),
        false => Some(false),
    }
}

/// What `first` begins; `None`: more is needed to tell.
pub fn spoken(first: &[u8]) -> Option<Spoken> {
    if first.is_empty() {
        return None;
    }
    let shared = first.len().min(PREFACE.len());
    if first[..shared] == PREFACE[..shared] {
        return (shared == PREFACE.len()).then_some(Spoken::Http2);
    }
    if first[0] == 0x16 {
        return Some(Spoken::Tls);
    }
    let line = first.iter().position(|byte| *byte == b'\n').map(|end| &first[..end]);
    // A method is a token (RFC 9110, section 5.6.2), then a space, then the target.
    let token = first.iter().position(|byte| !(byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)));
    match (token, line) {
        (Some(0), _) => Some(Spoken::Other),
        (Some(end), _) if first[end] != b' ' => Some(Spoken::Other),
        (_, Some(line)) => {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let is_http = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
            Some(if is_http { Spoken::Http1 } else { Spoken::Other })
        }
        (_, None) if first.len() >= MOST => Some(Spoken::Other),
        (None, None) if first.len() > 32 => Some(Spoken::Other),
        (_, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_bytes_tell_what_is_spoken() {
        for (first, expected) in [
            (&b""[..], None),
            (b"GET", None),
            (b"GET / HTTP/1.1", None),
            (b"GET / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"GET / HTTP/1.0\n", Some(Spoken::Http1)),
            (b"M-SEARCH * HTTP/1.1\r\nhost: x", Some(Spoken::Http1)),
            (b"GET /\r\n", Some(Spoken::Other)),
            (b"PRI * HTTP/2.0\r\n", None),
            (PREFACE, Some(Spoken::Http2)),
            (b"PRI * HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"\x16\x03\x01", Some(Spoken::Tls)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Spoken::Other)),
            (b"PING\r\n", Some(Spoken::Other)),
            (b"\0\0\0\x10", Some(Spoken::Other)),
            (b"\r\n", Some(Spoken::Other)),
            (b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Some(Spoken::Other)),
        ] {
            assert_eq!(spoken(first), expected, "{:?}", String::from_utf8_lossy(first));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_told_in_the_end_and_more_of_them_change_nothing(
            first in prop::collection::vec(any::<u8>(), 0..200), more in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Some(told) = spoken(&first) {
                prop_assert_eq!(spoken(&[&first[..], &more[..]].concat()), Some(told));
            }
        }
    }
}

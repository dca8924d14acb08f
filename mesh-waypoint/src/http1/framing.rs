//! How long a message's body is (RFC 9112, section 6.3), and how one is framed.

use http::{HeaderMap, HeaderName, Method, StatusCode, Version, header};

use super::head::BadHead;
use crate::length;

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many bytes; of 0 there is none.
    Length(u64),
    Chunked,
    /// With its connection.
    Close,
}

/// Of a request. `transfer-encoding` is taken out: it ends here.
///
/// # Errors
/// It could be read in two ways, or is not known: whoever guessed would let requests be hidden in requests.
pub(super) fn of_request(version: Version, headers: &mut HeaderMap) -> Result<Framing, BadHead> {
    let length = length::said(headers)?;
    match chunked(headers)? {
        false => Ok(Framing::Length(length.unwrap_or(0))),
        true if version != Version::HTTP_11 || length.is_some() => Err(BadHead::Framing),
        true => Ok(Framing::Chunked),
    }
}

/// Of the answer to a request of `method`. `transfer-encoding` is taken out, and `content-length` where it does not hold.
///
/// # Errors
/// As [`of_request`].
pub(super) fn of_response(method: &Method, status: StatusCode, headers: &mut HeaderMap) -> Result<Framing, BadHead> {
    let is_chunked = chunked(headers)?;
    if status == StatusCode::NO_CONTENT {
        // It has none to be as long (RFC 9110, section 8.6).
        headers.remove(header::CONTENT_LENGTH);
    }
    if *method == Method::HEAD || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        return Ok(Framing::Length(0));
    }
    if is_chunked {
        // What the reference's parser does not take in a request, it passes over here.
        headers.remove(header::CONTENT_LENGTH);
        return Ok(Framing::Chunked);
    }
    Ok(length::said(headers)?.map_or(Framing::Close, Framing::Length))
}

fn chunked(headers: &mut HeaderMap) -> Result<bool, BadHead> {
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_chunked = match (lines.next(), lines.next()) {
        (None, _) => return Ok(false),
        (Some(one), None) => one.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    headers.remove(header::TRANSFER_ENCODING);
    if is_chunked { Ok(true) } else { Err(BadHead::Framing) }
}

/// How a message is framed, and whom it is for, is not said behind it (RFC 9110, section 6.5.1).
pub(super) fn is_apart(trailer: &HeaderName) -> bool {
    const APART: [HeaderName; 8] = [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::HOST,
        header::CONNECTION,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::AUTHORIZATION,
    ];
    APART.contains(trailer)
}

/// Counts what is written of a body, and frames it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written(pub(super) Framing);

/// A body that is longer or shorter than what was said of it: what would follow is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not as long as content-length says")]
pub(super) struct WrongLength;

impl Written {
    /// For `bytes` more: what goes before and after them.
    pub(super) fn piece(&mut self, bytes: usize) -> Result<(Option<String>, &'static [u8]), WrongLength> {
        match &mut self.0 {
            Framing::Length(left) => {
                *left = left.checked_sub(bytes as u64).ok_or(WrongLength)?;
                Ok((None, b""))
            }
            // None would be the end.
            Framing::Chunked if bytes == 0 => Ok((None, b"")),
            Framing::Chunked => Ok((Some(format!("{bytes:x}\r\n")), b"\r\n")),
            Framing::Close => Ok((None, b"")),
        }
    }

    /// The end. Trailers go only behind chunks.
    pub(super) fn end(self, trailers: Option<&HeaderMap>) -> Result<Vec<u8>, WrongLength> {
        match self.0 {
            Framing::Length(0) | Framing::Close => Ok(Vec::new()),
            Framing::Length(_) => Err(WrongLength),
            Framing::Chunked => {
                let mut end = b"0\r\n".to_vec();
                for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| !is_apart(name)) {
                    end.extend_from_slice(name.as_str().as_bytes());
                    end.extend_from_slice(b": ");
                    end.extend_from_slice(value.as_bytes());
                    end.extend_from_slice(b"\r\n");
                }
                end.extend_from_slice(b"\r\n");
                Ok(end)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines.split(" | ").filter_map(|line| line.split_once(": ")) {
            headers.append(header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_requests_body_is_as_long_as_all_agree() {
        use Framing::{Chunked, Length};
        for (lines, expected) in [
            ("", Ok(Length(0))),
            ("content-length: 5", Ok(Length(5))),
            ("content-length: 0005", Ok(Length(5))),
            ("content-length: 5 | content-length: 5", Ok(Length(5))),
            ("content-length: 5 | content-length: 6", Err(BadHead::Framing)),
            ("content-length: 5, 5", Err(BadHead::Framing)),
            ("content-length: +5", Err(BadHead::Framing)),
            ("content-length: ", Err(BadHead::Framing)),
            ("content-length: 99999999999999999999", Err(BadHead::Framing)),
            ("transfer-encoding: chunked", Ok(Chunked)),
            ("transfer-encoding: CHUNKED", Ok(Chunked)),
            ("transfer-encoding: gzip, chunked", Err(BadHead::Framing)),
            ("transfer-encoding: chunked | transfer-encoding: chunked", Err(BadHead::Framing)),
            ("transfer-encoding: chunked | content-length: 5", Err(BadHead::Framing)),
        ] {
            assert_eq!(of_request(Version::HTTP_11, &mut headers(lines)), expected, "{lines}");
        }
        let chunked = of_request(Version::HTTP_10, &mut headers("transfer-encoding: chunked"));
        assert_eq!(chunked, Err(BadHead::Framing));
        let mut twice = headers("content-length: 5 | content-length: 5");
        assert!(of_request(Version::HTTP_11, &mut twice).is_ok() && twice.len() == 1);
    }

    #[test]
    fn an_answers_body_depends_on_what_was_asked() {
        use Framing::{Chunked, Close, Length};
        for (method, status, lines, expected) in [
            (Method::GET, 200, "content-length: 5", Ok(Length(5))),
            (Method::HEAD, 200, "content-length: 5", Ok(Length(0))),
            (Method::GET, 204, "content-length: 5", Ok(Length(0))),
            (Method::GET, 304, "content-length: 5", Ok(Length(0))),
            (Method::HEAD, 200, "transfer-encoding: chunked", Ok(Length(0))),
            (Method::GET, 200, "", Ok(Close)),
            (Method::GET, 200, "transfer-encoding: chunked | content-length: 5", Ok(Chunked)),
            (Method::GET, 200, "transfer-encoding: gzip", Err(BadHead::Framing)),
            (Method::GET, 200, "content-length: 5 | content-length: 6", Err(BadHead::Framing)),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(of_response(&method, status, &mut headers(lines)), expected, "{method} {status} {lines}");
        }
    }

    #[test]
    fn bodies_are_as_long_as_was_said() {
        let mut body = Written(Framing::Length(3));
        assert_eq!(body.piece(2), Ok((None, &b""[..])));
        assert_eq!(body.end(None), Err(WrongLength));
        assert_eq!(body.piece(2), Err(WrongLength));
        assert_eq!(body.piece(1), Ok((None, &b""[..])));
        assert_eq!(body.end(None), Ok(Vec::new()));
        let mut body = Written(Framing::Chunked);
        assert_eq!(body.piece(26), Ok((Some("1a\r\n".into()), &b"\r\n"[..])));
        assert_eq!(body.piece(0), Ok((None, &b""[..])));
        assert_eq!(body.end(None).unwrap(), b"0\r\n\r\n");
        let trailers = headers("x-sum: 7 | content-length: 5 | host: other");
        assert_eq!(body.end(Some(&trailers)).unwrap(), b"0\r\nx-sum: 7\r\n\r\n");
    }
}

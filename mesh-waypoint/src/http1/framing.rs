//! How long a message's body is (RFC 9112, section 6.3), and what is said of one.

use http::{HeaderName, Method, StatusCode, Version, header};
use mesh_net::header_list::HeaderList;

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
pub(super) fn of_request(version: Version, headers: &mut HeaderList) -> Result<Framing, BadHead> {
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
pub(super) fn of_response(method: &Method, status: StatusCode, headers: &mut HeaderList) -> Result<Framing, BadHead> {
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

/// How a body is said to end under these headers, of which `length` bytes are known to come.
pub(super) fn to_write(headers: &HeaderList, length: Option<u64>, may_chunk: bool) -> Framing {
    match length::promised(headers).ok().flatten().or(length) {
        Some(length) => Framing::Length(length),
        None if may_chunk => Framing::Chunked,
        None => Framing::Close,
    }
}

fn chunked(headers: &mut HeaderList) -> Result<bool, BadHead> {
    let is_chunked = {
        let mut lines = headers.get_all(header::TRANSFER_ENCODING);
        match (lines.next(), lines.next()) {
            (None, _) => return Ok(false),
            (Some(one), None) => one.as_bytes().eq_ignore_ascii_case(b"chunked"),
            (Some(_), Some(_)) => false,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &str) -> HeaderList {
        let mut headers = HeaderList::new();
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
}

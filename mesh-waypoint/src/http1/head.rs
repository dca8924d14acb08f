//! Heads of messages: read from the bytes that came, and written.

use std::mem::MaybeUninit;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
use mesh_net::header_list::HeaderList;
use thiserror::Error;

use super::framing::{self, Framing};
use crate::engine::headers;
use crate::length::TwoWays;

/// A request's head.
#[derive(Debug)]
pub(super) struct RequestHead {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) version: Version,
    pub(super) headers: HeaderList,
    pub(super) body: Framing,
    /// Whether the client will ask again on this connection.
    pub(super) keep_alive: bool,
    /// It sends the body when it is told to go on.
    pub(super) waits: bool,
}

/// An answer's head.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderList,
    pub(super) body: Framing,
    pub(super) keep_alive: bool,
}

/// Nothing that comes behind it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadHead {
    #[error("no HTTP/1: {0}")]
    Syntax(#[from] httparse::Error),
    #[error("the body's length can be read in two ways")]
    Framing,
    /// Nobody asked the connection to become something else, or many words came before the answer.
    #[error("an answer that nobody asked for")]
    Unasked,
    #[error("the head is longer than {0} bytes, or has more than {MOST_FIELDS} fields")]
    TooLong(usize),
    #[error("the head did not come to its end in time")]
    TooSlow,
}

impl From<TwoWays> for BadHead {
    fn from(_: TwoWays) -> Self {
        Self::Framing
    }
}

/// Most fields of a head: the reference's.
const MOST_FIELDS: usize = 100;

/// The request at the beginning of `input`, which is taken out of it; `None`: more has to come.
///
/// # Errors
/// See [`BadHead`].
pub(super) fn request(input: &mut BytesMut, most: usize) -> Result<Option<RequestHead>, BadHead> {
    // Empty lines before a request are none of it (RFC 9112, section 2.2), and not to be looked at again.
    let empty = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    input.advance(if input[..empty].ends_with(b"\r") { empty - 1 } else { empty });
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let read = parsed.parse_with_uninit_headers(input, &mut fields);
    let Some(length) = whole(read, input.len(), most)? else { return Ok(None) };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(httparse::Error::Token.into());
    };
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| httparse::Error::Token)?;
    let target = target.to_owned();
    let version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut headers = map(input, parsed.headers)?;
    let _ = input.split_to(length);
    let body = framing::of_request(version, &mut headers)?;
    let keep_alive = keeps(version, &headers);
    let waits = version == Version::HTTP_11
        && body != Framing::Length(0)
        && headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    Ok(Some(RequestHead { method, target, version, headers, body, keep_alive, waits }))
}

/// The answer to a request of `method` at the beginning of `input`, which is taken out of it; `None`: more has to come.
///
/// # Errors
/// See [`BadHead`].
pub(super) fn response(input: &mut BytesMut, method: &Method, most: usize) -> Result<Option<ResponseHead>, BadHead> {
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let read = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, input, &mut fields);
    let Some(length) = whole(read, input.len(), most)? else { return Ok(None) };
    let (Some(code), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(httparse::Error::Status.into());
    };
    let status = StatusCode::from_u16(code).map_err(|_| httparse::Error::Status)?;
    let version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut headers = map(input, parsed.headers)?;
    let _ = input.split_to(length);
    let keep_alive = keeps(version, &headers);
    let body = match status.is_informational() {
        true => Framing::Length(0),
        false => framing::of_response(method, status, &mut headers)?,
    };
    Ok(Some(ResponseHead { status, headers, body, keep_alive: keep_alive && body != Framing::Close }))
}

/// Bytes of a head of which `came` are there; `None`: more has to come.
fn whole(parsed: httparse::Result<usize>, came: usize, most: usize) -> Result<Option<usize>, BadHead> {
    match parsed {
        Ok(httparse::Status::Complete(length)) if length <= most => Ok(Some(length)),
        Ok(httparse::Status::Partial) if came <= most => Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Err(BadHead::TooLong(most)),
        Err(error) => Err(error.into()),
    }
}

/// The fields as a map, whose values lie in one copy of them all.
fn map(input: &[u8], fields: &[httparse::Header<'_>]) -> Result<HeaderList, BadHead> {
    let mut headers = HeaderList::with_capacity(fields.len() + SPARE);
    let (Some(first), Some(last)) = (fields.first(), fields.last()) else { return Ok(headers) };
    let base = first.name.as_ptr().addr();
    let start = base - input.as_ptr().addr();
    let end = last.value.as_ptr().addr() + last.value.len() - input.as_ptr().addr();
    let block = Bytes::copy_from_slice(&input[start..end.max(start)]);
    for field in fields {
        let name = name(field.name.as_bytes())?;
        let value = match field.value.is_empty() {
            true => HeaderValue::from_static(""),
            false => {
                let at = field.value.as_ptr().addr() - base;
                let bytes = block.slice(at..at + field.value.len());
                HeaderValue::from_maybe_shared(bytes).map_err(|_| httparse::Error::HeaderValue)?
            }
        };
        headers.append(name, value);
    }
    Ok(headers)
}

fn name(bytes: &[u8]) -> Result<HeaderName, BadHead> {
    // What most heads have, as clients write it: it need not be looked up in the table of all names.
    match bytes {
        b"host" | b"Host" => return Ok(header::HOST),
        b"date" | b"Date" => return Ok(header::DATE),
        b"accept" | b"Accept" => return Ok(header::ACCEPT),
        b"server" | b"Server" => return Ok(header::SERVER),
        b"cookie" | b"Cookie" => return Ok(header::COOKIE),
        b"user-agent" | b"User-Agent" => return Ok(header::USER_AGENT),
        b"connection" | b"Connection" => return Ok(header::CONNECTION),
        b"content-type" | b"Content-Type" => return Ok(header::CONTENT_TYPE),
        b"authorization" | b"Authorization" => return Ok(header::AUTHORIZATION),
        b"content-length" | b"Content-Length" => return Ok(header::CONTENT_LENGTH),
        b"accept-encoding" | b"Accept-Encoding" => return Ok(header::ACCEPT_ENCODING),
        b"accept-language" | b"Accept-Language" => return Ok(header::ACCEPT_LANGUAGE),
        _ => {}
    }
    // Nearly all that are not among those of the standards: what is known needs no memory of its own.
    static KNOWN: [HeaderName; 6] = [
        headers::REQUEST_ID,
        headers::FORWARDED_FOR,
        headers::FORWARDED_PROTO,
        headers::SERVICE_TIME,
        HeaderName::from_static("traceparent"),
        HeaderName::from_static("tracestate"),
    ];
    if let [b'x' | b't', ..] = bytes
        && let Some(known) = KNOWN.iter().find(|known| known.as_str().as_bytes() == bytes)
    {
        return Ok(known.clone());
    }
    Ok(HeaderName::from_bytes(bytes).map_err(|_| httparse::Error::HeaderName)?)
}

/// Fields that a request or an answer gets here: none of them makes the map grow.
const SPARE: usize = 6;

fn keeps(version: Version, headers: &HeaderList) -> bool {
    let says = |word: &[u8]| {
        let lines = headers.get_all(header::CONNECTION);
        lines.flat_map(|line| line.as_bytes().split(|b| *b == b',')).any(|w| w.trim_ascii().eq_ignore_ascii_case(word))
    };
    match version {
        Version::HTTP_10 => says(b"keep-alive") && !says(b"close"),
        _ => !says(b"close"),
    }
}

/// Writes a request's head; `framing` of a body of which nothing needs to be said is `None`.
pub(super) fn write_request(
    out: &mut BytesMut,
    method: &Method,
    target: &str,
    host: &str,
    headers: &HeaderList,
    framing: Option<Framing>,
    upgrade: Option<&HeaderValue>,
) {
    out.reserve(HEAD);
    put(out, &[method.as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\nhost: ", host.as_bytes(), b"\r\n"]);
    fields(out, headers);
    if let Some(upgrade) = upgrade {
        put(out, &[b"connection: upgrade\r\nupgrade: ", upgrade.as_bytes(), b"\r\n"]);
    }
    framed(out, headers, framing);
}

/// Writes an answer's head.
pub(super) fn write_response(
    out: &mut BytesMut,
    version: Version,
    status: StatusCode,
    headers: &HeaderList,
    framing: Option<Framing>,
    connection: Option<&'static str>,
) {
    out.reserve(HEAD);
    let version: &[u8] = if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
    let reason = status.canonical_reason().unwrap_or("Unknown").as_bytes();
    put(out, &[version, status.as_str().as_bytes(), b" ", reason, b"\r\n"]);
    fields(out, headers);
    if let Some(connection) = connection {
        put(out, &[b"connection: ", connection.as_bytes(), b"\r\n"]);
    }
    framed(out, headers, framing);
}

fn fields(out: &mut BytesMut, headers: &HeaderList) {
    for (name, value) in headers {
        put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
}

/// The last field, and the head's end.
fn framed(out: &mut BytesMut, headers: &HeaderList, framing: Option<Framing>) {
    match framing {
        Some(Framing::Length(length)) if !headers.contains_key(header::CONTENT_LENGTH) => {
            put(out, &[b"content-length: ", itoa::Buffer::new().format(length).as_bytes(), b"\r\n"]);
        }
        Some(Framing::Chunked) => out.put_slice(b"transfer-encoding: chunked\r\n"),
        _ => {}
    }
    out.put_slice(b"\r\n");
}

fn put(out: &mut BytesMut, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Room for most heads.
const HEAD: usize = 512;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Option<RequestHead>, BadHead> {
        request(&mut BytesMut::from(text), 1000)
    }

    #[test]
    fn a_head_is_read_when_it_is_whole_and_taken_out() {
        let text =
            "POST /a?b HTTP/1.1\r\nHost: x\r\nX-Empty:\r\nContent-Length:  2  \r\nX-A: 1\r\nx-a: \t2\r\n\r\nhiGET";
        let end = text.find("hiGET").unwrap();
        for cut in 0..end {
            assert!(read(&text[..cut]).unwrap().is_none(), "{cut}");
        }
        let mut input = BytesMut::from(text);
        let head = request(&mut input, 1000).unwrap().unwrap();
        assert_eq!(&input[..], b"hiGET");
        assert_eq!((head.method, &*head.target, head.version), (Method::POST, "/a?b", Version::HTTP_11));
        let lines: Vec<_> = head.headers.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
        assert_eq!(lines, ["host=x", "x-empty=", "content-length=2", "x-a=1", "x-a=2"]);
        assert!((head.body, head.keep_alive, head.waits) == (Framing::Length(2), true, false));
    }

    #[test]
    fn connections_are_kept_as_both_sides_say() {
        for (head, kept) in [
            ("GET / HTTP/1.1\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
        ] {
            assert_eq!(read(head).unwrap().unwrap().keep_alive, kept, "{head}");
        }
        let answer = |text: &str| response(&mut BytesMut::from(text), &Method::GET, 1000).unwrap().unwrap().keep_alive;
        assert!(answer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
        assert!(!answer("HTTP/1.1 200 OK\r\n\r\n"), "it ends with the connection");
        assert!(answer("HTTP/1.1 204 \r\n\r\n"));
    }

    #[test]
    fn heads_have_an_end_and_a_number_of_fields() {
        let long = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(2000));
        assert_eq!(read(&long).unwrap_err(), BadHead::TooLong(1000));
        assert_eq!(read(&format!("{long}\r\n\r\n")).unwrap_err(), BadHead::TooLong(1000));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101));
        assert_eq!(read(&many).unwrap_err(), BadHead::TooLong(1000));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut headers = HeaderList::new();
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_static("2"));
        let mut out = BytesMut::new();
        write_request(&mut out, &Method::PUT, "/p?q", "web:80", &headers, Some(Framing::Length(7)), None);
        let head = request(&mut out, 1000).unwrap().unwrap();
        assert_eq!((head.method, &*head.target, head.body), (Method::PUT, "/p?q", Framing::Length(7)));
        assert_eq!(head.headers.get("host").unwrap(), "web:80");
        let mut out = BytesMut::new();
        write_response(
            &mut out,
            Version::HTTP_11,
            StatusCode::NOT_FOUND,
            &headers,
            Some(Framing::Chunked),
            Some("close"),
        );
        let head = response(&mut out, &Method::GET, 1000).unwrap().unwrap();
        assert_eq!((head.status, head.body, head.keep_alive), (StatusCode::NOT_FOUND, Framing::Chunked, false));
    }

    proptest! {
        #[test]
        fn arbitrary_heads_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = request(&mut BytesMut::from(&bytes[..]), 200);
            let _ = response(&mut BytesMut::from(&bytes[..]), &Method::GET, 200);
        }

        #[test]
        fn damaged_heads_never_panic(at in 0..70_usize, byte: u8) {
            let mut text = *b"POST /a?b HTTP/1.1\r\nHost: x\r\nX-Empty:\r\nContent-Length:  2  \r\nX-A: 1\r\n\r\n";
            text[at] = byte;
            let _ = request(&mut BytesMut::from(&text[..]), 200);
        }
    }
}

//! Bodies in chunks (RFC 9112, section 7.1), as they arrive in pieces of any size.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::framing;

/// Where in the body the next byte lies.
#[derive(Debug)]
pub(super) struct Chunks(State);

#[derive(Debug)]
enum State {
    /// In a chunk's size, or the line end behind the chunk before.
    Size,
    Data(u64),
    /// In the line end behind a chunk.
    Behind,
    Trailers {
        kept: HeaderMap,
        /// Bytes of all that came.
        bytes: usize,
    },
    Over,
}

/// What comes next of a body.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// More has to come.
    More,
}

/// They are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not in chunks as it says")]
pub(super) struct NoChunks;

impl Chunks {
    pub(super) fn new() -> Self {
        Self(State::Size)
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.0, State::Over)
    }

    /// The next piece in `input`, which is taken out of it.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Piece, NoChunks> {
        loop {
            match &mut self.0 {
                State::Size => {
                    let Some(line) = line(input)? else { return Ok(Piece::More) };
                    self.0 = match size(&line)? {
                        0 => State::Trailers { kept: HeaderMap::new(), bytes: 0 },
                        size => State::Data(size),
                    };
                }
                State::Data(left) => {
                    if input.is_empty() {
                        return Ok(Piece::More);
                    }
                    let some = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                    *left -= some as u64;
                    if *left == 0 {
                        self.0 = State::Behind;
                    }
                    return Ok(Piece::Data(input.split_to(some).freeze()));
                }
                State::Behind => {
                    match &input[..] {
                        [b'\r', b'\n', ..] => input.advance(2),
                        [] | [b'\r'] => return Ok(Piece::More),
                        _ => return Err(NoChunks),
                    }
                    self.0 = State::Size;
                }
                State::Trailers { kept, bytes } => {
                    let Some(line) = line(input)? else { return Ok(Piece::More) };
                    if line.is_empty() {
                        let trailers = std::mem::take(kept);
                        self.0 = State::Over;
                        return Ok(if trailers.is_empty() { Piece::End } else { Piece::Trailers(trailers) });
                    }
                    *bytes += line.len();
                    if kept.len() >= MOST_TRAILERS || *bytes > MOST_BEHIND {
                        return Err(NoChunks);
                    }
                    let (name, value) = field(&line)?;
                    if !framing::is_apart(&name) {
                        kept.append(name, value);
                    }
                }
                State::Over => return Ok(Piece::End),
            }
        }
    }
}

/// A whole line, without its end. A bare CR is none, and a bare LF neither: whoever is behind may see it otherwise.
fn line(input: &mut BytesMut) -> Result<Option<BytesMut>, NoChunks> {
    let Some(end) = input.iter().take(MOST_LINE).position(|byte| *byte == b'\n') else {
        return if input.len() < MOST_LINE { Ok(None) } else { Err(NoChunks) };
    };
    let mut line = input.split_to(end + 1);
    line.truncate(end);
    if line.last() != Some(&b'\r') {
        return Err(NoChunks);
    }
    line.truncate(end - 1);
    if line.contains(&b'\r') { Err(NoChunks) } else { Ok(Some(line)) }
}

/// Hexadecimal; extensions are passed over.
fn size(line: &[u8]) -> Result<u64, NoChunks> {
    let end = line.iter().position(|byte| matches!(byte, b';' | b' ' | b'\t')).unwrap_or(line.len());
    let (digits, rest) = line.split_at(end);
    let rest = rest.trim_ascii_start();
    let is_extension = rest.is_empty() || rest[0] == b';';
    let is_hex = !digits.is_empty() && digits.len() <= 15 && digits.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| is_hex && is_extension).ok_or(NoChunks)?;
    u64::from_str_radix(digits, 16).map_err(|_| NoChunks)
}

fn field(line: &[u8]) -> Result<(HeaderName, HeaderValue), NoChunks> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(NoChunks)?;
    let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| NoChunks)?;
    let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).map_err(|_| NoChunks)?;
    Ok((name, value))
}

/// Longest line of a size with its extensions, or of a trailer.
const MOST_LINE: usize = 8 << 10;
const MOST_TRAILERS: usize = 100;
/// Bytes of all of them, and of those that are passed over: as many as a head may have.
const MOST_BEHIND: usize = 60 << 10;

#[cfg(test)]
mod tests {
    use http_body::Frame;
    use proptest::prelude::*;

    use super::super::framing::Framing;
    use super::super::written::Written;
    use super::*;
    use crate::outbox::Outbox;

    /// Data and trailers of what comes in pieces of `most` bytes, and what is left behind it; `Ok(None)`: more has to come.
    #[allow(clippy::type_complexity)]
    fn read(bytes: &[u8], most: usize) -> Result<Option<(Vec<u8>, Vec<String>, usize)>, NoChunks> {
        let (mut chunks, mut input, mut data) = (Chunks::new(), BytesMut::new(), Vec::new());
        let mut pieces = bytes.chunks(most);
        let mut named = Vec::new();
        loop {
            match chunks.next(&mut input)? {
                Piece::Data(some) => data.extend_from_slice(&some),
                Piece::Trailers(trailers) => {
                    named = trailers.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap_or("?"))).collect();
                }
                Piece::End => {
                    let left = input.len() + pieces.map(<[u8]>::len).sum::<usize>();
                    return Ok(Some((data, named, left)));
                }
                Piece::More => match pieces.next() {
                    Some(piece) => input.extend_from_slice(piece),
                    None => return Ok(None),
                },
            }
            if chunks.is_over() && !named.is_empty() {
                let left = input.len() + pieces.map(<[u8]>::len).sum::<usize>();
                return Ok(Some((data, named, left)));
            }
        }
    }

    #[test]
    fn chunks_are_read_however_they_come() {
        let body = b"5\r\nhello\r\n1a;name=\"v\"\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nX-Sum: 7\r\nHost: no\r\n\r\nGET";
        for most in 1..body.len() {
            let (data, trailers, left) = read(body, most).unwrap().unwrap();
            assert_eq!(data, b"helloabcdefghijklmnopqrstuvwxyz");
            assert_eq!((trailers, left), (vec!["x-sum=7".to_owned()], 3), "in pieces of {most}");
        }
        assert_eq!(read(b"0\r\n\r\n", 9).unwrap().unwrap(), (vec![], vec![], 0));
        assert_eq!(read(b"5\r\nhel", 9).unwrap(), None);
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for body in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "0x5\r\nhello\r\n",
            "5\nhello\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhelloX\r\n",
            "5 5\r\nhello\r\n",
            "1000000000000000\r\n",
            "5\rx\r\nhello",
            "0\r\nno colon\r\n\r\n",
            "0\r\nx : 1\r\n\r\n",
            "0\r\nx: 1\n\r\n",
            " 5\r\nhello\r\n",
        ] {
            assert_eq!(read(body.as_bytes(), 100), Err(NoChunks), "{body:?}");
        }
        assert_eq!(read(format!("5;{}", "x".repeat(9000)).as_bytes(), 1000), Err(NoChunks));
        let passed_over = "host: x\r\n".repeat(10_000);
        assert_eq!(read(format!("0\r\n{passed_over}").as_bytes(), 1000), Err(NoChunks));
        let many = (0..101).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
        assert_eq!(read(format!("0\r\n{many}\r\n").as_bytes(), 1000), Err(NoChunks));
    }

    proptest! {
        #[test]
        fn arbitrary_chunks_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), most in 1..50_usize) {
            let _ = read(&bytes, most);
        }

        #[test]
        fn what_is_written_is_read(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..6), most in 1..500_usize) {
            let (mut written, mut out) = (Written(Framing::Chunked), Outbox::default());
            for piece in &pieces {
                written.put(Some(Frame::data(piece.clone().into())), true, &mut out).unwrap();
            }
            prop_assert_eq!(written.put(None, true, &mut out), Ok(true));
            let (wire, whole) = (out.to_vec(), pieces.concat());
            prop_assert_eq!(read(&wire, most), Ok(Some((whole, vec![], 0))));
        }
    }
}

//! A body on its way out, in its frame.

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::framing::{Framing, is_apart};
use crate::outbox::Outbox;

/// Counts what is written of a body, and frames it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written(pub(super) Framing);

/// A body that is longer or shorter than what was said of it: what would follow is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not as long as content-length says")]
pub(super) struct WrongLength;

impl Written {
    /// Takes the next piece, of which `None` is the end; whether it was the last.
    pub(super) fn put(
        &mut self,
        frame: Option<Frame<Bytes>>,
        takes_trailers: bool,
        out: &mut Outbox,
    ) -> Result<bool, WrongLength> {
        match frame.map(Frame::into_data) {
            Some(Ok(data)) => {
                let (before, after) = self.piece(data.len())?;
                out.put(before.unwrap_or_default().as_bytes());
                out.put_bytes(data);
                out.put(after);
                return Ok(false);
            }
            Some(Err(frame)) => out.put(&self.end(frame.trailers_ref().filter(|_| takes_trailers))?),
            None => out.put(&self.end(None)?),
        }
        Ok(true)
    }

    /// For `bytes` more: what goes before and after them.
    fn piece(&mut self, bytes: usize) -> Result<(Option<String>, &'static [u8]), WrongLength> {
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
    fn end(self, trailers: Option<&HeaderMap>) -> Result<Vec<u8>, WrongLength> {
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
        let mut trailers = HeaderMap::new();
        for (name, value) in [("x-sum", "7"), ("content-length", "5"), ("host", "other")] {
            trailers.insert(name, value.parse().unwrap());
        }
        assert_eq!(body.end(Some(&trailers)).unwrap(), b"0\r\nx-sum: 7\r\n\r\n");
    }
}

//! A body as it arrives: where its end lies.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::chunks::{Chunks, NoChunks, Piece};
use super::framing::Framing;

/// Where the end of a body that arrives lies.
#[derive(Debug)]
pub(super) enum Rest {
    Length(u64),
    Chunks(Chunks),
    Close,
    Over,
}

/// A piece of a body.
pub(super) enum Arrived {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    More,
}

impl From<Framing> for Rest {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => Self::Over,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunks(Chunks::new()),
            Framing::Close => Self::Close,
        }
    }
}

impl Rest {
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// Bytes that are still to come, if that is known.
    pub(super) fn length(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Over => Some(0),
            Self::Chunks(_) | Self::Close => None,
        }
    }

    /// The whole of a body that has come already.
    pub(super) fn whole(&mut self, input: &mut BytesMut) -> Option<Bytes> {
        match self {
            Self::Length(length) if *length <= input.len() as u64 => {
                let whole = input.split_to(*length as usize).freeze();
                *self = Self::Over;
                Some(whole)
            }
            _ => None,
        }
    }

    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Arrived, NoChunks> {
        match self {
            Self::Over => Ok(Arrived::End),
            _ if input.is_empty() => Ok(Arrived::More),
            Self::Length(left) => {
                let some = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= some as u64;
                if *left == 0 {
                    *self = Self::Over;
                }
                Ok(Arrived::Data(taken(input, some)))
            }
            Self::Close => {
                let all = input.len();
                Ok(Arrived::Data(taken(input, all)))
            }
            Self::Chunks(chunks) => {
                let piece = chunks.next(input)?;
                if chunks.is_over() {
                    *self = Self::Over;
                }
                Ok(match piece {
                    Piece::Data(data) => Arrived::Data(data),
                    Piece::Trailers(trailers) => Arrived::Trailers(trailers),
                    Piece::End => Arrived::End,
                    Piece::More => Arrived::More,
                })
            }
        }
    }
}

/// All of it goes with its memory.
fn taken(input: &mut BytesMut, some: usize) -> Bytes {
    match some == input.len() {
        true => std::mem::take(input).freeze(),
        false => input.split_to(some).freeze(),
    }
}

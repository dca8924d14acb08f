//! Records of TLS 1.3 (RFC 8446, section 5), sealed and opened where they lie. Pure: no sockets, no memory of its own.
//!
//! ```text
//! | 23 | 3 3 | length | content ............ | type | zeros | tag (16) |
//!   <---- header ---->  <------ AES-GCM, header authenticated ------->
//! ```

use std::ops::Range;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::{AlertDescription, ConnectionTrafficSecrets, ContentType};
use thiserror::Error;

/// Bytes of a record's header.
pub(super) const HEADER: usize = 5;
/// Most content of a record (RFC 8446, section 5.1).
pub(super) const CONTENT: usize = 1 << 14;
/// Bytes that a record of ours is longer than its content: we add no zeros.
pub(super) const OVERHEAD: usize = HEADER + 1 + TAG;
/// Longest record of a peer (RFC 8446, section 5.2).
pub(super) const LONGEST: usize = HEADER + CONTENT + 256;

const TAG: usize = 16;
/// Content of a record whose header says application data: everything after the handshake.
const APPLICATION_DATA: u8 = 23;

/// How a peer broke the rules. Fatal; the alert tells it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Violation {
    #[error("a record is longer than TLS allows")]
    Overflow,
    #[error("a record was changed on its way, or sealed with another key")]
    Forged,
    #[error("a record that does not belong here")]
    Unexpected,
    #[error("a message that cannot be read")]
    Malformed,
    #[error("messages without data, one after the other")]
    Flood,
    #[error("the next keys cannot be made")]
    Keys,
}

impl Violation {
    pub(super) fn alert(self) -> AlertDescription {
        match self {
            Self::Overflow => AlertDescription::RecordOverflow,
            Self::Forged => AlertDescription::BadRecordMac,
            Self::Unexpected | Self::Flood => AlertDescription::UnexpectedMessage,
            Self::Malformed => AlertDescription::DecodeError,
            Self::Keys => AlertDescription::InternalError,
        }
    }
}

/// One direction's key, and how often it was used.
pub(super) struct Key {
    key: LessSafeKey,
    iv: [u8; 12],
    /// Records sealed or opened with this key: the number of the next (RFC 8446, section 5.3).
    pub(super) sequence: u64,
}

impl Key {
    /// # Errors
    /// [`Violation::Keys`]: the cipher is not AES-GCM, which is all that is offered.
    pub(super) fn new(sequence: u64, secrets: ConnectionTrafficSecrets) -> Result<Self, Violation> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            _ => return Err(Violation::Keys),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Violation::Keys)?;
        let iv = iv.as_ref().try_into().map_err(|_| Violation::Keys)?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence })
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals `content`, [`CONTENT`] bytes at most, as one record at the start of `out`; yields its length.
    ///
    /// # Panics
    /// `out` is shorter than the content and [`OVERHEAD`].
    pub(super) fn seal(&mut self, kind: ContentType, content: &[u8], out: &mut [u8]) -> usize {
        out[HEADER..HEADER + content.len()].copy_from_slice(content);
        self.seal_in_place(kind, out, content.len())
    }

    /// Seals the `length` bytes of content that lie behind the header's place at the start of `record`, as one record where
    /// they are; yields its length.
    ///
    /// # Panics
    /// `record` is shorter than the content and [`OVERHEAD`].
    pub(super) fn seal_in_place(&mut self, kind: ContentType, record: &mut [u8], length: usize) -> usize {
        let header = header(length + 1 + TAG);
        let (nonce, aad) = (self.nonce(), Aad::from(header));
        let (head, rest) = record.split_at_mut(HEADER);
        let (content, rest) = rest.split_at_mut(length);
        head.copy_from_slice(&header);
        let sealed = self.key.seal_in_place_scatter(nonce, aad, content, &[u8::from(kind)], &mut rest[..1 + TAG]);
        // It fails for wrong lengths only, and these are right.
        sealed.expect("AES-GCM seals what fits a record");
        length + OVERHEAD
    }

    /// Opens a record in place; yields its type and where its content is.
    ///
    /// # Errors
    /// See [`Violation`].
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<(ContentType, Range<usize>), Violation> {
        if record[0] != APPLICATION_DATA {
            return Err(Violation::Unexpected);
        }
        let (header, sealed) = record.split_at_mut(HEADER);
        if sealed.len() < TAG {
            return Err(Violation::Forged);
        }
        let (nonce, aad) = (self.nonce(), Aad::from(&*header));
        let opened = self.key.open_in_place(nonce, aad, sealed).map_err(|_| Violation::Forged)?;
        // The type is the last byte that is not padding (RFC 8446, section 5.4).
        let end = opened.iter().rposition(|byte| *byte != 0).ok_or(Violation::Unexpected)?;
        if end > CONTENT {
            return Err(Violation::Overflow);
        }
        Ok((ContentType::from(opened[end]), HEADER..HEADER + end))
    }
}

fn header(length: usize) -> [u8; HEADER] {
    let length = u16::try_from(length).expect("a record is shorter than 64 KiB").to_be_bytes();
    [APPLICATION_DATA, 3, 3, length[0], length[1]]
}

/// Length, with its header, of the record at the start of `bytes`, if that much is known.
///
/// # Errors
/// [`Violation::Overflow`]
pub(super) fn length(bytes: &[u8]) -> Result<Option<usize>, Violation> {
    let [_, _, _, high, low, ..] = bytes else { return Ok(None) };
    let length = HEADER + usize::from(u16::from_be_bytes([*high, *low]));
    if length > LONGEST { Err(Violation::Overflow) } else { Ok(Some(length)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_told_once_the_header_is_there() {
        assert_eq!(length(&[]), Ok(None));
        assert_eq!(length(&[23, 3, 3, 1]), Ok(None));
        assert_eq!(length(&[23, 3, 3, 1, 2]), Ok(Some(263)));
        assert_eq!(length(&[23, 3, 3, 0x41, 0]), Ok(Some(LONGEST)));
        assert_eq!(length(&[23, 3, 3, 0x41, 1]), Err(Violation::Overflow));
    }
}

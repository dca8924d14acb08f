//! Field sections: what a request or a reply says of itself (RFC 9113, section 8), through HPACK (RFC 7541).

use loona_hpack::encoder::encode_integer_into;
use loona_hpack::{Decoder, Encoder};

/// Names and values in the order in which they came; pseudo-fields, whose names begin with a colon, are first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<(Vec<u8>, Vec<u8>)>);

impl Fields {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (&name[..], &value[..]))
    }

    /// The value of a field that is there once.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let mut values = self.iter().filter(|(own, _)| *own == name).map(|(_, value)| value);
        values.next().filter(|_| values.next().is_none())
    }

    /// What holds for every message (sections 8.2 and 8.3): lower-case names, no characters that could be taken for a
    /// line's end, pseudo-fields first, once and only such as are known, none that speak of the connection.
    fn is_well_formed(&self) -> bool {
        let mut regular = false;
        let mut pseudo = Vec::new();
        self.iter().all(|(name, value)| {
            let value_fits = !value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'))
                && !matches!(value.first(), Some(b' ' | b'\t'))
                && !matches!(value.last(), Some(b' ' | b'\t'));
            let name_fits = match name.strip_prefix(b":") {
                Some(_) => {
                    let known = PSEUDO.contains(&name) && !regular && !pseudo.contains(&name);
                    pseudo.push(name);
                    known
                }
                None => {
                    regular = true;
                    !name.is_empty() && name.iter().all(|byte| is_token(*byte)) && !OF_CONNECTIONS.contains(&name)
                }
            };
            value_fits && name_fits && (name != b"te" || value == b"trailers")
        })
    }
}

impl<N: Into<Vec<u8>>, V: Into<Vec<u8>>> FromIterator<(N, V)> for Fields {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(fields: T) -> Self {
        Self(fields.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

const PSEUDO: [&[u8]; 6] = [b":method", b":scheme", b":authority", b":path", b":protocol", b":status"];
const OF_CONNECTIONS: [&[u8]; 5] =
    [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"];

/// A token (RFC 9110, section 5.6.2) without upper case.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What a peer's field section is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    Fields(Fields),
    /// Larger than we said we take, or against the rules of messages: the stream's fault, not the connection's.
    Malformed,
}

/// Reads field sections, one after the other, of one peer.
pub(super) struct Reader(Decoder<'static>);

impl Reader {
    pub(super) fn new() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(TABLE);
        Self(decoder)
    }

    /// Reads one; fields of more than `most` bytes, counted as section 6.5.2 does, are passed over.
    ///
    /// # Errors
    /// It is no HPACK: the connection's table is lost with it.
    pub(super) fn read(&mut self, block: &[u8], most: usize) -> Result<Decoded, NotHpack> {
        let mut fields = Vec::new();
        let mut size = 0_usize;
        let read = self.0.decode_with_cb(block, |name, value| {
            size = size.saturating_add(name.len() + value.len() + OVERHEAD);
            if size <= most {
                fields.push((name.into_owned(), value.into_owned()));
            }
        });
        read.map_err(|_| NotHpack)?;
        let fields = Fields(fields);
        if size > most || !fields.is_well_formed() { Ok(Decoded::Malformed) } else { Ok(Decoded::Fields(fields)) }
    }
}

/// A field section that no HPACK encoder wrote.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotHpack;

/// Writes field sections for one peer.
pub(super) struct Writer {
    encoder: Encoder<'static>,
    size: usize,
    /// A table size to tell the peer of, before the next section.
    resized: bool,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { encoder: Encoder::new(), size: TABLE, resized: false }
    }

    /// The peer's table takes `size` bytes.
    pub(super) fn resize(&mut self, size: u32) {
        let size = (size as usize).min(TABLE);
        if size != self.size {
            self.encoder.set_max_table_size(size);
            (self.size, self.resized) = (size, true);
        }
    }

    pub(super) fn write<'a>(&mut self, fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
        let mut block = Vec::new();
        if std::mem::take(&mut self.resized) {
            // RFC 7541, section 6.3. A vector takes everything.
            let _ = encode_integer_into(self.size, 5, 0x20, &mut block);
        }
        let _ = self.encoder.encode_into(fields, &mut block);
        block
    }
}

/// Bytes of a table unless SETTINGS say otherwise (RFC 9113, section 6.5.2), and what we ask for.
const TABLE: usize = 4096;
/// What each field counts beside its characters.
const OVERHEAD: usize = 32;

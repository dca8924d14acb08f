//! HPACK (RFC 7541): field sections as they travel.
//!
//! ```text
//! bytes --Decoder::decode--> Decoded::Fields | Decoded::Malformed        one decoder for each peer, sections in their order
//! Fields --Encoder::encode--> bytes                                      one encoder likewise
//! ```

pub(super) mod decoder;
pub(super) mod encoder;
mod section;
mod mirror;
mod fixed;
mod field;
mod huffman;
mod integer;

/// Bytes of a dynamic table unless SETTINGS say otherwise (RFC 9113, section 6.5.2), and the most that we use.
const TABLE: usize = 4096;
/// What each field counts beside its characters, in a table (section 4.1) and in a section (RFC 9113, section 6.5.2).
const OVERHEAD: usize = 32;

/// A field section that no HPACK encoder wrote: the connection's table is lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotHpack;

#[cfg(test)]
mod tests;

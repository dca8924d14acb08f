//! Responses as they go over the wire: what many agents are told alike is encoded, and compressed, once for all of them.
//!
//! A gRPC message of two pieces is what makes that possible. Concatenated protobuf messages are one message, and concatenated
//! Zstandard frames are one stream (RFC 8878, section 3): a small head for this agent, and a part that is the same bytes for all.

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use mesh_core::wire::discovery::DeltaDiscoveryResponse;
use prost::Message;

use crate::store::part::{Part, encode, encoded_len};

/// A delta discovery response whose resources were encoded before.
#[derive(Clone, Default)]
pub(crate) struct Response {
    /// Everything but the resources.
    pub(crate) head: DeltaDiscoveryResponse,
    /// Each a `Resource` message.
    pub(crate) resources: Vec<Bytes>,
    /// Further resources, shared with other responses.
    pub(crate) part: Option<Arc<Part>>,
}

/// A gRPC message's flag and length.
const PREFIX_BYTES: usize = 5;

impl Response {
    pub(crate) fn resources(&self) -> usize {
        self.resources.len() + self.part.as_ref().map_or(0, |part| part.len())
    }

    /// The message with its prefix, in pieces. `zstd`: the agent takes messages that are compressed so.
    pub(crate) fn frames(&self, zstd: bool) -> Vec<Bytes> {
        let own = PREFIX_BYTES + self.head.encoded_len() + encoded_len(&self.resources);
        let mut own = BytesMut::with_capacity(own);
        own.put_bytes(0, PREFIX_BYTES);
        // A buffer that grows cannot lack room.
        let _ = self.head.encode(&mut own);
        encode(&self.resources, &mut own);
        let Some(part) = &self.part else {
            set_prefix(&mut own, false, 0);
            return vec![own.freeze()];
        };
        let packed = if zstd { part.packed() } else { None };
        let (mut own, shared, compressed) = match packed.and_then(|packed| Some((raw_frame(&own)?, packed))) {
            Some((own, packed)) => (own, packed, true),
            None => (own, part.plain(), false),
        };
        set_prefix(&mut own, compressed, shared.len());
        vec![own.freeze(), shared]
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("type_url", &self.head.type_url)
            .field("nonce", &self.head.nonce)
            .field("resources", &self.resources())
            .field("removed", &self.head.removed_resources.len())
            .finish()
    }
}

/// Fills in the prefix that `own` begins with; `shared` bytes follow it.
fn set_prefix(own: &mut BytesMut, compressed: bool, shared: usize) {
    // Parts end at a megabyte, and names are bounded by what fits into a request.
    let length = u32::try_from(own.len() - PREFIX_BYTES + shared).unwrap_or(u32::MAX);
    own[0] = u8::from(compressed);
    own[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
}

/// A prefix, and what stands behind that of `own` as a Zstandard frame of one block that is not compressed (RFC 8878,
/// section 3.1.1). None if it is too long for one.
fn raw_frame(own: &[u8]) -> Option<BytesMut> {
    const MAX_BLOCK: usize = 128 << 10;
    const MAGIC: u32 = 0xfd2f_b528;
    /// One segment, of which the size is told in four bytes; no checksum, no dictionary.
    const DESCRIPTOR: u8 = 0b1010_0000;
    /// The last block, raw.
    const LAST: u32 = 1;
    let content = &own[PREFIX_BYTES..];
    let size = u32::try_from(content.len()).ok().filter(|size| *size as usize <= MAX_BLOCK)?;
    let mut frame = BytesMut::with_capacity(own.len() + 12);
    frame.put_bytes(0, PREFIX_BYTES);
    frame.put_u32_le(MAGIC);
    frame.put_u8(DESCRIPTOR);
    frame.put_u32_le(size);
    frame.put_uint_le(u64::from((size << 3) | LAST), 3);
    frame.put_slice(content);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(names: &[&str], removed: usize) -> Response {
        let resource = |name: &&str| {
            let name = (*name).to_owned();
            mesh_core::wire::discovery::Resource { name, ..Default::default() }.encode_to_vec().into()
        };
        let removed_resources = (0..removed).map(|n| format!("gone-{n}")).collect();
        let head = DeltaDiscoveryResponse { nonce: "7".into(), removed_resources, ..Default::default() };
        let part = Part::new(names.iter().map(resource).collect());
        Response { head, resources: vec![resource(&"own")], part: Some(Arc::new(part)) }
    }

    /// As a peer reads it.
    fn read(frames: &[Bytes]) -> (bool, DeltaDiscoveryResponse) {
        let whole = frames.concat();
        let (prefix, body) = whole.split_at(PREFIX_BYTES);
        assert_eq!(prefix[1..], u32::try_from(body.len()).unwrap().to_be_bytes());
        let compressed = prefix[0] == 1;
        let body = if compressed { zstd::stream::decode_all(body).unwrap() } else { body.to_vec() };
        (compressed, DeltaDiscoveryResponse::decode(body.as_slice()).unwrap())
    }

    #[test]
    fn a_shared_part_is_read_alike_compressed_and_not() {
        let response = response(&["a", "b"], 3);
        let (compressed, plain) = read(&response.frames(false));
        assert!(!compressed);
        let names: Vec<&str> = plain.resources.iter().map(|r| r.name.as_str()).collect();
        assert_eq!((names, plain.removed_resources.len()), (vec!["own", "a", "b"], 3));
        assert_eq!(read(&response.frames(true)), (true, plain));
        // Twice the same bytes, not a copy of them.
        assert_eq!(response.frames(true)[1].as_ptr(), response.frames(true)[1].as_ptr());
    }

    #[test]
    fn a_head_too_long_for_a_block_goes_uncompressed() {
        let (compressed, told) = read(&response(&["a"], 20_000).frames(true));
        assert!(!compressed);
        assert_eq!(told.removed_resources.len(), 20_000);
    }
}

//! Resources that are told together, to many: encoded once, and compressed once for those who take that.

use std::fmt;
use std::io;
use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use prost::encoding;

/// Resources, each a `Resource` message, as a `DeltaDiscoveryResponse` has them.
pub(crate) struct Part {
    resources: Vec<Bytes>,
    plain: OnceLock<Bytes>,
    packed: OnceLock<Option<Bytes>>,
}

/// Number of `resources` in `DeltaDiscoveryResponse`.
const RESOURCES_FIELD: u32 = 2;
/// Of zstd: 1 to 19. Higher ones find a tenth more, for ten times as long.
const LEVEL: i32 = 1;

impl Part {
    pub(crate) fn new(resources: Vec<Bytes>) -> Self {
        Self { resources, plain: OnceLock::new(), packed: OnceLock::new() }
    }

    /// How many resources it has.
    pub(crate) fn len(&self) -> usize {
        self.resources.len()
    }

    pub(crate) fn plain(&self) -> Bytes {
        self.plain.get_or_init(|| self.encode().into()).clone()
    }

    /// As one Zstandard frame. None if it cannot be compressed; it is sent as it is then.
    pub(crate) fn packed(&self) -> Option<Bytes> {
        let packed = || -> io::Result<Bytes> { Ok(zstd::bulk::compress(&self.encode(), LEVEL)?.into()) };
        self.packed.get_or_init(|| packed().ok()).clone()
    }

    fn encode(&self) -> BytesMut {
        let mut bytes = BytesMut::with_capacity(encoded_len(&self.resources));
        encode(&self.resources, &mut bytes);
        bytes
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("resources", &self.resources.len()).finish_non_exhaustive()
    }
}

/// Appends resources as fields of a `DeltaDiscoveryResponse`.
pub(crate) fn encode(resources: &[Bytes], to: &mut BytesMut) {
    for resource in resources {
        encoding::bytes::encode(RESOURCES_FIELD, resource, to);
    }
}

/// How much [`encode`] appends.
pub(crate) fn encoded_len(resources: &[Bytes]) -> usize {
    encoding::bytes::encoded_len_repeated(RESOURCES_FIELD, resources)
}

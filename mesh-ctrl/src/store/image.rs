//! A collection as those are told who hold nothing of it: the same bytes for all, made once.

use std::sync::Arc;

use super::Resource;
use super::part::Part;

/// A part is closed once it has this many bytes of resources: a large mesh arrives in parts, and no part holds up the other
/// type for long.
pub(crate) const PART_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Image {
    /// Place in the log of which it shows the collection.
    pub(crate) at: u64,
    pub(crate) parts: Vec<Arc<Part>>,
}

impl Image {
    pub(super) fn new<'a>(at: u64, resources: impl Iterator<Item = &'a Arc<Resource>>) -> Self {
        let (mut parts, mut open, mut bytes) = (Vec::new(), Vec::new(), 0);
        for resource in resources {
            bytes += resource.encoded.len();
            open.push(resource.encoded.clone());
            if bytes >= PART_BYTES {
                parts.push(Arc::new(Part::new(std::mem::take(&mut open))));
                bytes = 0;
            }
        }
        if !open.is_empty() {
            parts.push(Arc::new(Part::new(open)));
        }
        Self { at, parts }
    }
}

//! One short text for all that a collection holds: an agent that comes back says it in place of every name and version.
//!
//! The text is a hash over the sorted names and versions, so any controller with the same content has the same. Names are spread over
//! buckets with a hash each, and a change costs that of its bucket and one over all buckets.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256, digest};
use imbl::{HashMap, OrdMap, OrdSet, Vector};
use mesh_net::control::Kind;
use mesh_net::grpc::DIGEST;

const BUCKETS: usize = 256;
/// Digests of the past that are still known.
const MAX_KNOWN: usize = 4096;

type Sum = [u8; 32];

#[derive(Clone, Debug)]
pub(super) struct Digests {
    names: Vector<OrdSet<Arc<str>>>,
    sums: Vector<Sum>,
    /// Buckets whose sum is of the past.
    stale: OrdSet<usize>,
    /// The place in the log at which the collection was what a digest says, and the other way round.
    places: HashMap<Arc<str>, u64>,
    past: OrdMap<u64, Arc<str>>,
}

impl Default for Digests {
    fn default() -> Self {
        let empty = (0..BUCKETS).map(|_| OrdSet::new()).collect();
        let sums = (0..BUCKETS).map(|_| sum(&[])).collect();
        Self { names: empty, sums, stale: OrdSet::new(), places: HashMap::new(), past: OrdMap::new() }
    }
}

impl Digests {
    /// Notes that a resource is there, in another version than before, or not there.
    pub(super) fn note(&mut self, name: &Arc<str>, there: bool) {
        let bucket = usize::from(sum(name.as_bytes())[0]) % BUCKETS;
        self.stale.insert(bucket);
        let Some(names) = self.names.get_mut(bucket) else { return };
        match there {
            true => drop(names.insert(name.clone())),
            false => drop(names.remove(name)),
        }
    }

    /// Whether something was noted since, or nothing ever was.
    pub(super) fn is_stale(&self) -> bool {
        !self.stale.is_empty() || self.past.is_empty()
    }

    /// Brings the digest up to date; the collection is at `place`.
    pub(super) fn settle<'a>(&mut self, kind: Kind, place: u64, version: impl Fn(&str) -> Option<&'a str>) {
        for bucket in std::mem::take(&mut self.stale) {
            let mut context = Context::new(&SHA256);
            for name in self.names.get(bucket).into_iter().flatten() {
                for text in [&**name, version(name).unwrap_or_default()] {
                    // With its length: no two lists of texts are the same bytes.
                    context.update(&(text.len() as u64).to_le_bytes());
                    context.update(text.as_bytes());
                }
            }
            self.sums.set(bucket, finished(context));
        }
        let mut context = Context::new(&SHA256);
        context.update(kind.type_url().as_bytes());
        self.sums.iter().for_each(|sum| context.update(sum));
        let hex: String = finished(context)[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let text: Arc<str> = format!("{DIGEST}{hex}").into();
        // The collection may be again what it was: then the earlier place is as good, and the later one is shorter to tell from.
        if let Some(before) = self.places.insert(text.clone(), place) {
            self.past.remove(&before);
        }
        self.past.insert(place, text);
        while self.past.len() > MAX_KNOWN
            && let Some((oldest, text)) = self.past.get_min().cloned()
        {
            self.past.remove(&oldest);
            self.places.remove(&text);
        }
    }

    /// The digest of what the collection holds.
    pub(super) fn current(&self) -> Option<&Arc<str>> {
        self.past.get_max().map(|(_, text)| text)
    }

    /// The place at which the collection was what `text` says.
    pub(super) fn place(&self, text: &str) -> Option<u64> {
        self.places.get(text).copied()
    }
}

fn sum(bytes: &[u8]) -> Sum {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
    sum
}

fn finished(context: Context) -> Sum {
    let mut sum = [0; 32];
    sum.copy_from_slice(context.finish().as_ref());
    sum
}

//! How much a worker takes on.

/// Of one worker, at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Requests whose answers have not been read whole.
    pub requests: usize,
    /// Open streams of the tunnel, with requests or without.
    pub streams: usize,
}

impl Bounds {
    /// What follows from the memory of the process, in bytes: half of it is for requests of its workers, at [`REQUEST`] each, all of it
    /// in the worst case, when clients below their share are let in up to twice the bound.
    pub fn of(memory: u64, workers: usize) -> Self {
        let requests = memory / 2 / REQUEST / workers.max(1) as u64;
        Self::requests(usize::try_from(requests).unwrap_or(MOST).clamp(LEAST, MOST))
    }

    /// With so many requests. Clients keep connections for more than what is under way.
    pub fn requests(requests: usize) -> Self {
        Self { requests, streams: requests.saturating_mul(STREAMS) }
    }
}

/// What a request holds whose ends are slow, in bytes: what may come before anybody reads it.
const REQUEST: u64 = 64 << 10;
/// Streams for each request: one that is idle holds a quarter of what a request does, keys and buffers of its tunnel included.
const STREAMS: usize = 2;
/// A bound below would refuse what harms nobody.
const LEAST: usize = 64;
/// One above would be no bound: descriptors and processors come to an end before.
const MOST: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_follow_from_memory_and_workers() {
        for (memory, workers, requests) in [
            (128 << 20, 2, 512),
            (1 << 30, 1, 8192),
            (1 << 30, 4, 2048),
            (1 << 40, 4, MOST),
            (8 << 20, 8, LEAST),
            (0, 0, LEAST),
            (u64::MAX, 1, MOST),
        ] {
            assert_eq!(Bounds::of(memory, workers), Bounds { requests, streams: 2 * requests }, "{memory} {workers}");
        }
    }
}

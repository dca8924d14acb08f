//! Clients and backends that mean harm, or end: what is held for them is bounded, they are answered or ended as they should be,
//! and whoever comes beside them is served.

#[path = "support/bench.rs"]
#[allow(dead_code)]
mod bench;
#[path = "hostile/support.rs"]
mod support;

#[path = "hostile/backends.rs"]
mod backends;
#[path = "hostile/damaged.rs"]
mod damaged;
#[path = "hostile/draining.rs"]
mod draining;
#[path = "hostile/first.rs"]
mod first;
#[path = "hostile/second.rs"]
mod second;
#[path = "hostile/stalled.rs"]
mod stalled;

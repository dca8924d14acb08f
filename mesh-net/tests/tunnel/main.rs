//! Two peers on a loopback socket: what flows between them, and what a hostile one gets.

mod streams;
mod early;
mod lanes;
mod peers;
mod endings;
mod handshakes;
mod hostile;
mod pair;

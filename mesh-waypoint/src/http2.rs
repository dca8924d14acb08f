//! HTTP/2 (RFC 9113), both sides, over [`mesh_net::http2`]: one task a connection moves its bytes, and writes once for all that its
//! streams have said meanwhile.

pub mod client;
pub mod server;
mod arriving;
mod link;
mod patience;
mod stream;
mod inbox;

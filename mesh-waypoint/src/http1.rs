//! HTTP/1.0 and 1.1 (RFC 9112), both sides: heads are read strictly and written anew, so that no two can count differently what
//! one message is.

pub mod client;
pub mod server;
mod rest;
mod chunks;
mod written;
mod framing;
mod head;

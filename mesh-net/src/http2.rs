//! HTTP/2 (RFC 9113) without sockets: what comes is fed to a [`connection::Connection`], which says what happened and
//! what is to be sent. Data is never copied: it is handed on in the pieces in which it came, and sent by whoever has it,
//! behind nine bytes that this module writes.

pub mod connection;
mod hpack;
pub mod fields;
pub mod frame;

#[cfg(test)]
mod tests;

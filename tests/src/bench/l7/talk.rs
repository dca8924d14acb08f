//! What the load says: one typical request and one reply for each way of asking, and the two ends of a connection, which know
//! neither sockets nor clocks.

use std::time::Instant;

use anyhow::Result;

/// What is spoken, and how much is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// HTTP/1.1, 1 KiB.
    Http1,
    /// HTTP/1.1, 1 MiB: as `Http1`, but for another path.
    Large,
    /// HTTP/2, 1 KiB.
    Http2,
    /// gRPC unary, messages of 64 bytes.
    Grpc,
}

impl Kind {
    /// Bytes of a reply's body; gRPC's prefix of five is one of them.
    pub(super) fn body(self) -> usize {
        match self {
            Kind::Http1 | Kind::Http2 => 1 << 10,
            Kind::Large => 1 << 20,
            Kind::Grpc => 5 + 64,
        }
    }
}

/// A client's end of a connection. What it has to send is appended to `out`.
pub(super) trait Client: Send {
    /// Before the first request.
    fn greet(&mut self, out: &mut Vec<u8>);

    /// Requests that may be begun now.
    fn room(&self) -> usize;

    /// Begins a request that is due at `due`.
    fn ask(&mut self, due: Instant, out: &mut Vec<u8>);

    /// Takes what has come; calls `done` with the due time of each request whose reply is whole.
    ///
    /// # Errors
    /// A reply is not the one that is expected.
    fn take(&mut self, input: &[u8], out: &mut Vec<u8>, done: &mut dyn FnMut(Instant)) -> Result<()>;
}

/// A server's end of a connection.
pub(super) trait Server: Send {
    /// Takes what has come and answers what is whole; what is returned is to be sent behind `out`.
    ///
    /// # Errors
    /// It is no request, or nothing that can be answered.
    fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<&'static [u8]>;
}

/// The host that is asked for: in the middle of [`HOSTS`].
pub(super) const HOST: &str = "svc-13.shop.test";
/// Hosts `svc-0` to `svc-19` of `shop.test` are told apart.
pub(super) const HOSTS: usize = 20;
pub(super) const HEADER: (&str, &str) = ("x-tenant", "blue");
pub(super) const SMALL: &str = "/api/items/42?page=2";
pub(super) const LARGE: &str = "/api/files/42?page=2";
pub(super) const GRPC: &str = "/shop.Items/Get";

/// What every request says besides host, path and what differs between requests.
pub(super) const STEADY: [(&str, &str); 4] = [
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) shop/2.14"),
    ("accept", "application/json"),
    ("accept-language", "en-US,en;q=0.9"),
    HEADER,
];

/// What differs: names, and values around 16 hexadecimal digits.
pub(super) const CHANGING: [(&str, &str, &str); 2] =
    [("x-request-id", "5f2c1d3e-7a4b-4c8d-", ""), ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-", "-01")];

/// The number of a request as its headers have it.
pub(super) fn digits(number: u64) -> [u8; 16] {
    // Spread, so that a compressor finds no run of zeros.
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    std::array::from_fn(|at| b"0123456789abcdef"[(mixed >> (60 - 4 * at)) as usize & 15])
}

/// A body without an end of a head in it.
pub(super) static BODY: [u8; 1 << 20] = [b'x'; 1 << 20];

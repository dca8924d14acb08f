//! How a connection fared, as the application that opened it sees it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::place::Place;

/// What became of a connection to an echo server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    /// Accepted, then reset.
    Reset,
    /// Never accepted.
    Refused,
    /// Accepted, then closed as if in order.
    Ended,
    /// Neither answer nor end for as long as [`LIMIT`], or no way there.
    Silence,
}

impl Outcome {
    fn of(error: &io::Error) -> Outcome {
        match error.kind() {
            ErrorKind::ConnectionRefused => Outcome::Refused,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Outcome::Reset,
            ErrorKind::UnexpectedEof => Outcome::Ended,
            _ => Outcome::Silence,
        }
    }
}

/// Opens a connection from `place`, says something and waits for it to come back.
pub fn ask(place: &Place, to: SocketAddr) -> Outcome {
    match place.sockets().dial_within(to, LIMIT).and_then(|stream| prove(&stream)) {
        Ok(()) => Outcome::Answered,
        Err(error) => Outcome::of(&error),
    }
}

/// Sends a few bytes to an echo server and reads them back.
///
/// # Errors
/// What the connection says.
pub fn prove(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(ASKED)?;
    let mut answer = [0; ASKED.len()];
    stream.read_exact(&mut answer)?;
    if answer == *ASKED { Ok(()) } else { Err(io::Error::other("something else came back")) }
}

/// Beyond an agent's own patience: five seconds for a peer that is about to enrol, ten for a certificate.
pub const LIMIT: Duration = Duration::from_secs(15);
const ASKED: &[u8] = b"are you there?";

//! How a connection fared, as the application that opened it sees it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

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

/// Watches the connections until each has been reset, or `within` is over; yields when each was.
///
/// # Errors
/// When one ends otherwise.
pub fn resets(streams: Vec<TcpStream>, within: Duration) -> Result<Vec<Instant>> {
    let begun = Instant::now();
    let mut alive = streams;
    let mut ended = Vec::with_capacity(alive.len());
    while !alive.is_empty() && begun.elapsed() < within {
        let mut watched: Vec<PollFd<'_>> =
            alive.iter().map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut watched, PollTimeout::from(100_u16))?;
        let now = Instant::now();
        let happened: Vec<bool> = watched.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        let mut happened = happened.into_iter();
        let mut wrong = None;
        alive.retain(|stream| {
            if !happened.next().unwrap_or(false) {
                return true;
            }
            match { stream }.read(&mut [0; 1]) {
                Err(error) if error.kind() == ErrorKind::ConnectionReset => ended.push(now),
                other => wrong = Some(other),
            }
            false
        });
        if let Some(wrong) = wrong {
            bail!("not a reset: {wrong:?}");
        }
    }
    Ok(ended)
}

/// Beyond an agent's own patience: five seconds for a peer that is about to enrol, ten for a certificate.
pub const LIMIT: Duration = Duration::from_secs(15);
const ASKED: &[u8] = b"are you there?";

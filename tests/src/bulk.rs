//! Many bytes both ways at once, with a hash of what went and what came.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IoSlice, Read, Seek, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// What one end sent and received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchanged {
    pub sent: u64,
    pub sent_sha256: String,
    pub received: u64,
    pub received_sha256: String,
}

/// How an end writes and reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// In pieces of 256 KiB.
    Steady,
    /// In pieces of any size from a byte to 256 KiB, small ones as often as large ones, with a pause now and then.
    Ragged,
    /// As ragged, several pieces in one call.
    Vectored,
    /// From a file, by sendfile.
    File,
}

impl Manner {
    pub const ALL: [Manner; 4] = [Manner::Steady, Manner::Ragged, Manner::Vectored, Manner::File];
}

/// Sends `bytes` of noise from `seed`, then a FIN, while receiving until the peer's FIN. After each read it rests for
/// `rest`, to be a slow reader.
///
/// # Errors
/// What reading or writing said.
pub fn exchange(stream: &TcpStream, bytes: u64, seed: u64, rest: Duration) -> io::Result<Exchanged> {
    exchange_as(Manner::Steady, stream, bytes, seed, rest)
}

/// As [`exchange`], in one of several manners.
///
/// # Errors
/// What reading or writing said.
pub fn exchange_as(manner: Manner, stream: &TcpStream, bytes: u64, seed: u64, rest: Duration) -> io::Result<Exchanged> {
    let (sent, received) = thread::scope(|scope| {
        let sender = scope.spawn(|| send(manner, stream, bytes, seed));
        let received = receive(manner, stream, seed, rest);
        (sender.join(), received)
    });
    let sent_sha256 = sent.map_err(|_| io::Error::other("the sender panicked"))??;
    let (received, received_sha256) = received?;
    Ok(Exchanged { sent: bytes, sent_sha256, received, received_sha256 })
}

/// Both ends of a connection at once, the first given sending `bytes[0]` from seed 1 and the second `bytes[1]` from seed 2;
/// yields what each saw.
///
/// # Errors
/// What reading or writing said at either end.
pub fn between(manner: Manner, ends: [&TcpStream; 2], bytes: [u64; 2], rest: Duration) -> io::Result<[Exchanged; 2]> {
    let (near, far) = thread::scope(|scope| {
        let far = scope.spawn(|| exchange_as(manner, ends[1], bytes[1], 2, rest));
        (exchange_as(manner, ends[0], bytes[0], 1, rest), far.join())
    });
    let far = far.map_err(|_| io::Error::other("the far end panicked"))?;
    Ok([near?, far?])
}

fn send(manner: Manner, mut stream: &TcpStream, bytes: u64, seed: u64) -> io::Result<String> {
    let mut hash = Context::new(&SHA256);
    let (mut noise, mut sizes) = (Noise::new(seed), Noise::new(!seed));
    let mut buffer = vec![0; BUFFER];
    let mut left = bytes;
    while left > 0 {
        let most = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
        let length = match manner {
            Manner::Steady | Manner::File | Manner::Vectored => most,
            Manner::Ragged => sizes.size().min(most),
        };
        let part = &mut buffer[..length];
        noise.fill(part);
        hash.update(part);
        match manner {
            Manner::Steady | Manner::Ragged => stream.write_all(part)?,
            Manner::Vectored => write_pieces(stream, part, &mut sizes)?,
            Manner::File => {
                // A new one each time: what sendfile has queued is still the file's own pages.
                let mut file = File::from(memfd_create("noise", MFdFlags::MFD_CLOEXEC)?);
                file.write_all(part)?;
                file.rewind()?;
                // The standard library uses sendfile from a file to a socket.
                if io::copy(&mut file, &mut stream)? != part.len() as u64 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
        }
        left -= length as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(hex(hash))
}

fn write_pieces(mut stream: &TcpStream, mut part: &[u8], sizes: &mut Noise) -> io::Result<()> {
    while !part.is_empty() {
        let mut pieces = Vec::new();
        let mut rest = part;
        while !rest.is_empty() && pieces.len() < 8 {
            let (piece, after) = rest.split_at(sizes.size().min(rest.len()));
            pieces.push(IoSlice::new(piece));
            rest = after;
        }
        let written = stream.write_vectored(&pieces)?;
        part = &part[written..];
    }
    Ok(())
}

fn receive(manner: Manner, mut stream: &TcpStream, seed: u64, rest: Duration) -> io::Result<(u64, String)> {
    let mut hash = Context::new(&SHA256);
    let mut sizes = Noise::new(seed ^ 0x5eed);
    let mut buffer = vec![0; BUFFER];
    let mut received = 0;
    loop {
        let most = if manner == Manner::Ragged { sizes.size() } else { BUFFER };
        let length = stream.read(&mut buffer[..most])?;
        if length == 0 {
            return Ok((received, hex(hash)));
        }
        hash.update(&buffer[..length]);
        received += length as u64;
        if !rest.is_zero() {
            thread::sleep(rest);
        } else if manner == Manner::Ragged && sizes.next().is_multiple_of(4096) {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn hex(hash: Context) -> String {
    hash.finish().as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

/// Bytes that no compression and no repetition can hide behind: xorshift64*.
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Noise {
        // A state of 0 would stay 0.
        Noise(seed.wrapping_mul(2).wrapping_add(1))
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 1 to [`BUFFER`], each power of two as likely as the next.
    fn size(&mut self) -> usize {
        let word = self.next() >> 8;
        let top = 1_u64 << (word % u64::from(BUFFER.ilog2() + 1));
        usize::try_from(top + (word >> 32) % top).map_or(BUFFER, |size| size.min(BUFFER))
    }
}

const BUFFER: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn both_ends_agree_on_every_byte() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let far = thread::spawn(move || exchange(&server, 70_001, 2, Duration::ZERO).unwrap());
        let near = exchange(&client, 3_000_001, 1, Duration::ZERO).unwrap();
        let far = far.join().unwrap();
        assert_eq!((near.sent, near.received), (3_000_001, 70_001));
        assert_eq!((near.sent_sha256, near.received_sha256), (far.received_sha256, far.sent_sha256.clone()));
        for manner in Manner::ALL {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            let far = thread::spawn(move || exchange(&server, 0, 2, Duration::ZERO).unwrap());
            let near = exchange_as(manner, &client, 3_000_001, 1, Duration::ZERO).unwrap();
            assert_eq!(far.join().unwrap().received_sha256, near.sent_sha256, "{manner:?}");
        }
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let mut hash = Context::new(&SHA256);
        hash.update(b"abc");
        assert_eq!(hex(hash), abc);
        assert_ne!(far.sent_sha256, abc);
    }
}

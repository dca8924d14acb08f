//! Many bytes both ways at once, with a hash of what went and what came.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};

/// What one end sent and received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchanged {
    pub sent: u64,
    pub sent_sha256: String,
    pub received: u64,
    pub received_sha256: String,
}

/// Sends `bytes` of noise from `seed`, then a FIN, while receiving until the peer's FIN. After each read it rests for
/// `rest`, to be a slow reader.
///
/// # Errors
/// What reading or writing said.
pub fn exchange(stream: &TcpStream, bytes: u64, seed: u64, rest: Duration) -> io::Result<Exchanged> {
    let (sent, received) = thread::scope(|scope| {
        let sender = scope.spawn(|| send(stream, bytes, seed));
        let received = receive(stream, rest);
        (sender.join(), received)
    });
    let sent_sha256 = sent.map_err(|_| io::Error::other("the sender panicked"))??;
    let (received, received_sha256) = received?;
    Ok(Exchanged { sent: bytes, sent_sha256, received, received_sha256 })
}

fn send(mut stream: &TcpStream, bytes: u64, seed: u64) -> io::Result<String> {
    let mut hash = Context::new(&SHA256);
    let mut noise = Noise::new(seed);
    let mut buffer = vec![0; BUFFER];
    let mut left = bytes;
    while left > 0 {
        let part = &mut buffer[..usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER))];
        noise.fill(part);
        hash.update(part);
        stream.write_all(part)?;
        left -= part.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(hex(hash))
}

fn receive(mut stream: &TcpStream, rest: Duration) -> io::Result<(u64, String)> {
    let mut hash = Context::new(&SHA256);
    let mut buffer = vec![0; BUFFER];
    let mut received = 0;
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok((received, hex(hash)));
        }
        hash.update(&buffer[..length]);
        received += length as u64;
        if !rest.is_zero() {
            thread::sleep(rest);
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
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
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
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let mut hash = Context::new(&SHA256);
        hash.update(b"abc");
        assert_eq!(hex(hash), abc);
        assert_ne!(far.sent_sha256, abc);
    }
}

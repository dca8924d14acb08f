//! HTTP/1.1, both ends, one request after the other on a connection: just what the load needs.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use memchr::{memchr_iter, memmem};

use super::talk::{self, BODY, CHANGING, HOST, Kind, LARGE, SMALL, STEADY};

/// See [`talk::Client`].
pub(super) struct Client {
    request: Vec<u8>,
    /// Where the digits are in it.
    digits: [usize; 2],
    number: u64,
    body: usize,
    due: Option<Instant>,
    head: Vec<u8>,
    /// Of the body, still to come.
    left: usize,
}

impl Client {
    pub(super) fn new(kind: Kind) -> Self {
        let path = if kind == Kind::Large { LARGE } else { SMALL };
        let mut request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n");
        for (name, value) in STEADY {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        let digits = CHANGING.map(|(name, before, after)| {
            request.push_str(&format!("{name}: {before}"));
            let at = request.len();
            request.push_str(&format!("{:16}{after}\r\n", ""));
            at
        });
        request.push_str("\r\n");
        let request = request.into_bytes();
        Self { request, digits, number: 0, body: kind.body(), due: None, head: Vec::new(), left: 0 }
    }

    /// Bytes of `input` that belong to the reply's head; afterwards `left` is known if the head is whole.
    fn take_head(&mut self, input: &[u8]) -> Result<usize> {
        let before = self.head.len();
        let (whole, taken) = match (before, memmem::find(input, END)) {
            (0, Some(at)) => (&input[..at + END.len()], at + END.len()),
            _ => {
                self.head.extend_from_slice(input);
                let Some(at) = memmem::find(&self.head, END) else { return Ok(input.len()) };
                self.head.truncate(at + END.len());
                (&self.head[..], at + END.len() - before)
            }
        };
        let line = || String::from_utf8_lossy(&whole[..whole.len().min(300)]).into_owned();
        if !whole.starts_with(b"HTTP/1.1 200 ") {
            bail!("unexpected reply: {}", String::from_utf8_lossy(&input[..input.len().min(600)]));
        }
        self.left = length(whole).with_context(line)?;
        ensure!(self.left == self.body, "a body of {} bytes: {}", self.left, line());
        self.head.clear();
        Ok(taken)
    }
}

impl talk::Client for Client {
    fn greet(&mut self, _: &mut Vec<u8>) {}

    fn room(&self) -> usize {
        usize::from(self.due.is_none())
    }

    fn ask(&mut self, due: Instant, out: &mut Vec<u8>) {
        self.number += 1;
        let digits = talk::digits(self.number);
        for at in self.digits {
            self.request[at..at + digits.len()].copy_from_slice(&digits);
        }
        out.extend_from_slice(&self.request);
        self.due = Some(due);
    }

    fn take(&mut self, mut input: &[u8], _: &mut Vec<u8>, done: &mut dyn FnMut(Instant)) -> Result<()> {
        while !input.is_empty() {
            ensure!(self.due.is_some(), "bytes that nobody asked for");
            if self.left == 0 {
                let taken = self.take_head(input)?;
                input = &input[taken..];
            }
            let some = self.left.min(input.len());
            self.left -= some;
            input = &input[some..];
            if self.left == 0 && self.head.is_empty() {
                self.due.take().into_iter().for_each(&mut *done);
            }
        }
        Ok(())
    }
}

/// See [`talk::Server`].
#[derive(Default)]
pub(super) struct Server {
    head: Vec<u8>,
}

impl talk::Server for Server {
    fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<&'static [u8]> {
        self.head.extend_from_slice(input);
        let Some(at) = memmem::find(&self.head, END) else { return Ok(&[]) };
        ensure!(self.head.len() == at + END.len(), "more than one request at once");
        ensure!(self.head.starts_with(b"GET /api/"), "no request of ours");
        let kind = if self.head.starts_with(b"GET /api/files/") { Kind::Large } else { Kind::Http1 };
        self.head.clear();
        let length = kind.body();
        out.extend_from_slice(REPLY);
        out.extend_from_slice(length.to_string().as_bytes());
        out.extend_from_slice(END);
        Ok(&BODY[..length])
    }
}

const END: &[u8] = b"\r\n\r\n";
const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: application/json\r\n\
    Cache-Control: no-store\r\nContent-Length: ";

/// The length that a head says.
fn length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"\r\ncontent-length:";
    let at = memchr_iter(b'\r', head)
        .find(|at| head.get(*at..at + NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)))?;
    let rest = &head[at + NAME.len()..];
    let value = &rest[..memchr::memchr(b'\r', rest)?];
    str::from_utf8(value).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::talk::{Client as _, Server as _};
    use super::*;

    /// Both ends, with what is sent in pieces of `piece` bytes.
    fn exchanged(kind: Kind, piece: usize) -> usize {
        let (mut client, mut server) = (Client::new(kind), Server::default());
        let mut done = 0;
        for _ in 0..3 {
            let (mut asked, mut reply, mut body) = (Vec::new(), Vec::new(), &[][..]);
            client.ask(Instant::now(), &mut asked);
            assert_eq!(client.room(), 0);
            for some in asked.chunks(piece) {
                body = server.take(some, &mut reply).unwrap();
            }
            reply.extend_from_slice(body);
            for some in reply.chunks(piece) {
                client.take(some, &mut Vec::new(), &mut |_| done += 1).unwrap();
            }
            assert_eq!(client.room(), 1);
        }
        done
    }

    #[test]
    fn replies_are_whole_however_they_come() {
        for (kind, piece) in [(Kind::Http1, 1), (Kind::Http1, 7), (Kind::Http1, 4096), (Kind::Large, 65_536)] {
            assert_eq!(exchanged(kind, piece), 3, "{kind:?} in pieces of {piece}");
        }
    }

    #[test]
    fn another_reply_is_an_error() {
        for reply in [
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 1024\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        ] {
            let mut client = Client::new(Kind::Http1);
            client.ask(Instant::now(), &mut Vec::new());
            assert!(client.take(reply.as_bytes(), &mut Vec::new(), &mut |_| {}).is_err(), "{reply}");
        }
        let unasked = Client::new(Kind::Http1).take(b"HTTP/1.1 200 OK\r\n", &mut Vec::new(), &mut |_| {});
        assert!(unasked.is_err());
    }
}

//! HTTP/2, both ends, as light as it can be: header blocks are made once and never read, and a reply is told by its frames.
//! What ends like the expected reply, with as long a body, is one. Sources: RFC 9113 (frames), RFC 7541 (header blocks).

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Result, bail, ensure};

use super::frames::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, begin, finish};
use super::hpack::{INSERT, LITERAL, integer, literal};
use super::talk::{self, BODY, CHANGING, GRPC, HOST, Kind, SMALL, STEADY};

/// See [`talk::Client`].
pub(super) struct Client {
    frames: Frames,
    kind: Kind,
    streams: usize,
    open: usize,
    number: u64,
    /// By the number of the request, at [`Client::place`].
    asked: Vec<Option<Asked>>,
}

#[derive(Clone, Copy)]
struct Asked {
    number: u64,
    due: Instant,
    body: usize,
}

/// Requests begun since one that is still open, at most.
const SPREAD: usize = 1 << 14;

impl Client {
    pub(super) fn new(kind: Kind, streams: usize) -> Self {
        Self { frames: Frames::default(), kind, streams, open: 0, number: 0, asked: vec![None; SPREAD] }
    }

    #[expect(clippy::cast_possible_truncation)]
    fn place(number: u64) -> usize {
        number as usize % SPREAD
    }

    /// The header block of request `number`; the first puts what comes again into the peer's table.
    fn headers(&self, number: u64, block: &mut Vec<u8>) {
        let first = number == 0;
        let is_grpc = self.kind == Kind::Grpc;
        let own: [(&str, &str); 2] = match is_grpc {
            true => [("content-type", "application/grpc"), ("te", "trailers")],
            false => [("accept-encoding", "gzip, deflate"), ("cache-control", "no-cache")],
        };
        let steady: [(&str, &str); 2] = [(":authority", HOST), (":path", if is_grpc { GRPC } else { SMALL })];
        // :method GET or POST, :scheme http
        block.extend_from_slice(&[if is_grpc { 0x83 } else { 0x82 }, 0x86]);
        let known = steady.into_iter().chain(own).chain(STEADY);
        let digits = talk::digits(number);
        match first {
            true => {
                known.for_each(|(name, value)| literal(block, INSERT, name, value.as_bytes()));
                // The names, for the requests to come.
                CHANGING.iter().for_each(|(name, before, after)| {
                    let value = [before.as_bytes(), &digits, after.as_bytes()].concat();
                    literal(block, INSERT, name, &value);
                });
            }
            false => {
                // The entry inserted last has index 62.
                let entries = steady.len() + own.len() + STEADY.len() + CHANGING.len();
                for at in 0..entries - CHANGING.len() {
                    integer(block, 0x80, 7, 62 + entries - 1 - at);
                }
                for (at, (_, before, after)) in CHANGING.iter().enumerate() {
                    integer(block, 0, 4, 62 + CHANGING.len() - 1 - at);
                    integer(block, 0, 7, before.len() + digits.len() + after.len());
                    [before.as_bytes(), &digits, after.as_bytes()]
                        .iter()
                        .for_each(|part| block.extend_from_slice(part));
                }
            }
        }
    }
}

impl talk::Client for Client {
    fn greet(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(PREFACE);
        Frames::greet(out);
    }

    fn room(&self) -> usize {
        match self.kind {
            Kind::Grpc if self.frames.window < self.kind.body() as i64 => 0,
            _ => self.streams - self.open,
        }
    }

    fn ask(&mut self, due: Instant, out: &mut Vec<u8>) {
        let number = self.number;
        self.number += 1;
        self.open += 1;
        self.asked[Self::place(number)] = Some(Asked { number, due, body: 0 });
        let stream = stream(number);
        let is_grpc = self.kind == Kind::Grpc;
        let at = begin(out, HEADERS, END_HEADERS | if is_grpc { 0 } else { END_STREAM }, stream);
        self.headers(number, out);
        finish(out, at);
        if is_grpc {
            self.frames.window -= self.kind.body() as i64;
            let at = begin(out, DATA, END_STREAM, stream);
            message(out);
            finish(out, at);
        }
    }

    fn take(&mut self, input: &[u8], out: &mut Vec<u8>, done: &mut dyn FnMut(Instant)) -> Result<()> {
        let Self { frames, kind, open, asked, .. } = self;
        frames.take(input, out, |frame| {
            if !matches!(frame.kind, DATA | HEADERS) {
                return Ok(());
            }
            let number = u64::from(frame.stream / 2);
            let place = &mut asked[Self::place(number)];
            let Some(own) = place.as_mut().filter(|own| own.number == number) else { bail!("a reply to nobody") };
            if frame.kind == DATA {
                own.body += frame.payload.len();
            }
            if frame.flags & END_STREAM != 0 {
                ensure!(own.body == kind.body(), "a body of {} bytes", own.body);
                done(own.due);
                *place = None;
                *open -= 1;
            }
            Ok(())
        })?;
        ensure!(!frames.tableless, "a proxy without a table of headers");
        Ok(())
    }
}

/// See [`talk::Server`].
pub(super) struct Server {
    frames: Frames,
    kind: Kind,
    greeted: usize,
    replied: bool,
    /// Streams that are to be answered when the peer has room.
    waiting: VecDeque<u32>,
}

impl Server {
    pub(super) fn new(kind: Kind) -> Self {
        Self { frames: Frames::default(), kind, greeted: 0, replied: false, waiting: VecDeque::new() }
    }

    fn reply(&mut self, stream: u32, out: &mut Vec<u8>) {
        let is_grpc = self.kind == Kind::Grpc;
        let content = if is_grpc { "application/grpc" } else { "application/json" };
        let at = begin(out, HEADERS, END_HEADERS, stream);
        if self.frames.tableless && !self.replied {
            // The new size of the table comes first (RFC 7541, section 4.2).
            integer(out, 0x20, 5, 0);
        }
        out.push(0x88);
        let form = if self.frames.tableless { LITERAL } else { INSERT };
        match self.replied && !self.frames.tableless {
            false => {
                let status = (!self.frames.tableless).then_some(STATUS);
                let content = ("content-type", content);
                let fields = status.into_iter().chain([content, ("date", "Thu, 01 Jan 2026 00:00:00 GMT")]);
                fields.for_each(|(name, value)| literal(out, form, name, value.as_bytes()));
            }
            true => [1, 0].iter().for_each(|at| integer(out, 0x80, 7, 62 + at)),
        }
        finish(out, at);
        let at = begin(out, DATA, if is_grpc { 0 } else { END_STREAM }, stream);
        match is_grpc {
            true => message(out),
            false => out.extend_from_slice(&BODY[..self.kind.body()]),
        }
        finish(out, at);
        if is_grpc {
            let at = begin(out, HEADERS, END_HEADERS | END_STREAM, stream);
            match self.frames.tableless {
                false => integer(out, 0x80, 7, 62 + 2),
                true => literal(out, LITERAL, STATUS.0, STATUS.1.as_bytes()),
            }
            finish(out, at);
        }
        self.replied = true;
    }
}

impl talk::Server for Server {
    fn take(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<&'static [u8]> {
        if self.greeted < PREFACE.len() {
            if self.greeted == 0 {
                Frames::greet(out);
            }
            let some = input.len().min(PREFACE.len() - self.greeted);
            ensure!(input[..some] == PREFACE[self.greeted..self.greeted + some], "no HTTP/2");
            self.greeted += some;
            input = &input[some..];
        }
        let waiting = &mut self.waiting;
        self.frames.take(input, out, |frame| {
            if matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
                waiting.push_back(frame.stream);
            }
            Ok(())
        })?;
        let body = self.kind.body() as i64;
        while self.frames.window >= body {
            let Some(stream) = self.waiting.pop_front() else { break };
            self.frames.window -= body;
            self.reply(stream, out);
        }
        Ok(&[])
    }
}

fn stream(number: u64) -> u32 {
    u32::try_from(2 * number + 1).expect("a connection of the load has fewer than 2^30 requests")
}

/// A gRPC message.
fn message(out: &mut Vec<u8>) {
    let length = Kind::Grpc.body() - 5;
    out.extend_from_slice(&[0, 0, 0, 0, u8::try_from(length).expect("it is short")]);
    out.extend_from_slice(&BODY[..length]);
}

/// A reply's trailer.
const STATUS: (&str, &str) = ("grpc-status", "0");

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
#[cfg(test)]
mod tests;

//! HTTP/2, both ends, as light as it can be: header blocks are made once and never read, and a reply is told by its frames.
//! What ends like the expected reply, with as long a body, is one. Sources: RFC 9113 (frames), RFC 7541 (header blocks).

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Result, bail, ensure};

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
                known.for_each(|(name, value)| hpack_literal(block, INSERT, name, value.as_bytes()));
                // The names, for the requests to come.
                CHANGING.iter().for_each(|(name, before, after)| {
                    let value = [before.as_bytes(), &digits, after.as_bytes()].concat();
                    hpack_literal(block, INSERT, name, &value);
                });
            }
            false => {
                // The entry inserted last has index 62.
                let entries = steady.len() + own.len() + STEADY.len() + CHANGING.len();
                for at in 0..entries - CHANGING.len() {
                    hpack_integer(block, 0x80, 7, 62 + entries - 1 - at);
                }
                for (at, (_, before, after)) in CHANGING.iter().enumerate() {
                    hpack_integer(block, 0, 4, 62 + CHANGING.len() - 1 - at);
                    hpack_integer(block, 0, 7, before.len() + digits.len() + after.len());
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
            hpack_integer(out, 0x20, 5, 0);
        }
        out.push(0x88);
        let form = if self.frames.tableless { LITERAL } else { INSERT };
        match self.replied && !self.frames.tableless {
            false => {
                let status = (!self.frames.tableless).then_some(STATUS);
                let content = ("content-type", content);
                let fields = status.into_iter().chain([content, ("date", "Thu, 01 Jan 2026 00:00:00 GMT")]);
                fields.for_each(|(name, value)| hpack_literal(out, form, name, value.as_bytes()));
            }
            true => [1, 0].iter().for_each(|at| hpack_integer(out, 0x80, 7, 62 + at)),
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
                false => hpack_integer(out, 0x80, 7, 62 + 2),
                true => hpack_literal(out, LITERAL, STATUS.0, STATUS.1.as_bytes()),
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

/// What both ends do alike: cutting frames, settings, pings and the connection's windows. Streams' own windows are never short:
/// the least that a peer may begin with without having been asked is 65,535 bytes.
struct Frames {
    partial: Vec<u8>,
    /// Bytes that the peer still takes on the connection.
    window: i64,
    /// Bytes of the window that the peer has used.
    used: u32,
    /// The peer keeps no table of headers.
    tableless: bool,
}

struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

impl Default for Frames {
    fn default() -> Self {
        Self { partial: Vec::new(), window: 65_535, used: 0, tableless: false }
    }
}

impl Frames {
    fn greet(out: &mut Vec<u8>) {
        let at = begin(out, SETTINGS, 0, 0);
        for (setting, value) in [(MAX_CONCURRENT_STREAMS, 1000), (INITIAL_WINDOW_SIZE, WINDOW)] {
            out.extend_from_slice(&setting.to_be_bytes());
            out.extend_from_slice(&u32::to_be_bytes(value));
        }
        finish(out, at);
        update(out, WINDOW);
    }

    fn take(&mut self, input: &[u8], out: &mut Vec<u8>, mut each: impl FnMut(Frame<'_>) -> Result<()>) -> Result<()> {
        let partial = std::mem::take(&mut self.partial);
        let joined;
        let mut rest = match partial.is_empty() {
            true => input,
            false => {
                joined = [&partial, input].concat();
                &joined
            }
        };
        while let Some((head, behind)) = rest.split_first_chunk::<9>() {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let Some((payload, behind)) = behind.split_at_checked(length) else { break };
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
            let frame = Frame { kind: head[3], flags: head[4], stream, payload };
            self.account(&frame, out)?;
            each(frame)?;
            rest = behind;
        }
        self.partial = rest.to_vec();
        Ok(())
    }

    fn account(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<()> {
        let payload = frame.payload;
        match frame.kind {
            DATA => {
                ensure!(frame.flags & PADDED == 0, "padding");
                self.used += u32::try_from(payload.len())?;
                if self.used > WINDOW / 2 {
                    update(out, std::mem::take(&mut self.used));
                }
            }
            SETTINGS if frame.flags & ACK == 0 => {
                for setting in payload.chunks_exact(6) {
                    let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
                    match u16::from_be_bytes([setting[0], setting[1]]) {
                        HEADER_TABLE_SIZE => self.tableless = value < 4096,
                        INITIAL_WINDOW_SIZE => ensure!(value >= 65_535, "windows of {value} bytes"),
                        MAX_CONCURRENT_STREAMS => ensure!(value >= 100, "only {value} streams"),
                        _ => {}
                    }
                }
                let at = begin(out, SETTINGS, ACK, 0);
                finish(out, at);
            }
            PING if frame.flags & ACK == 0 => {
                let at = begin(out, PING, ACK, 0);
                out.extend_from_slice(payload);
                finish(out, at);
            }
            WINDOW_UPDATE if frame.stream == 0 => {
                let Some(more) = payload.first_chunk() else { bail!("a window update of {} bytes", payload.len()) };
                self.window += i64::from(u32::from_be_bytes(*more));
            }
            RST_STREAM => bail!("stream {} was reset: {payload:?}", frame.stream),
            GOAWAY => bail!("sent away: {}", String::from_utf8_lossy(payload)),
            _ => {}
        }
        Ok(())
    }
}

fn stream(number: u64) -> u32 {
    u32::try_from(2 * number + 1).expect("a connection of the load has fewer than 2^30 requests")
}

/// Writes a frame's head; [`finish`] fills in the length.
fn begin(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0, 0, 0, kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    at
}

fn finish(out: &mut [u8], at: usize) {
    let [high @ .., low] = u32::try_from(out.len() - at - 9).expect("frames are short").to_be_bytes();
    out[at..at + 3].copy_from_slice(&[high[1], high[2], low]);
}

fn update(out: &mut Vec<u8>, more: u32) {
    let at = begin(out, WINDOW_UPDATE, 0, 0);
    out.extend_from_slice(&more.to_be_bytes());
    finish(out, at);
}

/// A gRPC message.
fn message(out: &mut Vec<u8>) {
    let length = Kind::Grpc.body() - 5;
    out.extend_from_slice(&[0, 0, 0, 0, u8::try_from(length).expect("it is short")]);
    out.extend_from_slice(&BODY[..length]);
}

/// A literal with a name of its own (RFC 7541, section 6.2), without Huffman codes.
fn hpack_literal(block: &mut Vec<u8>, form: u8, name: &str, value: &[u8]) {
    block.push(form);
    for text in [name.as_bytes(), value] {
        hpack_integer(block, 0, 7, text.len());
        block.extend_from_slice(text);
    }
}

/// RFC 7541, section 5.1, with a prefix of `bits`, above which are the bits of `first`.
fn hpack_integer(block: &mut Vec<u8>, first: u8, bits: u32, value: usize) {
    let most = (1usize << bits) - 1;
    let byte = |value: usize| u8::try_from(value).expect("of a byte");
    if value < most {
        return block.push(first | byte(value));
    }
    block.push(first | byte(most));
    let mut rest = value - most;
    while rest >= 128 {
        block.push(byte(rest % 128) | 128);
        rest /= 128;
    }
    block.push(byte(rest));
}

/// Enters the peer's table; does not.
const INSERT: u8 = 0x40;
const LITERAL: u8 = 0;
/// A reply's trailer.
const STATUS: (&str, &str) = ("grpc-status", "0");

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const WINDOW: u32 = 1 << 30;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

const HEADER_TABLE_SIZE: u16 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

#[cfg(test)]
mod tests;

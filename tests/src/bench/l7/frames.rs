//! Frames of HTTP/2, as far as the load needs them (RFC 9113).

use anyhow::{Result, bail, ensure};

/// What both ends do alike: cutting frames, settings, pings and the connection's windows. Streams' own windows are never short:
/// the least that a peer may begin with without having been asked is 65,535 bytes.
pub(super) struct Frames {
    partial: Vec<u8>,
    /// Bytes that the peer still takes on the connection.
    pub(super) window: i64,
    /// Bytes of the window that the peer has used.
    used: u32,
    /// The peer keeps no table of headers.
    pub(super) tableless: bool,
}

pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: &'a [u8],
}

impl Default for Frames {
    fn default() -> Self {
        Self { partial: Vec::new(), window: 65_535, used: 0, tableless: false }
    }
}

impl Frames {
    pub(super) fn greet(out: &mut Vec<u8>) {
        let at = begin(out, SETTINGS, 0, 0);
        for (setting, value) in [(MAX_CONCURRENT_STREAMS, 1000), (INITIAL_WINDOW_SIZE, WINDOW)] {
            out.extend_from_slice(&setting.to_be_bytes());
            out.extend_from_slice(&u32::to_be_bytes(value));
        }
        finish(out, at);
        update(out, WINDOW);
    }

    pub(super) fn take(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        mut each: impl FnMut(Frame<'_>) -> Result<()>,
    ) -> Result<()> {
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
            // With code 0 (RFC 9113, section 6.8) it is an end in good order.
            GOAWAY if payload.get(4..8) != Some(&[0; 4]) => bail!("sent away: {}", String::from_utf8_lossy(payload)),
            _ => {}
        }
        Ok(())
    }
}

/// Writes a frame's head; [`finish`] fills in the length.
pub(super) fn begin(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0, 0, 0, kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    at
}

pub(super) fn finish(out: &mut [u8], at: usize) {
    let [high @ .., low] = u32::try_from(out.len() - at - 9).expect("frames are short").to_be_bytes();
    out[at..at + 3].copy_from_slice(&[high[1], high[2], low]);
}

pub(super) fn update(out: &mut Vec<u8>, more: u32) {
    let at = begin(out, WINDOW_UPDATE, 0, 0);
    out.extend_from_slice(&more.to_be_bytes());
    finish(out, at);
}

pub(super) const WINDOW: u32 = 1 << 30;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;

pub(super) const HEADER_TABLE_SIZE: u16 = 1;
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;

//! What was on the wire, byte for byte.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::node::Node;
use crate::place::Place;
use crate::program::Program;
use crate::topology::Topology;
use crate::wait::{PATIENCE, until};

/// A capture that runs: all frames between a node and the bridge, in both directions.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Program,
    file: PathBuf,
    wire: Place,
    node: SocketAddr,
}

impl Capture {
    /// Starts it and waits until it sees.
    ///
    /// # Errors
    /// When tcpdump cannot be started.
    pub fn start(topology: &Topology, node: &Node) -> Result<Capture> {
        let wire = topology.wire().clone();
        let file = unused(wire.dir().join(node.port()));
        let mut tcpdump = wire
            .command("tcpdump")
            // -Z root: dropping privileges would lose the right to write here. -B in KiB and -s in bytes: the ring has a
            // slot of the largest frame's size for each frame, so 2,000 of them may wait while others are written.
            .args(["-i", &node.port(), "-n", "-U", "-Z", "root", "-B", "131072", "-s", "65600"])
            .args(["--immediate-mode", "-w"])
            .arg(&file)
            .start()?;
        tcpdump.wait_logs("listening on")?;
        let capture = Capture { tcpdump, file, wire, node: (node.v4, DISCARD).into() };
        capture.mark(b"weft capture begins")?;
        Ok(capture)
    }

    /// Ends it when everything that was sent before this call is in the file.
    ///
    /// # Errors
    /// When the kernel dropped frames: then nothing can be said about what was not seen.
    pub fn stop(mut self) -> Result<Captured> {
        self.mark(b"weft capture ends")?;
        self.tcpdump.signal(Signal::SIGINT)?;
        self.tcpdump.wait_exit(PATIENCE)?;
        let log = self.tcpdump.log();
        if !log.contains("\n0 packets dropped by kernel") {
            bail!("frames are missing in the capture:\n{log}");
        }
        Ok(Captured { bytes: fs::read(&self.file)?, file: self.file })
    }

    /// Sends a datagram across the wire and waits until the capture has it: frames are written in order.
    fn mark(&self, text: &[u8]) -> Result<()> {
        let socket = self.wire.run(|| UdpSocket::bind("0.0.0.0:0"))?;
        let mut asked = 0;
        until("the capture to see a datagram", PATIENCE, || {
            // Again every few rounds: the first one may have come before the capture, or wait for a neighbour's address.
            if asked % 8 == 0 {
                socket.send_to(text, self.node).ok()?;
            }
            asked += 1;
            fs::read(&self.file).ok().filter(|bytes| find(bytes, text))
        })?;
        Ok(())
    }
}

/// A finished capture.
#[derive(Debug)]
pub struct Captured {
    bytes: Vec<u8>,
    file: PathBuf,
}

impl Captured {
    /// Whether `marker` was readable in one frame. Send markers in one short write, and prove with a positive control that
    /// the capture would have seen them.
    #[must_use]
    pub fn contains(&self, marker: &[u8]) -> bool {
        find(&self.bytes, marker)
    }

    /// The first frame in which `marker` is readable, as tcpdump prints it (`-A`): its head, and the line with the marker.
    ///
    /// # Errors
    /// When tcpdump cannot read the capture.
    pub fn quote(&self, wire: &Place, marker: &str) -> Result<Option<[String; 2]>> {
        let text = self.printed(wire, &["-A", "-q", "-t"])?;
        let mut head = "";
        for line in text.lines() {
            if line.starts_with("IP") {
                head = line;
            }
            if line.contains(marker) {
                return Ok(Some([head.to_owned(), line.trim().to_owned()]));
            }
        }
        Ok(None)
    }

    /// Frames to or from `port`, as tcpdump prints them, a line each.
    ///
    /// # Errors
    /// When tcpdump cannot read the capture.
    pub fn frames_of(&self, wire: &Place, port: u16) -> Result<Vec<String>> {
        let text = self.printed(wire, &["-q", "-t", "port", &port.to_string()])?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Its size with headers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The capture as tcpdump prints it, for a message when an assertion fails.
    ///
    /// # Errors
    /// When tcpdump cannot read it.
    pub fn print(&self, wire: &Place) -> Result<String> {
        self.printed(wire, &[])
    }

    /// The file that tcpdump wrote.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    fn printed(&self, wire: &Place, more: &[&str]) -> Result<String> {
        let print = wire.command("tcpdump").args(["-n", "-r"]).arg(&self.file).args(more);
        let output = print.output_within(Duration::from_secs(30)).context("print the capture")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn find(bytes: &[u8], marker: &[u8]) -> bool {
    let Some((first, rest)) = marker.split_first() else { return true };
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| byte == first) {
        from += at + 1;
        if bytes[from..].starts_with(rest) {
            return true;
        }
    }
    false
}

fn unused(stem: PathBuf) -> PathBuf {
    (0..).map(|n| stem.with_extension(format!("{n}.pcap"))).find(|path| !path.exists()).expect("numbers do not end")
}

/// RFC 863: what arrives there is thrown away.
const DISCARD: u16 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_found_wherever_it_is() {
        assert!(find(b"aab", b"ab"));
        assert!(find(b"marker", b"marker"));
        assert!(find(b"x marke marker", b"marker"));
        assert!(!find(b"marke", b"marker"));
        assert!(!find(b"", b"m"));
    }
}

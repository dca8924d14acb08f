//! What two ends of a connection do, as text, and what each of them saw: for tables of ways to close.
//!
//! ```text
//! client: "send 5, fin, read all"         saw: "sent 5; fin; read 7, then end"
//! server: "read all, send 7, close"       saw: "read 5, then end; sent 7; closed"
//! ```
//!
//! A dialogue is run once over plain TCP and once through the mesh: both ends have to see the same.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::str::FromStr;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail};
use socket2::SockRef;

/// One thing that an end does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// `send N`: writes N bytes
    Send(usize),
    /// `read N`: reads exactly N bytes
    Read(usize),
    /// `read all`: reads until the peer's FIN or a reset
    ReadAll,
    /// `fin`: ends its own direction
    Fin,
    /// `close`: drops the socket; a reset instead of a FIN when there was something to read, as TCP has it
    Close,
    /// `reset`: drops the socket with a reset
    Reset,
    /// `send until refused`: writes until that fails, at most for [`TIMEOUT`]
    SendUntilRefused,
    /// `meet`: waits until the other end has come to its own `meet`
    Meet,
}

/// What an end does from connect or accept on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script(Vec<Step>);

impl FromStr for Script {
    type Err = Error;

    fn from_str(text: &str) -> Result<Script> {
        text.split(',').map(|step| step.trim().parse()).collect::<Result<_>>().map(Script)
    }
}

impl FromStr for Step {
    type Err = Error;

    fn from_str(text: &str) -> Result<Step> {
        let bytes = |count: &str| count.parse::<usize>().with_context(|| format!("{text:?} counts no bytes"));
        Ok(match text {
            "read all" => Step::ReadAll,
            "fin" => Step::Fin,
            "close" => Step::Close,
            "reset" => Step::Reset,
            "send until refused" => Step::SendUntilRefused,
            "meet" => Step::Meet,
            _ => match text.split_once(' ') {
                Some(("send", count)) => Step::Send(bytes(count)?),
                Some(("read", count)) => Step::Read(bytes(count)?),
                _ => bail!("{text:?} is no step"),
            },
        })
    }
}

/// What both ends saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub client: String,
    pub server: String,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client: {}\nserver: {}", self.client, self.server)
    }
}

/// Plays both scripts, `client` on one end and `server` on the other of a connection.
///
/// # Errors
/// When a script cannot be read, or only one of them has a `meet` for each of the other's.
pub fn play(client: (TcpStream, &str), server: (TcpStream, &str)) -> Result<Seen> {
    let scripts: [Script; 2] = [client.1.parse()?, server.1.parse()?];
    let [there, here] = scripts.each_ref().map(|Script(steps)| steps.iter().filter(|s| **s == Step::Meet).count());
    if there != here {
        bail!("one end would wait for ever: {there} times meet against {here}");
    }
    let meeting = Barrier::new(2);
    let [client_script, server_script] = scripts;
    let (client, server) = thread::scope(|scope| {
        let far = scope.spawn(|| act(server.0, &server_script, &meeting));
        (act(client.0, &client_script, &meeting), far.join())
    });
    let server = server.map_err(|_| Error::msg("the server's end panicked"))?;
    Ok(Seen { client: client.join("; "), server: server.join("; ") })
}

/// Plays one script, of one end, that does not meet the other.
///
/// # Errors
/// When it cannot be read.
pub fn speak(stream: TcpStream, script: &str) -> Result<String> {
    let script: Script = script.parse()?;
    if script.0.contains(&Step::Meet) {
        bail!("there is nobody to meet");
    }
    Ok(act(stream, &script, &Barrier::new(1)).join("; "))
}

/// Plays one end; a step that fails is seen, and the next ones are tried all the same.
fn act(stream: TcpStream, script: &Script, meeting: &Barrier) -> Vec<String> {
    let mut open = Some(stream);
    let mut seen = Vec::new();
    for step in &script.0 {
        if *step == Step::Meet {
            meeting.wait();
            continue;
        }
        let Some(stream) = &open else {
            seen.push("already closed".to_owned());
            continue;
        };
        seen.push(match step {
            Step::Send(count) => said((&*stream).write_all(&vec![b'x'; *count]).map(|()| format!("sent {count}"))),
            Step::Read(count) => read(stream, Some(*count)),
            Step::ReadAll => read(stream, None),
            Step::Fin => said(stream.shutdown(Shutdown::Write).map(|()| "fin".to_owned())),
            Step::SendUntilRefused => send_until_refused(stream),
            Step::Close => {
                open = None;
                "closed".to_owned()
            }
            Step::Reset => {
                let lingered = SockRef::from(stream).set_linger(Some(Duration::ZERO));
                open = None;
                said(lingered.map(|()| "reset".to_owned()))
            }
            Step::Meet => unreachable!("taken above"),
        });
    }
    seen
}

fn read(mut stream: &TcpStream, exactly: Option<usize>) -> String {
    let mut buffer = [0; 64 << 10];
    let mut total = 0;
    if let Err(error) = stream.set_read_timeout(Some(TIMEOUT)) {
        return said(Err(error));
    }
    loop {
        let wanted = exactly.map_or(buffer.len(), |exactly| (exactly - total).min(buffer.len()));
        if wanted == 0 {
            return format!("read {total}");
        }
        match stream.read(&mut buffer[..wanted]) {
            Ok(0) => return format!("read {total}, then end"),
            Ok(length) => total += length,
            Err(error) => return format!("read {total}, then {}", name(&error)),
        }
    }
}

fn send_until_refused(mut stream: &TcpStream) -> String {
    let begun = Instant::now();
    if let Err(error) = stream.set_write_timeout(Some(TIMEOUT)) {
        return said(Err(error));
    }
    while begun.elapsed() < TIMEOUT {
        match stream.write(&[b'x'; 1024]) {
            // A full buffer is no refusal, and neither are broken pipe and reset told apart: which of them comes
            // depends on who wrote last.
            Err(error) if error.kind() == ErrorKind::WouldBlock => return "never refused".to_owned(),
            Err(_) => return "refused".to_owned(),
            Ok(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
    "never refused".to_owned()
}

fn said(result: io::Result<String>) -> String {
    result.unwrap_or_else(|error| name(&error))
}

fn name(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionReset => "reset".to_owned(),
        ErrorKind::BrokenPipe => "broken pipe".to_owned(),
        ErrorKind::NotConnected => "not connected".to_owned(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "silence".to_owned(),
        _ => error.to_string(),
    }
}

/// How long an end waits for the other before it calls that silence.
const TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[track_caller]
    fn check(client: &str, server: &str, seen: &str) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        assert_eq!(play((near, client), (far, server)).unwrap().to_string(), seen);
    }

    #[test]
    fn a_half_closed_end_still_reads() {
        check(
            "send 5, fin, read all",
            "read all, send 7, close",
            "client: sent 5; fin; read 7, then end\nserver: read 5, then end; sent 7; closed",
        );
    }

    #[test]
    fn a_reset_is_told_from_an_end() {
        check(
            "send 5, meet, read all",
            "read 5, meet, reset",
            "client: sent 5; read 0, then reset\nserver: read 5; reset",
        );
        check("meet, read all, close", "meet, close", "client: read 0, then end; closed\nserver: closed");
    }

    #[test]
    fn unread_bytes_turn_a_close_into_a_reset() {
        check(
            "send 9, meet, read all",
            "read 1, meet, close",
            "client: sent 9; read 0, then reset\nserver: read 1; closed",
        );
    }

    #[test]
    fn a_peer_that_left_refuses_in_the_end() {
        check(
            "send until refused, fin",
            "close, fin",
            "client: refused; not connected\nserver: closed; already closed",
        );
    }

    #[test]
    fn a_script_that_makes_no_sense_is_an_error() {
        for bad in ["sned 5", "send", "send five", "read some", ""] {
            assert!(bad.parse::<Script>().is_err(), "{bad}");
        }
    }
}

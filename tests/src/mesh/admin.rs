//! Admin endpoints of a mesh's programs, which listen on the loopback of the place that each is in.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::place::Place;
use crate::program::Program;
use crate::wait::{PATIENCE, until};

/// Where an agent serves it unless it is told otherwise.
pub(super) const AGENT_ADMIN: u16 = 15000;

/// Waits until `program` says at its admin endpoint that it is ready.
pub(crate) fn wait_ready(place: &Place, program: &mut Program, port: u16) -> Result<()> {
    program.wait_listens(port)?;
    until("readiness", PATIENCE, || match get(place, port, "/healthz/ready") {
        Ok(_) => Some(Ok(())),
        Err(_) => program.ended().map(|status| Err(anyhow::anyhow!("it ended ({status})"))),
    })
    .and_then(|ready| ready)
    .with_context(|| program.log())
}

/// What a program in `place` serves at `path` of its admin endpoint.
pub(crate) fn admin_of(place: &Place, path: &str) -> Result<String> {
    get(place, AGENT_ADMIN, path)
}

/// The list `list` of a page of connections.
pub(super) fn rows(page: &str, list: &str) -> Result<Vec<Value>> {
    let page: Value = serde_json::from_str(page)?;
    page[list].as_array().cloned().with_context(|| format!("no list {list} in {page:#}"))
}

/// One HTTP/1.0 request to the loopback of `place`, so that the answer ends with the connection.
pub(super) fn get(place: &Place, port: u16, path: &str) -> Result<String> {
    let mut stream = place.run(|| TcpStream::connect(("127.0.0.1", port)))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without an end of its head")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("{path}: {status}: {body}");
    }
    Ok(body.to_owned())
}

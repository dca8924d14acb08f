//! Plain HTTP to a port of loopback: one request, one answer.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, bail};

use crate::wait::PATIENCE;

/// The body of a page.
pub(super) fn get(address: &str, path: &str) -> Result<String> {
    request(address, &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n"))
}

/// The body of the answer to `json`.
pub(super) fn post(address: &str, path: &str, json: &str) -> Result<String> {
    let length = json.len();
    let head = format!("POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\n");
    request(address, &format!("{head}Content-Length: {length}\r\n\r\n{json}"))
}

fn request(address: &str, text: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(text.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer of HTTP")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("{}: {body}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

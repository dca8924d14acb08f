//! HTTP/1.1 messages as they are on the wire, for both ends of a proxy.

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt};

/// A request or a response.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Message {
    /// The first line.
    pub(crate) line: String,
    /// Names in lower case, in order.
    pub(crate) headers: Vec<(String, String)>,
    /// Without the chunks' own bytes.
    pub(crate) body: String,
}

impl Message {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn status(&self) -> Option<u16> {
        self.line.split(' ').nth(1)?.parse().ok()
    }

    fn head(text: &str) -> Message {
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let pairs = lines.filter_map(|line| line.split_once(':'));
        let headers = pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Message { line, headers, body: String::new() }
    }
}

/// The next message, interim responses passed over; `None` at the stream's end. `bodiless`: it is a response that has no body
/// whatever its head says.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    bodiless: bool,
) -> Result<Option<Message>> {
    loop {
        let end = loop {
            if let Some(at) = find(buffer, b"\r\n\r\n") {
                break at;
            }
            if !more(stream, buffer).await? {
                if buffer.is_empty() {
                    return Ok(None);
                }
                bail!("ended within a head: {:?}", String::from_utf8_lossy(buffer));
            }
        };
        let mut message = Message::head(&String::from_utf8_lossy(&buffer[..end]));
        buffer.drain(..end + 4);
        let status = message.line.starts_with("HTTP/").then(|| message.status()).flatten();
        match status {
            Some(101) => return Ok(Some(message)),
            Some(100..200) => continue,
            Some(204 | 304) => return Ok(Some(message)),
            _ if bodiless => return Ok(Some(message)),
            _ => {}
        }
        let body = body(stream, buffer, &message, status.is_some()).await?;
        message.body = String::from_utf8_lossy(&body).into_owned();
        return Ok(Some(message));
    }
}

async fn body(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    head: &Message,
    is_response: bool,
) -> Result<Vec<u8>> {
    if head.header("transfer-encoding").is_some() {
        ensure!(head.header("content-length").is_none(), "framed twice: {head:?}");
        let mut whole = Vec::new();
        loop {
            let line = take_line(stream, buffer).await?;
            let size =
                usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16).context("a chunk")?;
            whole.extend(take(stream, buffer, size).await?);
            // Behind the last one are trailers, which are passed over.
            while !take_line(stream, buffer).await?.is_empty() && size == 0 {}
            if size == 0 {
                return Ok(whole);
            }
        }
    }
    match head.header("content-length") {
        Some(length) => take(stream, buffer, length.parse().context("a length")?).await,
        None if is_response => {
            while more(stream, buffer).await? {}
            Ok(std::mem::take(buffer))
        }
        None => Ok(Vec::new()),
    }
}

async fn take_line(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Result<String> {
    loop {
        if let Some(at) = find(buffer, b"\r\n") {
            let line = String::from_utf8_lossy(&buffer[..at]).into_owned();
            buffer.drain(..at + 2);
            return Ok(line);
        }
        if !more(stream, buffer).await? {
            bail!("ended within a body");
        }
    }
}

async fn take(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>, count: usize) -> Result<Vec<u8>> {
    while buffer.len() < count {
        if !more(stream, buffer).await? {
            bail!("ended within a body");
        }
    }
    Ok(buffer.drain(..count).collect())
}

async fn more(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Result<bool> {
    Ok(stream.read_buf(buffer).await? > 0)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

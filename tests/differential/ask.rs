//! What is asked, and what comes back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::message::{Message, read};

/// Something to be sent over a connection of its own.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    bytes: Vec<u8>,
    /// Responses that are read before the connection is closed.
    responses: usize,
    /// Over HTTP/2 in place of the bytes.
    second: Option<Second>,
    /// Of responses only whether it is a refusal is compared.
    pub(crate) coarse: bool,
    /// Why the two do not do the same.
    pub(crate) differs: Option<&'static str>,
    /// Others like it are under way at the same time.
    pub(crate) crowd: usize,
}

/// A request without a body.
#[derive(Clone, Debug)]
struct Second {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) replies: Vec<Message>,
    /// Whether the other side ended the connection.
    pub(crate) ended: bool,
}

/// A request without a body.
pub(crate) fn ask(method: &str, target: &str, headers: &[&str]) -> Ask {
    let lines: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let host = if lines.to_ascii_lowercase().starts_with("host:") { "" } else { "host: web\r\n" };
    raw(format!("{method} {target} HTTP/1.1\r\n{host}{lines}\r\n").as_bytes())
}

pub(crate) fn get(target: &str) -> Ask {
    ask("GET", target, &[])
}

/// As it is written.
pub(crate) fn raw(bytes: &[u8]) -> Ask {
    Ask { bytes: bytes.to_vec(), responses: 1, second: None, coarse: false, differs: None, crowd: 1 }
}

impl Ask {
    /// Over HTTP/2.
    pub(crate) fn second(method: &str, target: &str, headers: &[(&str, &str)]) -> Ask {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Ask { second: Some(Second { method: method.to_owned(), target: target.to_owned(), headers }), ..raw(b"") }
    }

    /// So many responses are expected on the connection.
    pub(crate) fn responses(mut self, responses: usize) -> Ask {
        self.responses = responses;
        self
    }

    /// Refused is refused, whatever is said to it.
    pub(crate) fn coarse(mut self) -> Ask {
        self.coarse = true;
        self
    }

    /// The two differ on purpose, and if they do not any more, this is to go.
    pub(crate) fn differs(mut self, why: &'static str) -> Ask {
        self.differs = Some(why);
        self
    }

    /// So many at once: what comes back is compared as a whole, in any order.
    pub(crate) fn crowd(mut self, count: usize) -> Ask {
        self.crowd = count;
        self
    }

    pub(crate) fn name(&self) -> String {
        match &self.second {
            Some(Second { method, target, headers }) => format!("h2 {method} {target} {headers:?}"),
            None => {
                String::from_utf8_lossy(&self.bytes).chars().take(300).collect::<String>().escape_debug().to_string()
            }
        }
    }

    /// Sends it to a proxy; how long the last response took.
    pub(crate) async fn send(&self, to: SocketAddr) -> Result<(Outcome, Duration)> {
        let begun = Instant::now();
        let sent = async {
            match &self.second {
                Some(request) => over_second(to, request).await,
                None => self.over_first(to).await,
            }
        };
        let outcome = timeout(PATIENCE, sent).await.context("no response")??;
        Ok((outcome, begun.elapsed()))
    }

    async fn over_first(&self, to: SocketAddr) -> Result<Outcome> {
        let mut stream = TcpStream::connect(to).await?;
        stream.write_all(&self.bytes).await?;
        let (mut outcome, mut buffer) = (Outcome::default(), Vec::new());
        let bodiless = self.bytes.starts_with(b"HEAD ");
        for _ in 0..self.responses {
            match read(&mut stream, &mut buffer, bodiless).await {
                Ok(Some(message)) => outcome.replies.push(message),
                Ok(None) | Err(_) => {
                    outcome.ended = true;
                    return Ok(outcome);
                }
            }
        }
        Ok(outcome)
    }
}

async fn over_second(to: SocketAddr, request: &Second) -> Result<Outcome> {
    let Second { method, target, headers } = request;
    let io = TokioIo::new(TcpStream::connect(to).await?);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
    tokio::task::spawn_local(connection);
    let mut request = Request::builder().method(method.as_str()).uri(format!("http://web{target}"));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let Ok(response) = sender.send_request(request.body(Full::new(Bytes::new()))?).await else {
        return Ok(Outcome { ended: true, ..Outcome::default() });
    };
    let (head, body) = response.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let pairs = head.headers.iter().chain(&trailers);
    let headers = pairs.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let message = Message {
        line: format!("HTTP/2 {}", head.status.as_u16()),
        headers: headers.collect(),
        body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    };
    Ok(Outcome { replies: vec![message], ended: false })
}

/// For a response.
const PATIENCE: Duration = Duration::from_secs(15);

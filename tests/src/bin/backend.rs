//! An HTTP server that answers with what it was asked, and does as the query says. HTTP/1 and HTTP/2 in clear text.
//!
//! ```text
//! GET /any/path?status=503&first=2&delay=100&bytes=1000&set=x-y:z
//!   status  the answer's, 200 if not said
//!   first   that status for the first so many requests with this path and query, 200 from then on
//!   delay   milliseconds before the answer
//!   bytes   a body of so many bytes in place of the report
//!   set     a header of the answer; may be said often
//!   reset   ends the connection without an answer
//! ```
//! The report is JSON: `name`, `method`, `target`, `version`, `headers` (a list of name and value, in order), `body`, `peer`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::net::TcpListener;

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    port: u16,
    /// What it calls itself: in the report, and in the header `served-by`.
    #[arg(long)]
    name: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Arguments { port, name } = Arguments::parse();
    let listener = TcpListener::bind(("::", port)).await?;
    let state = Arc::new(State { name, seen: Mutex::default() });
    loop {
        let (stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let state = state.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let state = state.clone();
                async move { state.answer(request, peer).await }
            });
            // A client that goes away is no failure of the server.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

struct State {
    name: String,
    /// Requests by path and query.
    seen: Mutex<HashMap<String, u32>>,
}

/// Ends the connection.
#[derive(Debug)]
struct Reset;

impl std::fmt::Display for Reset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("as the query says")
    }
}

impl std::error::Error for Reset {}

impl From<Infallible> for Reset {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Result<Response<Full<Bytes>>, Reset> {
        let (head, body) = request.into_parts();
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let said = |name: &str| {
            let pairs = head.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(own, _)| *own == name).map(|(_, value)| value.to_owned()).collect::<Vec<_>>()
        };
        let number = |name: &str| said(name).first().and_then(|text| text.parse::<u64>().ok());
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let times = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let times = seen.entry(target.clone()).or_default();
            *times += 1;
            u64::from(*times)
        };
        if let Some(delay) = number("delay") {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        let is_due = number("first").is_none_or(|first| times <= first);
        if !said("reset").is_empty() && is_due {
            return Err(Reset);
        }
        let status = number("status").filter(|_| is_due).and_then(|status| u16::try_from(status).ok()).unwrap_or(200);
        let headers: Vec<_> = head
            .headers
            .iter()
            .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
            .collect();
        let report = json!({
            "name": self.name,
            "method": head.method.as_str(),
            "target": target,
            "authority": head.uri.authority().map(ToString::to_string),
            "version": format!("{:?}", head.version),
            "headers": headers,
            "body": String::from_utf8_lossy(&body),
            "peer": peer.to_string(),
        });
        let body = match number("bytes") {
            Some(bytes) => vec![b'x'; usize::try_from(bytes).unwrap_or(usize::MAX)],
            None => report.to_string().into_bytes(),
        };
        let mut response = Response::builder().status(status).header("served-by", &self.name);
        for pair in said("set") {
            if let Some((name, value)) = pair.split_once(':') {
                response = response.header(name, value);
            }
        }
        Ok(response.body(Full::new(body.into())).unwrap_or_default())
    }
}

//! Backends on loopback that write down what they are sent, to the byte, and answer as the query says. HTTP/1.1, by hand: a library
//! would hide or refuse what is odd.
//!
//! ```text
//! GET /any?status=503&first=2&delay=100&set=x-y:z&reset=1
//!   status  the answer's, 200 if not said
//!   first   that status, or a reset, for the first so many requests with this target
//!   delay   milliseconds before the answer
//!   set     a header of the answer; may be said often
//!   reset   ends the connection without an answer
//! ```

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::message::{Message, read};

/// A request as a backend got it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    /// Which backend.
    pub(crate) by: &'static str,
    pub(crate) message: Message,
}

/// The backends of one side.
#[derive(Clone, Default)]
pub(crate) struct Backends {
    seen: Rc<RefCell<Vec<Seen>>>,
    times: Rc<RefCell<HashMap<(&'static str, String), u32>>>,
}

impl Backends {
    /// One for each of [`NAMES`], at its number in the network of `side`. In a [`tokio::task::LocalSet`].
    pub(crate) async fn start(side: u8) -> Result<Backends> {
        let backends = Backends::default();
        for (name, _) in NAMES.into_iter().filter(|(name, _)| *name != DEAD) {
            let listener = TcpListener::bind(at(side, name)).await?;
            let backends = backends.clone();
            tokio::task::spawn_local(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let backends = backends.clone();
                    tokio::task::spawn_local(async move { backends.serve(stream, name).await });
                }
            });
        }
        Ok(backends)
    }

    /// What they got since this was asked before.
    pub(crate) fn take_seen(&self) -> Vec<Seen> {
        let mut seen = self.seen.take();
        // Copies for a mirror come when they come.
        seen.sort_by_key(|seen| seen.by);
        seen
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.borrow().len()
    }

    async fn serve(&self, mut stream: TcpStream, by: &'static str) {
        let mut buffer = Vec::new();
        // A proxy that goes away is no failure.
        while let Ok(Some(message)) = read(&mut stream, &mut buffer, false).await {
            let target = message.line.split(' ').nth(1).unwrap_or_default().to_owned();
            let is_head = message.line.starts_with("HEAD ");
            self.seen.borrow_mut().push(Seen { by, message });
            let times = {
                let mut all = self.times.borrow_mut();
                let times = all.entry((by, target.clone())).or_default();
                *times += 1;
                *times
            };
            match answer(&target, times, is_head, by).await {
                Some(answer) if stream.write_all(answer.as_bytes()).await.is_ok() => {}
                _ => {
                    // A reset, not an end.
                    let _ = stream.set_zero_linger();
                    return;
                }
            }
        }
        let _ = stream.read(&mut [0]).await;
    }
}

async fn answer(target: &str, times: u32, is_head: bool, by: &str) -> Option<String> {
    let query = target.split_once('?').map(|(_, query)| query).unwrap_or_default();
    let said = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(own, _)| *own == name).map(|(_, value)| value.to_owned()).collect::<Vec<_>>()
    };
    let number = |name: &str| said(name).first().and_then(|text| text.parse::<u32>().ok());
    if let Some(delay) = number("delay") {
        tokio::time::sleep(Duration::from_millis(delay.into())).await;
    }
    let is_due = number("first").is_none_or(|first| times <= first);
    if is_due && !said("reset").is_empty() {
        return None;
    }
    let status = number("status").filter(|_| is_due).unwrap_or(200);
    let lines: Vec<String> = said("set").iter().map(|pair| format!("{}\r\n", pair.replacen(':', ": ", 1))).collect();
    let body = format!("said by {by}\n");
    let length =
        if [204, 304].contains(&status) { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let body = if is_head || length.is_empty() { "" } else { &body };
    Some(format!("HTTP/1.1 {status} Said\r\nserver: own\r\n{length}{}\r\n{body}", lines.concat()))
}

/// Where `name` is for `side`.
pub(crate) fn at(side: u8, name: &str) -> SocketAddr {
    let number = NAMES.into_iter().find(|(own, _)| *own == name).map_or(0, |(_, number)| number);
    SocketAddr::new(IpAddr::from([127, 0, side, number]), PORT)
}

/// Backends, and the last part of their addresses: services of these names, `pair` having both of its.
pub(crate) const NAMES: [(&str, u8); 5] = [("web", 1), ("other", 2), ("pair-1", 5), ("pair-2", 6), (DEAD, 9)];
/// Nobody listens there.
const DEAD: &str = "dead";
pub(crate) const PORT: u16 = 9080;

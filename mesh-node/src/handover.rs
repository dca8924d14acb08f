//! The admin endpoint passes from an agent to its successor on the same node.
//!
//! ```text
//! successor: the port is taken  --PUT /yield-->  predecessor: another agent has my pods? then it is yours
//! ```
//! Two agents of one node share its network namespace, so there is one such port for both. Who has it is the agent that has
//! the pods: readiness that is asked for there is about the right one.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use mesh_net::admin::{self, Response, Router};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::pods::PodsView;

/// How long a predecessor may take to see that it has one.
const YIELDS_WITHIN: Duration = Duration::from_secs(15);
/// Pause between two attempts, and longest wait for the answer to one.
const PAUSE: Duration = Duration::from_millis(100);
const ANSWER: Duration = Duration::from_secs(2);

/// Adds the pages by which agents of a node tell each other apart: `/yield`, and `/healthz/started`, which is 200 for the
/// instance that is asked for. The notification says that the address is to be given up.
pub fn pages(router: Router, instance: String, pods: watch::Receiver<PodsView>) -> (Router, Arc<Notify>) {
    let asked = Arc::new(Notify::new());
    let told = asked.clone();
    let router = router
        .put("/yield", move |_| {
            if !pods.borrow().superseded {
                return Response::text(StatusCode::CONFLICT, "no other agent has taken over this node's pods\n");
            }
            told.notify_one();
            Response::text(StatusCode::OK, "yours\n")
        })
        .get("/healthz/started", move |query| match query.get("instance") {
            Some(asked) if *asked != instance => {
                Response::text(StatusCode::SERVICE_UNAVAILABLE, format!("this is another agent: {instance:?}\n"))
            }
            _ => Response::text(StatusCode::OK, "started\n"),
        });
    (router, asked)
}

/// Listens at `address`. An agent that has it and whose pods are ours by now is asked to give it up.
///
/// # Errors
/// Somebody else has the address, or it cannot be one.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let deadline = Instant::now() + YIELDS_WITHIN;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                // Whatever the answer: the next attempt shows what has come of it.
                let _ = timeout(ANSWER, request(address, "PUT", "/yield")).await;
                sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

/// Serves until dropped; when asked to yield, from then on at a port of the kernel's choice.
pub async fn serve(listener: TcpListener, router: Router, asked: Arc<Notify>) {
    tokio::select! {
        _ = admin::serve(listener, router.clone()) => {}
        () = asked.notified() => {}
    }
    // What this agent still carries can be looked at.
    match TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await {
        Ok(listener) => {
            let address = listener.local_addr().ok();
            info!(admin = ?address, "the successor has the admin endpoint; this agent's own is here");
            admin::serve(listener, router).await;
        }
        Err(error) => warn!(%error, "the successor has the admin endpoint, and this agent has none"),
    }
}

/// Whether the agent at `address` is `instance` and has started.
///
/// # Errors
/// What it is or lacks, or that nobody answers.
pub async fn started(address: SocketAddr, instance: &str) -> Result<(), String> {
    let instance: String = instance.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let path = format!("/healthz/started?instance={instance}");
    match timeout(ANSWER, request(address, "GET", &path)).await {
        Ok(Ok((200, _))) => Ok(()),
        Ok(Ok((status, said))) => Err(format!("{address} says {status}: {}", said.trim())),
        Ok(Err(error)) => Err(format!("ask the agent at {address}: {error}")),
        Err(_) => Err(format!("the agent at {address} does not answer")),
    }
}

/// Status and body of an answer; both agents are ours, and answers short.
async fn request(address: SocketAddr, method: &str, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(MOST).read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no HTTP"))?;
    Ok((status, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned()))
}

/// Bytes of an answer that are read.
const MOST: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn view(superseded: bool) -> watch::Receiver<PodsView> {
        watch::channel(PodsView { superseded, ..PodsView::default() }).1
    }

    #[tokio::test]
    async fn an_address_passes_to_the_successor_and_to_nobody_before() {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = first.local_addr().unwrap();
        let (tell, pods) = watch::channel(PodsView::default());
        let (router, asked) = pages(Router::new(), "first".to_owned(), pods);
        tokio::spawn(serve(first, router, asked));
        assert_eq!(started(address, "first").await, Ok(()));
        assert_eq!(request(address, "PUT", "/yield").await.unwrap().0, 409);
        assert!(started(address, "second").await.unwrap_err().contains("\"first\""));

        tell.send_replace(PodsView { superseded: true, ..PodsView::default() });
        let second = listen(address).await.unwrap();
        let (router, asked) = pages(Router::new(), "second".to_owned(), view(false));
        tokio::spawn(serve(second, router, asked));
        assert_eq!(started(address, "second").await, Ok(()));
        assert!(started(address, "first").await.is_err());
    }

    #[tokio::test]
    async fn nobody_there_is_not_started() {
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
        assert!(started(closed, "one").await.unwrap_err().contains("ask the agent at"));
    }
}

//! What a client says before its stream is open, over lanes and HBONE.

use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use mesh_net::tls::{self, ALPN_H2, ALPN_WEFT, Credentials, TrustDomains};
use mesh_net::tunnel::Config;
use mesh_net::tunnel::client::{self, Berth, Lane, OpenError, ReplyHead, Tunnel};
use mesh_net::tunnel::early::Early;
use mesh_net::tunnel::head::Head;
use mesh_net::tunnel::server::{self, Status};
use mesh_net::tunnel::stream::Stream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::pair::{LONG, Mesh, handshake_over, id, read_to_end};

/// Says `words`, from the beginning or once it is told to.
struct Client {
    words: &'static [u8],
    when: Option<oneshot::Receiver<()>>,
}

impl Client {
    fn now(words: &'static [u8]) -> Self {
        Self { words, when: None }
    }

    fn later(words: &'static [u8]) -> (Self, oneshot::Sender<()>) {
        let (now, when) = oneshot::channel();
        (Self { words, when: Some(when) }, now)
    }
}

impl Early for Client {
    fn poll_said(&mut self, cx: &mut Context<'_>) -> Poll<&[u8]> {
        if let Some(when) = &mut self.when {
            std::task::ready!(std::pin::pin!(when).poll(cx)).unwrap();
            self.when = None;
        }
        Poll::Ready(self.words)
    }
}

#[derive(Default)]
struct Free(Mutex<Vec<Lane>>);

impl Berth for Free {
    fn back(&self, lane: Lane) {
        self.0.lock().unwrap().push(lane);
    }
}

/// A tunnel of either kind.
struct Pair {
    lanes: Arc<Free>,
    /// `None`: lanes.
    hbone: Option<client::Connection>,
    server: server::Connection,
}

impl Pair {
    async fn both() -> [Self; 2] {
        [Self::new(ALPN_WEFT).await, Self::new(ALPN_H2).await]
    }

    async fn new(alpn: &'static [u8]) -> Self {
        let mesh = Mesh::new();
        let (client, server) = handshake_over(&mesh.web, &mesh.db, &[id("db")], [&[alpn], &[alpn]]).await;
        let lanes = Arc::new(Free::default());
        let hbone = match client::begin(client.unwrap(), &Config::default()) {
            Tunnel::Lane(lane) => {
                lanes.back(lane);
                None
            }
            Tunnel::Shared(connection, driver) => {
                tokio::spawn(driver);
                Some(connection)
            }
        };
        let server = server::Connection::handshake(server.unwrap(), &Config::default()).await.unwrap();
        Self { lanes, hbone, server }
    }

    async fn ask(
        lanes: &Arc<Free>,
        hbone: &Option<client::Connection>,
        client: &mut Client,
        limit: Duration,
    ) -> Result<(ReplyHead, Stream), OpenError> {
        let head = Head::to("10.0.0.1:80");
        match hbone {
            Some(connection) => connection.open(&head, limit, Some(client)).await,
            None => {
                let lane = lanes.0.lock().unwrap().pop().expect("a lane is free");
                lane.open(&head, limit, Some(client), lanes.clone()).await
            }
        }
    }
}

#[tokio::test]
async fn the_first_words_go_along_with_the_question_and_are_the_streams_first_bytes() {
    for Pair { lanes, hbone, mut server } in Pair::both().await {
        let mut client = Client::now(b"GET / ");
        let asking = Pair::ask(&lanes, &hbone, &mut client, LONG);
        let serving = async {
            let far = server.accept().await.unwrap().unwrap().accept(None).unwrap().split();
            // An HBONE connection's bytes move while somebody accepts.
            tokio::spawn(async move { server.accept().await.map(drop) });
            far
        };
        let (opened, (mut far_send, mut far_recv)) = tokio::join!(asking, serving);
        let (reply, stream) = opened.unwrap();
        assert_eq!(reply.early, 6);
        let (mut send, mut recv) = stream.split();
        send.send(b"HTTP/1.1").await.unwrap();
        send.finish();
        assert_eq!(timeout(LONG, read_to_end(&mut far_recv)).await.unwrap().unwrap(), b"GET / HTTP/1.1");
        far_send.finish();
        assert_eq!(timeout(LONG, read_to_end(&mut recv)).await.unwrap().unwrap(), b"");
    }
}

#[tokio::test]
async fn what_is_said_while_the_answer_is_awaited_goes_at_once() {
    for Pair { lanes, hbone, mut server } in Pair::both().await {
        let (mut client, now) = Client::later(b"late");
        let asking = Pair::ask(&lanes, &hbone, &mut client, LONG);
        let serving = async {
            let request = server.accept().await.unwrap().unwrap();
            now.send(()).unwrap();
            // Long enough for the words to be on their way before the answer is.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let far = request.accept(None).unwrap().split();
            tokio::spawn(async move { server.accept().await.map(drop) });
            far
        };
        let (opened, (_far_send, mut far_recv)) = tokio::join!(asking, serving);
        let (reply, _stream) = opened.unwrap();
        assert_eq!(reply.early, 4);
        assert_eq!(timeout(LONG, far_recv.recv()).await.unwrap().unwrap().unwrap(), &b"late"[..]);
    }
}

#[tokio::test]
async fn words_that_come_behind_a_refusal_confuse_nobody() {
    for Pair { lanes, hbone, mut server } in Pair::both().await {
        for status in [Status::Denied, Status::Unavailable, Status::Denied] {
            let mut client = Client::now(b"in vain");
            let asking = Pair::ask(&lanes, &hbone, &mut client, LONG);
            let (opened, ()) = tokio::join!(asking, async {
                server.accept().await.unwrap().unwrap().refuse(status);
                // What the driver has to do for the answer to leave.
                let _ = timeout(Duration::from_millis(20), server.accept()).await;
            });
            assert_eq!(opened.map(drop), Err(OpenError::Refused { status: status.code() }));
        }
        let mut client = Client::now(b"heard");
        let asking = Pair::ask(&lanes, &hbone, &mut client, LONG);
        let (opened, (_far_send, mut far_recv)) = tokio::join!(asking, async {
            let far = server.accept().await.unwrap().unwrap().accept(None).unwrap().split();
            tokio::spawn(async move { server.accept().await.map(drop) });
            far
        });
        assert_eq!(opened.unwrap().0.early, 5);
        assert_eq!(timeout(LONG, far_recv.recv()).await.unwrap().unwrap().unwrap(), &b"heard"[..]);
    }
}

#[tokio::test]
async fn who_may_have_been_heard_does_not_say_it_again_and_who_was_not_may() {
    for (words, sent) in [(&b"charge the card"[..], true), (b"", false)] {
        for Pair { lanes, hbone, mut server } in Pair::both().await {
            let mut client = Client::now(words);
            let asking = Pair::ask(&lanes, &hbone, &mut client, LONG);
            let (opened, ()) = tokio::join!(asking, async {
                let request = server.accept().await.unwrap().unwrap();
                let _ = timeout(Duration::from_millis(20), server.accept()).await;
                // The peer goes without a word, as with a process that is killed.
                drop((request, server));
            });
            let error = opened.map(drop).unwrap_err();
            assert_eq!(matches!(error, OpenError::Unanswered(_)), sent, "{error}");

            let [lane, shared] = Pair::both().await;
            let Pair { lanes, hbone, mut server } = if hbone.is_some() { shared } else { lane };
            let mut client = Client::now(words);
            let asking = Pair::ask(&lanes, &hbone, &mut client, LONG);
            let (opened, ()) = tokio::join!(asking, async {
                server.accept().await.unwrap().unwrap().decline();
                let _ = timeout(Duration::from_millis(20), server.accept()).await;
            });
            assert_eq!(opened.map(drop), Err(OpenError::GoAway), "the peer says that it has not looked");
        }
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_leaves_it_open_whether_the_words_were_heard() {
    for Pair { lanes, hbone, server: _server } in Pair::both().await {
        let limit = Duration::from_millis(50);
        let opened = Pair::ask(&lanes, &hbone, &mut Client::now(b"charge the card"), limit).await;
        assert_eq!(opened.map(drop), Err(OpenError::Unanswered(Box::new(OpenError::Timeout(limit)))));
    }
}

/// Speaks when the other end has gone.
struct IntoTheVoid {
    leave: Option<mpsc::Sender<()>>,
    asked: bool,
}

impl Early for IntoTheVoid {
    fn poll_said(&mut self, cx: &mut Context<'_>) -> Poll<&[u8]> {
        if !std::mem::replace(&mut self.asked, true) {
            // The question goes first.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(leave) = self.leave.take() {
            leave.send(()).unwrap();
            // Nothing of this end goes on meanwhile: it has not read that the peer is leaving when it finds that it is gone.
            std::thread::sleep(Duration::from_millis(200));
        }
        Poll::Ready(b"charge the card")
    }
}

/// A server that leaves when it is told to, on a thread of its own; whether it was asked for something.
fn leaves(
    listener: std::net::TcpListener,
    own: Credentials,
    alpn: &'static [u8],
    told: mpsc::Receiver<()>,
) -> JoinHandle<bool> {
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            listener.set_nonblocking(true).unwrap();
            let (accepted, _) = TcpListener::from_std(listener).unwrap().accept().await.unwrap();
            let domains = TrustDomains::only("cluster.local");
            let server = tls::accept(accepted, &own, &domains, &[alpn], LONG).await.unwrap();
            let mut server = server::Connection::handshake(server, &Config::default()).await.unwrap();
            told.recv().unwrap();
            server.drain();
            server.accept().await.is_some()
        })
    })
}

#[tokio::test]
async fn that_a_peer_has_left_is_heard_also_by_who_finds_it_gone_while_speaking() {
    for alpn in [ALPN_WEFT, ALPN_H2] {
        let mesh = Mesh::new();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (leave, told) = mpsc::channel();
        let leaving = leaves(listener, mesh.db.clone(), alpn, told);
        let client = tls::connect(dialled, &mesh.web, &[id("db")], &[alpn], LONG).await.unwrap();
        let mut words = IntoTheVoid { leave: Some(leave), asked: false };
        let (head, words) = (Head::to("10.0.0.1:80"), Some(&mut words as &mut dyn Early));
        let opened = match client::begin(client, &Config::default()) {
            Tunnel::Lane(lane) => lane.open(&head, LONG, words, Arc::new(Free::default())).await,
            Tunnel::Shared(connection, driver) => {
                let mut driver = std::pin::pin!(driver);
                // Until both have greeted.
                let _ = timeout(Duration::from_millis(50), &mut driver).await;
                // One task, so that neither goes on while the other stands still.
                tokio::join!(connection.open(&head, LONG, words), driver).0
            }
        };
        assert_eq!(opened.map(drop), Err(OpenError::GoAway));
        assert!(!leaving.join().unwrap(), "it has looked at no question");
    }
}
